"""Validation splits that are held out of the training data."""

from collections import Counter
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_files import write_csv

from distilbert_tf.data.examples import Examples, load_examples
from distilbert_tf.data.file_formats import DataError
from distilbert_tf.data.splits import load_split, load_training_splits, split_examples
from distilbert_tf.data.tasks import Task

MOOD = Task("mood", ("remark",), ("mood",), ("gloomy", "even", "merry"), validation_share=0.2)
ROWS = [{"remark": f"remark {i}", "mood": MOOD.labels[i % 7 % 3], "id": i} for i in range(70)]


def examples_of(labels: list[int]) -> Examples:
    ids = tuple(map(str, range(len(labels))))
    texts = tuple(f"text {i}" for i in range(len(labels)))
    return Examples((texts,), np.array(labels, np.int32), ids)


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=60),
    st.floats(0.01, 0.99),
    st.integers(0, 2**40),
)
@settings(max_examples=200, deadline=None)
def test_any_labels_are_held_out_in_their_shares(
    labels: list[int], share: float, seed: int
) -> None:
    examples, counts = examples_of(labels), Counter(labels)
    if max(counts.values()) == 1:
        with pytest.raises(ValueError, match="too few to hold some out"):
            split_examples(examples, share, seed)
        return
    rest, held = split_examples(examples, share, seed)
    assert sorted([*rest.ids, *held.ids], key=int) == list(examples.ids)
    for part in (rest, held):
        assert list(part.ids) == sorted(part.ids, key=int)
        rows = list(map(int, part.ids))
        assert part.labels.tolist() == [labels[row] for row in rows]
        assert part.texts == (tuple(f"text {row}" for row in rows),)
    found = Counter(held.labels.tolist())
    for label, count in counts.items():
        assert count - found[label] >= 1
        # One more than its share at most: what other labels are too rare to hold out.
        assert abs(found[label] - count * share) <= 1 or found[label] == count - 1
    if all(found[label] < count - 1 for label, count in counts.items()):
        assert len(held) == max(1, round(len(labels) * share))
    again = split_examples(examples, share, seed)[1]
    assert again.ids == held.ids


def test_the_rows_are_chosen_by_their_texts_whatever_their_order() -> None:
    examples = examples_of([0, 1] * 40)
    held = split_examples(examples, 0.1)[1]
    order = np.random.default_rng(2).permutation(80).tolist()
    assert set(split_examples(examples.select(order), 0.1)[1].ids) == set(held.ids)
    # A checkpoint records no more than share and seed, from which any release finds the same.
    keys = {row: blake2b(b"42\0text %d" % row, digest_size=8).digest() for row in range(80)}
    lowest = [sorted(range(label, 80, 2), key=keys.__getitem__)[:4] for label in (0, 1)]
    assert list(map(int, held.ids)) == sorted(lowest[0] + lowest[1])
    assert set(split_examples(examples, 0.1, seed=1)[1].ids) != set(held.ids)


def test_a_directory_without_validation_data(tmp_path: Path, caplog) -> None:
    write_csv(tmp_path / "train.csv", ROWS)
    found = load_training_splits(MOOD, tmp_path)
    assert list(found) == ["train", "validation"]
    assert [len(part) for part in found.values()] == [56, 14]
    assert Counter(found["validation"].labels.tolist()) == {0: 6, 1: 4, 2: 4}
    assert all(part.files == (tmp_path / "train.csv",) for part in found.values())
    assert len(load_examples(MOOD, tmp_path, "train")) == 70
    for split, part in found.items():
        assert load_split(MOOD, tmp_path, split).ids == part.ids
    with pytest.raises(FileNotFoundError, match="Looked for the test split of mood"):
        load_split(MOOD, tmp_path, "test")


def test_validation_data_that_is_there_is_taken(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", ROWS)
    write_csv(tmp_path / "val.csv", ROWS[:3])
    found = load_training_splits(MOOD, tmp_path)
    assert [len(part) for part in found.values()] == [70, 3]
    assert len(load_split(MOOD, tmp_path, "train")) == 70


@pytest.mark.parametrize(
    ("columns", "is_scored"),
    [
        ({"remark": ["a", "b"], "mood": ["even", "merry"]}, True),
        ({"remark": ["a", "b"]}, False),
        ({"remark": ["a", "b"], "mood": ["", ""]}, False),
        ({"remark": ["a", "b"], "mood": [-1, -1]}, False),
        ({"remark": ["a", "b"], "mood": [None, None]}, False),
    ],
)
def test_test_splits_are_read_if_they_have_labels(columns: dict, is_scored: bool) -> None:
    found = load_training_splits(MOOD, {"train": ROWS, "test": columns})
    assert ("test" in found) == is_scored
    if is_scored:
        assert found["test"].labels.tolist() == [1, 2]


def test_a_label_of_minus_one_is_a_label_if_the_task_has_it() -> None:
    task = Task("tone", ("remark",), ("mood",), ("-1", "0", "1"))
    rows = {"remark": ["a", "b", "c"], "mood": [-1, 1, 0]}
    assert load_training_splits(task, {"train": ROWS_OF_TONES, "test": rows})[
        "test"
    ].labels.tolist() == [0, 2, 1]


ROWS_OF_TONES = [{"remark": f"remark {i}", "mood": i % 3 - 1} for i in range(30)]


def test_a_test_split_with_a_label_that_is_wrong_is_refused() -> None:
    rows = {"remark": ["a", "b"], "mood": ["even", "sad"]}
    with pytest.raises(DataError, match="index 1: column 'mood': the label 'sad' is none of"):
        load_training_splits(MOOD, {"train": ROWS, "test": rows})


def test_a_single_table_is_the_training_data_of_a_training_and_all_of_a_scoring() -> None:
    found = load_training_splits(MOOD, ROWS)
    assert [len(part) for part in found.values()] == [56, 14]
    assert len(load_split(MOOD, ROWS, "validation")) == 70
    assert load_split(MOOD, {"train": ROWS}, "validation").ids == found["validation"].ids
