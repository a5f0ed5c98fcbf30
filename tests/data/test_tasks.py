import json
import re
from pathlib import Path

import numpy as np
import pytest

from distilbert_tf.data.labels import choose_labels
from distilbert_tf.data.tasks import TASKS, Task, get_task, read_task

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
    with pytest.raises(
        ValueError, match=r"no task 'sst3'; known are sst2, mnli, qqp \(did you mean 'sst2'\?\)\. "
    ):
        get_task("sst3")


def test_a_task_comes_back_from_its_record(tmp_path: Path) -> None:
    own = Task(
        "tickets", ("subject", "body"), ("queue", "team"), ("billing", "network"), ("b", "n"),
        splits={"train": "2023"}, metrics=("macro_f1",), validation_share=0.25,
        aliases={"title": "subject"}, quoted_tsv=True,
    )  # fmt: skip
    for task in (own, *TASKS.values(), Task("bare", ("text",), ("label",))):
        assert read_task(json.loads(json.dumps(task.record())), "here") == task
    bare = {"text_columns": ["text"], "label_columns": ["label"]}
    (tmp_path / "bare.json").write_text(json.dumps(bare))
    assert get_task(str(tmp_path / "bare.json")) == Task("bare", ("text",), ("label",))
    assert Task("bare", ("text",), ("label",)).record() == {"name": "bare", **bare, "labels": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text_columns": ["a"], "label_column": ["b"]}', "'label_column' .*mean 'label_columns'"),
        ('{"text_columns": ["a"]}', "has no label_columns, which a task needs"),
        ('{"text_columns": ["a", "b", "c"], "label_columns": ["d"]}', "one text column or two"),
        ("[]", "is not a JSON object but list"),
        ("{", "is not a JSON file: "),
    ],
)
def test_files_that_hold_no_task_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "task.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        get_task(str(path))
    with pytest.raises(FileNotFoundError, match=r"no task file .*other\.json"):
        get_task(str(tmp_path / "other.json"))


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["b", "a", "b", "", None], ("a", "b")),
        (["10", "9", 1, "-1"], ("-1", "1", "9", "10")),
        (["1.0", 0.0, "1", 2], ("0", "1", "2")),
        ([1.0, 1.5], ("1.0", "1.5")),
        (["01", "02"], ("01", "02")),
        ([True, False, True], ("False", "True")),
        ([float("nan"), "x", "y"], ("x", "y")),
    ],
)
def test_labels_are_found_in_a_column(values: list, labels: tuple[str, ...]) -> None:
    assert choose_labels(enumerate(values)) == labels
    found = Task("own", ("text",), ("label",), labels)
    for value in values:
        if value not in ("", None) and value == value:
            assert found.labels[found.label_id(value)] in (str(value), str(value).split(".")[0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["x", "x"], "has 'x' as its only label"),
        (["", None], "has no labels"),
        (
            ["Billing", "network", "billing"],
            r"'Billing' \(first in 0\) and 'billing' \(first in 2\)",
        ),
        (["a", "b ", "c"], r"blanks around the label 'b ' \(first in 1\): did you mean 'b'\?"),
        (list(map(str, range(30))), "has 30 different values in 30 rows, .*the problem_type 'regr"),
        (["a", "b", "b; a"], r"has the labels 'b; a' together \(first in 2\): .*'multi_label_cl"),
        (["a", ["a", "b"]], r"several labels in a row \(first in 1\), which is .*'multi_label_cl"),
    ],
)
def test_columns_that_hold_no_labels_are_refused(values: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_labels(enumerate(values))


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


@pytest.mark.parametrize("value", ["Neutral", " neutral", "neutral ", "netural"])
def test_labels_that_are_almost_right_are_named(value: str) -> None:
    message = "contradiction, 0, 1, 2 (did you mean 'neutral'?)"
    with pytest.raises(ValueError, match=f"^the label '{value}' is .*{re.escape(message)}$"):
        MNLI.label_id(value)


@pytest.mark.parametrize(("value", "expected"), [(1.0, 1), ("1.0", 1), ("2.00", 2), (0.0, 0)])
def test_integers_may_be_written_as_floats(value: object, expected: int) -> None:
    assert MNLI.label_id(value) == expected
    halves = Task("halves", ("text",), ("stars",), ("1.0", "1.5", "2.0"))
    assert halves.label_id("1.0") == halves.label_id(1.0) == 0
    assert halves.label_id(1.5) == 1


@pytest.mark.parametrize(
    "value", ["3", 3, -1, "-1", "00", "", "-", None, True, 1.5, "1.5", float("nan"), b"1"]
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
        ({"validation_share": 1.0}, "a validation_share between 0 and 1; got 1.0"),
        ({"metrics": ("pearson",)}, "needs metrics out of accuracy, f1, macro_f1, matthews_corr"),
        ({"problem_type": "ranking"}, "which is none of single_label_classification, multi_lab"),
        ({"problem_type": "regression"}, "is a regression, which has one column and label; got"),
        (
            {"problem_type": "multi_label_classification", "label_columns": ("a", "b", "c")},
            "has 2 labels, but a column for each of a, b, c",
        ),
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
