"""Fine-tuning classifiers, from files to saved checkpoints and their record."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from distilbert_tf.data.places import describe_place
from distilbert_tf.data.tasks import Task
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.training.callbacks import format_duration
from distilbert_tf.training.classifier_training import (
    choose_teacher,
    load_splits,
    parse_tasks,
    set_up_finetuning,
)
from distilbert_tf.training.evaluation import Scores
from distilbert_tf.training.options import read_finetune_options
from distilbert_tf.training.report import describe_data, write_results
from distilbert_tf.training.run import end_run, find_state, run_training
from distilbert_tf.training.run_directory import VALIDATION, RunDirectory, default_output_dir
from distilbert_tf.training.strategy import is_chief


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """The result of `finetune`.

    Attributes:
        classifiers: The classifier of each task, with the best evaluation's weights.
        tokenizer: Their tokenizer.
        output_dir: Where all is saved.
        scores: By task and split.
        run: The run's record, as in `run.json`.
        history: For each metric of an epoch its values, epoch by epoch.
    """

    classifiers: dict[str, TFDistilBertForSequenceClassification]
    tokenizer: DistilBertTokenizer
    output_dir: Path
    scores: dict[str, dict[str, Scores]]
    run: dict[str, Any]
    history: dict[str, list[float]]

    @property
    def model(self) -> TFDistilBertForSequenceClassification:
        """The classifier of a run on one task; of several, that of the first."""
        return next(iter(self.classifiers.values()))

    @property
    def metrics(self) -> dict[str, float]:
        """Loss and metrics on the validation split, of the first task."""
        return next(iter(self.scores.values()))[VALIDATION].values

    def report(self) -> str:
        """Returns the figures as a few lines for people."""
        run, lines = self.run, []
        for task, by_split in self.scores.items():
            before = run["scores_before"][task]
            for split, found in by_split.items():
                shown = ", ".join(
                    f"{name} {value:.4f}"
                    + (f" (before: {before[name]:.4f})" if split == VALIDATION else "")
                    for name, value in found.values.items()
                )
                lines.append(f"{task}, {split}, {found.rows:,} rows: {shown}")
        best = run["best"]
        if run["teacher"]:
            lines.append(f"teacher: {run['teacher']['checkpoint']}")
        return "\n".join(
            [
                *lines,
                f"kept: epoch {best['epoch']} of {run['options']['epochs']}, step "
                f"{best['step']:,} of {run['total_steps']:,}",
                f"{format_duration(run['train_time_s'])}, {run['examples_per_s']:.1f} examples/s, "
                f"peak memory {run['peak_memory_mib']:.0f} MiB",
                f"saved in {self.output_dir}",
            ]
        )


def finetune(
    task: str | Task | Sequence[str | Task] = "sst2",
    model: str | Path = "demo",
    data: Any = "demo",
    output_dir: str | Path | None = None,
    *,
    teacher: str | Path | None = None,
    overwrite: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **options: Any,
) -> FinetuneResult:
    """Fine-tunes a classifier for each task on one encoder, and keeps the best evaluation's.

    Called again with the same arguments after an interruption of any kind, it resumes the run from
    its last saved state, and ends with the same weights as if nothing had happened.

    With a teacher, the loss of a row is `distill_alpha` times the KL divergence of the classifier's
    distribution from the teacher's, both softened by `distill_temperature`, times the square of
    that, plus 1 - `distill_alpha` times the cross-entropy of the label (Hinton et al., "Distilling
    the Knowledge in a Neural Network", arXiv 1503.02531). The teacher computes its logits of every
    row once, before the training.

    Args:
        task: A task, its name, or a JSON file of it (see `get_task`); or several of them, which are
            then trained together. A task without labels gets those that the training data has.
        model: Checkpoint to start from: directory, hub name or `"demo"`. Of a classifier for the
            task's labels the head is kept.
        data: Directory with the tasks' files, `"hub"` or `"demo"`; a file or a table of training
            rows (such as a data frame), or a dict of these with a key for each split: see
            `load_examples`. For several tasks, it may be a dict of such by task. Without validation
            data, a share of the training rows is held out: see `split_examples`.
        output_dir: Where the result goes; `runs/<task>` if not given. Of several tasks, each has a
            directory of its own in it. There are the checkpoint and its tokenizer, `run.json`,
            `metrics.json`, learning curves, confusion matrices and a model card; TensorBoard's
            logs; and, until the run ends, its state.
        teacher: A fine-tuned classifier of any depth and width, with the same tokenizer and the
            task's labels in any order: directory or hub name. For several tasks, the directory of
            a run on them, or any with a subdirectory for each.
        overwrite: Whether `output_dir` may hold another result already. An interrupted run with
            the same arguments is resumed all the same.
        callbacks: More Keras callbacks. When a run is resumed, they are called for the steps of the
            epoch that were taken before, too, with empty logs.
        **options: See `FinetuneOptions`.

    Returns:
        The tuned classifiers and the figures of the run. Under a multi-worker strategy, all workers
        get it, and the chief writes the files.

    Raises:
        CheckpointError: The checkpoint has a head for other labels, or the teacher has other labels
            or no head; or all states are damaged.
        DataError: A file is not as a task needs it.
        FileExistsError: `output_dir` holds another result and `overwrite` is false.
        FileNotFoundError: No such checkpoint or data.
        InterruptedRunError: SIGTERM or SIGINT came; the state is saved.
        TrainingDivergedError: The gradients became infinite or NaN.
        ValueError: A bad argument, file or checkpoint.

    Example:
        finetune("sst2", "distilbert-base-uncased", "DIR", "OUT", epochs=3).metrics
        finetune("sst2", "STUDENT", "DIR", "SMALL", teacher="OUT", distill_alpha=0.9).metrics
    """
    settings = read_finetune_options(options)
    tasks = parse_tasks(task)
    names = tuple(one.name for one in tasks)
    output_dir = default_output_dir(",".join(names)) if output_dir is None else Path(output_dir)
    directory = RunDirectory(output_dir, names)
    for checkpoint in (model, *(() if teacher is None else (teacher,))):
        directory.check(checkpoint, overwrite=overwrite)
    tasks, splits = load_splits(tasks, data, settings)
    found_teacher = choose_teacher(teacher, tasks, settings)
    identity = {
        "tasks": list(names),
        "task_records": [one.record() for one in tasks],
        "model": str(model),
        "teacher": found_teacher and found_teacher.record(),
        "options": settings.recipe(),
        "data_files": describe_data(splits),
    }
    state = find_state(directory, identity, settings, overwrite=overwrite)
    training = set_up_finetuning(tasks, model, splits, settings, found_teacher)
    progress, record = run_training(
        training,
        directory,
        identity,
        state,
        overwrite=overwrite,
        about={"data": describe_place(data)},
        callbacks=callbacks,
    )
    scores: dict[str, dict[str, Scores]] = {name: {} for name in names}
    for split in training.evaluation_splits:
        for name, found in training.score_split(split).items():
            scores[name][split] = found
    strategy = training.model.distribute_strategy
    if is_chief(strategy):
        write_results(directory, tasks, scores, progress, record)
    end_run(directory, strategy)
    history: dict[str, list[float]] = {}
    for epoch in progress.epochs:
        for key, value in epoch.items():
            history.setdefault(key, []).append(value)
    classifiers = dict(training.model.pretrained_models())
    return FinetuneResult(classifiers, training.tokenizer, output_dir, scores, record, history)
