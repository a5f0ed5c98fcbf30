import re

import numpy as np
import pytest

from distilbert_tf.data.tasks import TASKS, Task, get_task

SST2, MNLI, QQP = TASKS["sst2"], TASKS["mnli"], TASKS["qqp"]
VALID = {
    "name": "own",
    "text_columns": ("text",),
    "label_columns": ("label",),
    "labels": ("no", "yes"),
}


def test_a_task_has_the_names_of_glue_and_of_the_hub() -> None:
    assert MNLI.names_of("sentence2") == ("sentence2", "hypothesis")
    assert [task.is_pair for task in TASKS.values()] == [False, True, True]
    assert [task.metrics for task in (SST2, QQP)] == [("accuracy",), ("accuracy", "f1")]


def test_a_task_of_ones_own_passes_through() -> None:
    own = Task("tickets", ("subject", "body"), ("queue",), ("billing", "network", "other"))
    assert get_task(own) is own
    assert own.label_values == own.labels
    assert own.id2label == {0: "billing", 1: "network", 2: "other"}
    assert own.names_of("body") == ("body",)
    assert own.splits == SST2.splits


def test_a_splits_only_file_may_be_a_plain_string() -> None:
    own = Task(**VALID, splits={"train": "tickets", "validation": ["held_out", "dev"]})
    assert own.splits == {"train": ("tickets",), "validation": ("held_out", "dev")}


def test_a_single_column_or_metric_may_be_a_plain_string() -> None:
    own = Task("own", "subject", "queue", ["a", "b"], metrics="f1")
    assert own == Task("own", ("subject",), ("queue",), ("a", "b"), metrics=("f1",))


def test_labels_given_as_integers_are_their_digits() -> None:
    stars = Task(**VALID | {"labels": (1, np.int64(2), 3)})
    assert stars == Task(**VALID | {"labels": ("1", "2", "3")})
    assert stars.label_id(1) == stars.label_id("1") == 0  # the label 1, not the second one


def test_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no task 'sst3'; known are sst2, mnli, qqp"):
        get_task("sst3")


@pytest.mark.parametrize(
    ("task", "value", "expected"),
    [
        (SST2, "1", 1),
        (SST2, 1, 1),
        (SST2, np.int64(0), 0),
        (SST2, "positive", 1),
        (MNLI, "contradiction", 2),
        (MNLI, 2, 2),
        (MNLI, "2", 2),
        (QQP, "not_duplicate", 0),
        (QQP, "0", 0),
    ],
)
def test_labels_are_known_in_all_their_forms(task: Task, value: object, expected: int) -> None:
    assert task.label_id(value) == expected


@pytest.mark.parametrize(
    "value",
    ["Neutral", " neutral", "neutral ", "3", 3, -1, "-1", "00", "", "-", None, True, 1.0, b"1"],
)
def test_labels_are_matched_exactly(value: object) -> None:
    message = f"the label {value!r} is none of entailment, neutral, contradiction, 0, 1, 2"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MNLI.label_id(value)


def test_labels_that_are_numbers_are_never_taken_for_ids() -> None:
    stars = Task("stars", ("review",), ("stars",), ("1", "2", "3"))
    assert [stars.label_id(value) for value in ("1", 1, "3", 3)] == [0, 0, 2, 2]
    with pytest.raises(ValueError, match="the label 0 is none of 1, 2, 3"):
        stars.label_id(0)
    mood = Task("mood", ("text",), ("mood",), ("sad", "glad"), ("-1", "1"))
    assert [mood.label_id(value) for value in (-1, "-1", 1, "sad")] == [0, 0, 1, 0]
    with pytest.raises(ValueError, match="the label '0' is none of sad, glad, -1, 1"):
        mood.label_id("0")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_columns": ()}, "one text column or two"),
        ({"text_columns": ("a", "b", "c")}, "one text column or two"),
        ({"text_columns": (1,)}, "has a column 1; names of columns are strings"),
        ({"labels": "ab"}, "has labels='ab', one string; give a tuple with a string for each"),
        ({"label_values": "01"}, "has label_values='01', one string; give a tuple"),
        ({"labels": ("a", None)}, r"label 1 is a NoneType, None: write it as a string"),
        ({"labels": (0.5, 1.5)}, r"label 0 is a float, 0\.5: write it as a string"),
        ({"labels": (False, True)}, r"label 0 is a bool, False: write it as a string"),
        ({"labels": ("only",)}, "two or more different labels"),
        ({"labels": ("same", "same")}, "two or more different labels"),
        ({"label_values": ("0", "1", "2")}, "has 2 labels, but 3 label_values"),
        ({"label_values": ("0", "0")}, "reads '0' as label 1 and as label 0"),
        ({"label_values": ("yes", "no")}, "reads 'no' as label 1 and as label 0"),
        ({"splits": {"train": ()}}, "names no file for the split 'train'"),
        ({"aliases": {"body": "txt"}}, "an alias for 'txt', which is not one of its text"),
        ({"metrics": ()}, "needs metrics out of accuracy, f1, macro_f1, matthews_correlation"),
        ({"metrics": ("accuracy", "auc")}, r"got \('accuracy', 'auc'\)"),
        ({"labels": ("a", "b", "c"), "metrics": ("f1",)}, "has 3 labels, .* 'macro_f1' is for"),
        (
            {"submission": {"exam": "own.tsv"}},
            "a submission file for 'exam', which is not one of its splits",
        ),
    ],
)
def test_impossible_tasks_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"Task 'own' .*{message}"):
        Task(**{**VALID, **fields})
