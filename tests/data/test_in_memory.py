"""Tables in memory: data frames, datasets, dicts and lists."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from table_files import write_csv

from distilbert_tf.data.examples import Examples, find_labels, load_examples
from distilbert_tf.data.file_formats import DataError
from distilbert_tf.data.tasks import Task

TICKETS = Task("tickets", ("subject", "body"), ("queue",), ("billing", "network"))
BARE = Task("tickets", ("subject", "body"), ("queue",))
ROWS: list[dict[str, Any]] = [
    {"queue": "network", "subject": "No line", "body": "It blinks.", "id": 7},
    {"queue": "billing", "subject": "Refund", "body": "", "id": 9},
    {"queue": "network", "subject": "Café", "body": 'Says "hi".', "id": 11},
]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
TABLES: dict[str, Callable[[], Any]] = {
    "pandas": lambda: pd.DataFrame(ROWS),
    "pandas, no strings": lambda: pd.DataFrame(ROWS, dtype=object),
    "pandas, categories": lambda: pd.DataFrame(ROWS).astype({"queue": "category"}),
    "datasets": lambda: datasets.Dataset.from_list(ROWS),
    "datasets, a stream": lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    "pyarrow": lambda: pa.Table.from_pylist(ROWS),
    "columns": lambda: COLUMNS,
    "columns of arrays": lambda: {name: np.array(values) for name, values in COLUMNS.items()},
    "rows": lambda: ROWS,
    "a tuple of rows": lambda: tuple(ROWS),
}


def texts(data: Any, split: str = "train") -> tuple[str, ...]:
    return load_examples(TICKETS, data, split).texts[0]


@pytest.mark.parametrize("name", TABLES)
def test_every_table_gives_the_same_examples(name: str) -> None:
    table = TABLES[name]()
    examples = load_examples(TICKETS, table, "train")
    assert examples.texts == (("No line", "Refund", "Café"), ("It blinks.", "", 'Says "hi".'))
    assert examples.labels.tolist() == [1, 0, 1]
    assert examples.labels.dtype == np.int32
    assert examples.ids == ("7", "9", "11")
    assert examples.files == ()
    assert find_labels(BARE, table) == TICKETS


def test_filtered_tables_have_the_rows_that_are_left() -> None:
    frame = pd.DataFrame(ROWS)
    assert texts(frame[frame.queue == "network"].sort_values("id", ascending=False)) == (
        "Café", "No line",
    )  # fmt: skip
    dataset = datasets.Dataset.from_list(ROWS)
    assert texts(dataset.filter(lambda row: row["id"] > 7).select([1, 0])) == ("Café", "Refund")


def test_splits_by_name_whatever_they_are(tmp_path: Path) -> None:
    write_csv(tmp_path / "any name.csv", ROWS[1:2])
    mixed = {"train": pd.DataFrame(ROWS), "val": ROWS[:1], "test": tmp_path / "any name.csv"}
    assert texts(mixed) == ("No line", "Refund", "Café")
    assert texts(mixed, "validation") == ("No line",)
    assert texts(mixed, "test") == ("Refund",)
    dataset = datasets.Dataset.from_list(ROWS)
    several = datasets.DatasetDict(train=dataset, validation=dataset.select([2]), other=dataset)
    assert texts(several, "validation") == ("Café",)
    with pytest.raises(FileNotFoundError, match="no test split of tickets, only train, validation"):
        texts(several, "test")
    with pytest.raises(ValueError, match=r"no split 'trian' \(did you mean 'train'\?\)"):
        texts({"trian": ROWS, "test": ROWS})
    with pytest.raises(FileNotFoundError, match="no data file .*nowhere"):
        texts({"train": tmp_path / "nowhere.csv"})


def test_a_saved_dataset_gives_each_split(tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict(train=dataset, test=dataset.select([1])).save_to_disk(str(tmp_path / "d"))
    assert texts(tmp_path / "d", "test") == ("Refund",)
    assert texts({"train": tmp_path / "d/test"}) == ("Refund",)


def test_label_names_of_a_dataset_are_in_its_order() -> None:
    feature = datasets.ClassLabel(names=["network", "unused", "billing"])
    numbered = [{**row, "queue": 2 * (row["queue"] == "billing")} for row in ROWS]
    dataset = datasets.Dataset.from_list(numbered).cast_column("queue", feature)
    for table in (dataset, dataset.to_iterable_dataset()):
        assert find_labels(BARE, table).labels == ("network", "unused", "billing")
        assert load_examples(TICKETS, table, "train").labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_missing_cells_are_named_by_the_index_of_the_frame(missing: Any) -> None:
    frame = pd.DataFrame(ROWS, index=[30, 10, 20])
    frame.loc[10, "body"] = missing
    with pytest.raises(
        DataError, match="the DataFrame in memory, index 10: the text in column 'body' is missing"
    ):
        texts(frame)
    assert load_examples(TICKETS, frame, "train", bad_rows="skip").ids == ("7", "11")
    frame = pd.DataFrame(ROWS)
    frame.loc[2, "queue"] = missing
    with pytest.raises(DataError, match="index 2: column 'queue' holds no label but None"):
        texts(frame)


def test_integer_labels_that_a_missing_one_has_made_floats() -> None:
    stars = Task("stars", ("body",), ("stars",))
    frame = pd.DataFrame({"body": ["Good.", "Bad.", "?", "Fine."], "stars": [5, 1, None, 3]})
    assert frame.stars.dtype == float
    task = find_labels(stars, frame)
    assert task.labels == ("1", "3", "5")
    assert load_examples(task, frame, "train", bad_rows="skip").labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"subject": ["a"], "body": ["b", "c"], "queue": ["network"]}, "one length: .*body has 2"),
        ({"subject": "a", "body": ["b"], "queue": ["network"]}, "'subject' is 'a': pass a list"),
        ([{"subject": "a"}, "b"], "Index 1 is 'b', not a dict: pass a pandas or Polars data frame"),
        (iter(ROWS), "can be read only once: pass a list"),
        (7, "7 is no table: pass a pandas"),
        (pd.DataFrame(ROWS).rename(columns={"body": "Body "}), r"\(did you mean 'Body '\?\)"),
        ([], "no column 'subject'; its columns are none"),
        (pd.DataFrame(ROWS[:0], columns=list(ROWS[0])), "the DataFrame in memory has no rows"),
    ],
)
def test_what_is_no_table_is_refused(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        texts(data)


def test_examples_pass_through_if_they_fit() -> None:
    examples = load_examples(TICKETS, ROWS, "train")
    assert load_examples(TICKETS, examples, "validation") is examples
    assert load_examples(TICKETS, {"test": examples}, "test") is examples
    three = Examples(examples.texts, np.array([0, 2, 1], np.int32))
    with pytest.raises(
        DataError, match="label ids from 0 to 2; task 'tickets' has 0 to 1: billing"
    ):
        load_examples(TICKETS, three, "train")
    with pytest.raises(DataError, match=r"have 1 texts each; .*'tickets' has 2 \(subject, body\)"):
        load_examples(TICKETS, Examples(examples.texts[:1], examples.labels), "train")
    with pytest.raises(ValueError, match="Name the labels of task 'tickets'"):
        find_labels(BARE, examples)
