from pathlib import Path

import numpy as np
import pytest

from distilbert_tf.data.examples import load_examples
from distilbert_tf.data.submission import write_submission
from distilbert_tf.data.tasks import TASKS, Task

SST2, MNLI, QQP = TASKS["sst2"], TASKS["mnli"], TASKS["qqp"]


def test_labels_stand_as_glue_has_them(tmp_path: Path) -> None:
    ids, predictions = ("0", "1", "7"), np.array([1, 0, 1])
    for task, split, name, words in (
        (SST2, "test", "SST-2.tsv", ("1", "0", "1")),
        (QQP, "test", "QQP.tsv", ("1", "0", "1")),
        (MNLI, "test", "MNLI-m.tsv", ("neutral", "entailment", "neutral")),
        (MNLI, "test_mismatched", "MNLI-mm.tsv", ("neutral", "entailment", "neutral")),
    ):
        path = write_submission(task, split, ids, predictions, tmp_path / "new" / "directory")
        assert path == tmp_path / "new" / "directory" / name
        rows = [f"{row}\t{word}" for row, word in zip(ids, words, strict=True)]
        assert path.read_bytes().decode() == "\n".join(["index\tprediction", *rows, ""])


def test_rows_without_ids_are_numbered_from_0(tmp_path: Path) -> None:
    path = write_submission(SST2, "test", None, [1, 0], tmp_path)
    assert path.read_text() == "index\tprediction\n0\t1\n1\t0\n"


def test_ids_come_from_the_test_split(tmp_path: Path) -> None:
    lines = "index\tsentence\n10\tA tidy room with a squeaky fan.\n4\tNever again.\n"
    (tmp_path / "test.tsv").write_text(lines)
    examples = load_examples(SST2, tmp_path, "test", labelled=False)
    path = write_submission(SST2, "test", examples.ids, [1, 0], tmp_path)
    assert path.read_text() == "index\tprediction\n10\t1\n4\t0\n"


@pytest.mark.parametrize(
    ("split", "ids", "predictions", "message"),
    [
        ("validation", None, [0], "no submission file for the split 'validation'; .*: test, test_"),
        ("test", ("0",), [0, 1], "There are 1 ids, but 2 predictions"),
        ("test", None, [0, 2, 3], "Prediction 2 is 3, but 'mnli' has the label ids 0 to 2"),
        ("test", None, [-1], "Prediction 0 is -1"),
        ("test", None, [0.0, 1.0], r"must be label ids, integers \(N,\); got float64 \(2,\)"),
        ("test", None, [[0, 1]], r"got int64 \(1, 2\)"),
        ("test", ("3", "5", "3"), [0, 1, 2], "The id '3' is repeated"),
        ("test", ("a\tb",), [0], r"The id 'a\\tb' contains a tab"),
    ],
)
def test_what_cannot_be_submitted_is_refused(
    tmp_path: Path, split: str, ids: tuple | None, predictions: list, message: str
) -> None:
    earlier = write_submission(MNLI, "test", None, [2], tmp_path)
    with pytest.raises(ValueError, match=message):
        write_submission(MNLI, split, ids, predictions, tmp_path)
    assert earlier.read_text() == "index\tprediction\n0\tcontradiction\n"
    assert list(tmp_path.iterdir()) == [earlier]


def test_a_task_without_a_test_split_says_so(tmp_path: Path) -> None:
    own = Task("own", ("text",), ("label",), ("no", "yes"), splits={"train": "train"})
    with pytest.raises(ValueError, match="it has one for: none"):
        write_submission(own, "test", None, [0], tmp_path)
