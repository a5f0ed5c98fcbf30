"""Classification tasks as data: which columns hold the text, which labels there are."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Task:
    """A text classification task; a task of one's own is one more `Task(...)`.

    Attributes:
        name: What the command line calls it.
        text_columns: The column of the text, or the two columns of a pair.
        label_columns: Names that the label's column goes by; the first one present is taken.
        labels: Label names in order of their ids.
        label_values: How each label stands in the files, in the same order; `labels`
            themselves if not given.
        splits: File of each split, without its ending.
        folder: GLUE's own name for the task's directory.
    """

    name: str
    text_columns: tuple[str, ...]
    label_columns: tuple[str, ...]
    labels: tuple[str, ...]
    label_values: tuple[str, ...] = ()
    splits: dict[str, str] = field(default_factory=lambda: {"train": "train", "validation": "dev"})
    folder: str = ""

    def __post_init__(self) -> None:
        if len(self.text_columns) not in (1, 2):
            raise ValueError(
                f"Task {self.name!r} needs one text column or two; got {self.text_columns}."
            )
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ValueError(
                f"Task {self.name!r} needs two or more different labels; got {self.labels}."
            )
        if not self.label_values:
            object.__setattr__(self, "label_values", self.labels)
        if len(self.label_values) != len(self.labels):
            raise ValueError(
                f"Task {self.name!r} has {len(self.labels)} labels, but "
                f"{len(self.label_values)} label_values."
            )

    @property
    def is_pair(self) -> bool:
        """Whether an example is two texts."""
        return len(self.text_columns) == 2

    @property
    def id2label(self) -> dict[int, str]:
        """Label names by id, as a configuration holds them."""
        return dict(enumerate(self.labels))


TASKS = {
    task.name: task
    for task in (
        Task(
            name="sst2",
            text_columns=("sentence",),
            label_columns=("label",),
            labels=("negative", "positive"),
            label_values=("0", "1"),
            folder="SST-2",
        ),
        Task(
            name="mnli",
            text_columns=("sentence1", "sentence2"),
            label_columns=("gold_label", "label"),
            labels=("entailment", "neutral", "contradiction"),
            splits={
                "train": "train",
                "validation": "dev_matched",
                "validation_mismatched": "dev_mismatched",
            },
            folder="MNLI",
        ),
        Task(
            name="qqp",
            text_columns=("question1", "question2"),
            label_columns=("is_duplicate",),
            labels=("not_duplicate", "duplicate"),
            label_values=("0", "1"),
            folder="QQP",
        ),
    )
}


def get_task(task: str | Task) -> Task:
    """Looks up a task by name; a `Task` is given back as it is.

    Raises:
        ValueError: No task of that name.
    """
    if isinstance(task, Task):
        return task
    if task not in TASKS:
        raise ValueError(f"There is no task {task!r}; known are {', '.join(TASKS)}.")
    return TASKS[task]
