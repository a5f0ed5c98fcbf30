import pytest

from distilbert_tf.tasks import TASKS, Task, get_task


def test_glue_tasks_have_their_columns_and_labels() -> None:
    assert TASKS["sst2"].labels == ("negative", "positive")
    assert TASKS["mnli"].text_columns == ("sentence1", "sentence2")
    assert TASKS["mnli"].labels == ("entailment", "neutral", "contradiction")
    assert TASKS["qqp"].label_values == ("0", "1")
    assert [task.is_pair for task in TASKS.values()] == [False, True, True]


def test_a_task_of_ones_own_passes_through() -> None:
    own = Task("tickets", ("subject", "body"), ("queue",), ("billing", "network", "other"))
    assert get_task(own) is own
    assert own.label_values == own.labels
    assert own.id2label == {0: "billing", 1: "network", 2: "other"}


def test_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no task 'sst3'; known are sst2, mnli, qqp"):
        get_task("sst3")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_columns": ()}, "one text column or two"),
        ({"text_columns": ("a", "b", "c")}, "one text column or two"),
        ({"labels": ("only",)}, "two or more different labels"),
        ({"labels": ("same", "same")}, "two or more different labels"),
        ({"label_values": ("0", "1", "2")}, "has 2 labels, but 3 label_values"),
    ],
)
def test_impossible_tasks_are_refused(fields: dict, message: str) -> None:
    valid = {
        "name": "own",
        "text_columns": ("text",),
        "label_columns": ("label",),
        "labels": ("no", "yes"),
    }
    with pytest.raises(ValueError, match=message):
        Task(**{**valid, **fields})
