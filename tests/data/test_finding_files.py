"""Where a split is looked for: directories, names, endings, shards, and the hub."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from table_files import (
    REVIEWS,
    WRITERS,
    table_of,
    write,
    write_arrow,
    write_json_lines,
    write_parquet,
)

from distilbert_tf.checkpoints import hub
from distilbert_tf.data.examples import load_examples
from distilbert_tf.data.file_formats import DataError
from distilbert_tf.data.tasks import TASKS, Task

SST2, MNLI, QQP = TASKS["sst2"], TASKS["mnli"], TASKS["qqp"]
NOTES = Task("notes", ("note",), ("kind",), ("fact", "wish"))


def test_places_are_searched_from_the_top(tmp_path: Path) -> None:
    for place in ("sst2", "SST-2", "."):
        write(tmp_path / place / "dev.tsv", f"sentence\tlabel\nfound in {place}\t1\n")
        assert load_examples(SST2, tmp_path, "validation").texts == ((f"found in {place}",),)


def test_one_directory_may_hold_several_tasks(tmp_path: Path) -> None:
    write_parquet(tmp_path / "sst2/train-00000-of-00001.parquet", REVIEWS)
    pair = {"premise": "Tea is served.", "hypothesis": "There is tea.", "label": 0, "idx": 0}
    write_parquet(tmp_path / "mnli/validation_matched-00000-of-00001.parquet", [pair])
    write_json_lines(
        tmp_path / "qqp/train.jsonl", [{"question1": "Why?", "question2": "How?", "label": 0}]
    )
    assert len(load_examples(SST2, tmp_path, "train")) == 5
    assert load_examples(MNLI, tmp_path, "validation").texts == (
        ("Tea is served.",),
        ("There is tea.",),
    )
    assert load_examples(QQP, tmp_path, "train").texts == (("Why?",), ("How?",))


def test_names_and_endings_have_an_order(tmp_path: Path) -> None:
    for name in (
        "validation/data-00000-of-00001.arrow",
        "validation-00000-of-00001.parquet",
        "validation.jsonl",
        "dev-00000-of-00001.parquet",
        "dev.parquet",
        "dev.json",
        "dev.jsonl",
        "dev.csv",
        "dev.tsv",
    ):
        writer = next(w for end, w in WRITERS.items() if end.endswith(Path(name).suffix))
        writer(tmp_path / name, REVIEWS)
        assert load_examples(SST2, tmp_path, "validation").files == (tmp_path / name,)


def test_shards_are_read_in_order_and_none_may_lack(tmp_path: Path) -> None:
    for i in (2, 0, 1):
        write_parquet(tmp_path / f"train-0000{i}-of-00003.parquet", [REVIEWS[i]])
        write_arrow(tmp_path / f"dev/data-0000{i}-of-00003.arrow", [REVIEWS[i]])
    write_parquet(tmp_path / "train-extra-00000-of-00001.parquet", REVIEWS)  # of another name
    for split in ("train", "validation"):
        examples = load_examples(SST2, tmp_path, split)
        assert examples.texts == (tuple(row["sentence"] for row in REVIEWS[:3]),)
        assert examples.ids == ("40", "41", "42")
        content = b"".join(path.read_bytes() for path in examples.files)
        assert examples.digest() == hashlib.sha256(content).hexdigest()
        examples.files[1].unlink()
        with pytest.raises(FileNotFoundError, match=r"all shards .* needed: \w+-00000-of-00003"):
            load_examples(SST2, tmp_path, split)


def test_files_of_datasets_beside_the_arrow_ones_do_not_matter(tmp_path: Path) -> None:
    write_arrow(tmp_path / "train/data-00000-of-00001.arrow", REVIEWS)
    write(tmp_path / "train/state.json", "{}")
    write(tmp_path / "train/dataset_info.json", "{}")
    write(tmp_path / "dataset_dict.json", '{"splits": ["train"]}')
    assert len(load_examples(SST2, tmp_path, "train")) == 5


def test_missing_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", "")
    write(tmp_path / "MNLI/train.tsv", "")
    with pytest.raises(FileNotFoundError) as error:
        load_examples(MNLI, tmp_path, "validation_mismatched")
    message = str(error.value)
    for part in (
        "Looked for the validation_mismatched split of mnli as dev_mismatched or validation_mism",
        f"in {tmp_path} and {tmp_path}/MNLI and {tmp_path}/mnli;",
        f"{tmp_path} holds MNLI, notes.txt; {tmp_path}/MNLI holds train.tsv.",
    ):
        assert part in message
    with pytest.raises(FileNotFoundError, match="no data directory"):
        load_examples(SST2, tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match=r"notes\.txt ends in none of \.tsv, "):
        load_examples(SST2, tmp_path / "notes.txt", "train")
    with pytest.raises(ValueError, match="has no split 'dev'"):
        load_examples(SST2, tmp_path, "dev")
    with pytest.raises(FileNotFoundError, match="no demo data for the task 'notes'"):
        load_examples(NOTES, "demo", "train")


@pytest.mark.parametrize("name", ["train", "training"])
def test_the_usual_names_of_training_files(tmp_path: Path, name: str) -> None:
    write_json_lines(tmp_path / f"{name}.jsonl", [{"note": "A lid.", "kind": "fact"}])
    assert load_examples(NOTES, tmp_path, "train").texts == (("A lid.",),)


@pytest.mark.parametrize("name", ["dev", "validation", "val", "valid"])
def test_the_usual_names_of_validation_files(tmp_path: Path, name: str) -> None:
    write_json_lines(tmp_path / f"{name}.jsonl", [{"note": "A lid.", "kind": "fact"}])
    assert load_examples(NOTES, tmp_path, "validation").texts == (("A lid.",),)


def test_a_file_may_be_named_with_its_ending_and_anywhere(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "elsewhere/notes 2024.jsonl", [{"note": "A", "kind": "wish"}])
    write_json_lines(tmp_path / "data/notes.v2.jsonl", [{"note": "B", "kind": "wish"}])
    named = Task(
        "notes", ("note",), ("kind",), ("fact", "wish"),
        splits={
            "train": str(tmp_path / "elsewhere/notes 2024.jsonl"), "test": "notes.v2.jsonl"
        },
    )  # fmt: skip
    assert load_examples(named, tmp_path / "data", "train").texts == (("A",),)
    assert load_examples(named, tmp_path / "data", "test").texts == (("B",),)


def test_a_single_file_is_the_split_itself(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "any.jsonl", [{"note": "A lid.", "kind": "fact"}])
    for split in ("train", "test"):
        assert load_examples(NOTES, tmp_path / "any.jsonl", split).labels.tolist() == [0]


def test_a_spreadsheet_is_found_and_named(tmp_path: Path) -> None:
    write(tmp_path / "train.xlsx", b"PK")
    with pytest.raises(DataError, match=r"train\.xlsx is a spreadsheet.* Save it as CSV in UTF-8"):
        load_examples(NOTES, tmp_path, "train")


def test_a_split_is_downloaded_from_the_hub(tmp_path: Path, monkeypatch) -> None:
    calls = []

    def download(name: str, *, repo_type: str, allow_patterns: list[str], **options: Any) -> str:
        calls.append((name, repo_type, allow_patterns))
        pair = {"premise": "He nodded.", "hypothesis": "He agreed.", "label": 0, "idx": 9}
        path = tmp_path / "mnli/validation_matched-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        names = ["entailment", "neutral", "contradiction"]
        parquet.write_table(table_of([pair], names), path)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    examples = load_examples(MNLI, "hub", "validation")
    assert examples.texts == (("He nodded.",), ("He agreed.",))
    assert (examples.labels.tolist(), examples.ids) == ([0], ("9",))
    patterns = [
        "mnli/dev_matched.parquet",
        "mnli/dev_matched-*-of-*.parquet",
        "mnli/validation_matched.parquet",
        "mnli/validation_matched-*-of-*.parquet",
    ]
    assert calls == [("nyu-mll/glue", "dataset", patterns)]
    with pytest.raises(
        FileNotFoundError, match="for the test split of mnli.* the cache may be inc"
    ):
        load_examples(MNLI, "hub", "test")


def test_a_task_without_a_dataset_on_the_hub_says_so() -> None:
    with pytest.raises(ValueError, match=r"'notes' has no dataset on the hub \(its hub_dataset"):
        load_examples(NOTES, "hub", "train")
