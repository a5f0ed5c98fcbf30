"""Reading examples: GLUE's layouts, every format, and what is wrong with bad files."""

import builtins
import csv
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from table_files import (
    REVIEWS,
    TYPED,
    WRITERS,
    table_of,
    write,
    write_csv,
    write_json_lines,
    write_parquet,
    write_tsv,
)

from distilbert_tf.data.examples import Examples, load_examples, read_files
from distilbert_tf.data.file_formats import ARROW, ENDINGS, DataError
from distilbert_tf.data.tasks import TASKS, Task

SST2, MNLI, QQP = TASKS["sst2"], TASKS["mnli"], TASKS["qqp"]
NOTES = Task("notes", ("note",), ("kind",), ("fact", "wish"), quoted_tsv=False)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_examples(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, REVIEWS)
    examples = load_examples(SST2, tmp_path, "train")
    assert examples.texts == (tuple(row["sentence"] for row in REVIEWS),)
    assert examples.labels.tolist() == [0, 1, 1, 0, 1]
    assert examples.labels.dtype == np.int32
    assert examples.ids == ("40", "41", "42", "43", "44")
    assert examples.files == (tmp_path / name,)
    assert examples.skipped == 0
    assert len(examples) == 5
    assert examples.digest() == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


# GLUE's own layouts.


def test_glues_mnli_files(tmp_path: Path) -> None:
    row = {
        "index": 0,
        "genre": "travel",
        "sentence1": 'The "bridge opened.',
        "sentence2": "It did.",
    }
    other = {**row, "index": 1, "sentence1": "Few voted.", "sentence2": "All voted."}
    labels = {"label1": "neutral", "label2": "entailment", "gold_label": "contradiction"}
    write_tsv(tmp_path / "train.tsv", [row | labels, other | labels | {"gold_label": "neutral"}])
    write_tsv(tmp_path / "dev_matched.tsv", [row | labels])
    write_tsv(tmp_path / "dev_mismatched.tsv", [other | labels])
    write_tsv(tmp_path / "test_matched.tsv", [row, other])
    write_tsv(tmp_path / "test_mismatched.tsv", [other])
    train = load_examples(MNLI, tmp_path, "train")
    assert train.texts == (('The "bridge opened.', "Few voted."), ("It did.", "All voted."))
    assert train.labels.tolist() == [2, 1]
    for split, first in (("validation", row), ("validation_mismatched", other)):
        assert load_examples(MNLI, tmp_path, split).texts[0] == (first["sentence1"],)
    test = load_examples(MNLI, tmp_path, "test", labelled=False)
    assert (test.texts, test.labels.tolist(), test.ids) == (train.texts, [-1, -1], ("0", "1"))
    test = load_examples(MNLI, tmp_path, "test_mismatched", labelled=False)
    assert test.texts == (("Few voted.",), ("All voted.",))
    with pytest.raises(DataError, match="no column 'gold_label' or 'label'.*labelled=False"):
        load_examples(MNLI, tmp_path, "test")


def test_glues_qqp_files(tmp_path: Path) -> None:
    text = (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
        '133273\t213221\t213222\t"How long is ""Lear""?"\tWhy "Lear?\t1\n'
        "402555\t536040\t536041\tWhat is a knot?\tHow do I tie one?\t0\n"
    )
    write(tmp_path / "QQP" / "dev.tsv", text)
    write(tmp_path / "QQP" / "test.tsv", 'id\tquestion1\tquestion2\n0\tIs "5 a lot?\tIs six?\n')
    examples = load_examples(QQP, tmp_path, "validation")
    assert examples.texts == (
        ('"How long is ""Lear""?"', "What is a knot?"), ('Why "Lear?', "How do I tie one?"),
    )  # fmt: skip
    assert (examples.labels.tolist(), examples.ids) == ([1, 0], ("133273", "402555"))
    test = load_examples(QQP, tmp_path, "test", labelled=False)
    assert (test.texts, test.ids) == ((('Is "5 a lot?',), ("Is six?",)), ("0",))


def test_glues_sst2_files(tmp_path: Path) -> None:
    write(tmp_path / "dev.tsv", "sentence\tlabel\nthe pie was a triumph . \t1\n")
    write(tmp_path / "test.tsv", "index\tsentence\n0\ta long , damp weekend\n1\tsplendid\n")
    assert load_examples(SST2, tmp_path, "validation").texts == (("the pie was a triumph . ",),)
    test = load_examples(SST2, tmp_path, "test", labelled=False)
    assert test.texts == (("a long , damp weekend", "splendid"),)
    assert (test.ids, test.labels.tolist()) == (("0", "1"), [-1, -1])


def test_quotes_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    text = '\ufeffsentence\tlabel\r\n"Unbalanced quote, she said.\t1\r\nend\u2028of line\t0\r\n'
    examples = read_files([write(tmp_path / "train.tsv", text)], SST2)
    assert examples.texts == (('"Unbalanced quote, she said.', "end\u2028of line"),)
    assert examples.labels.tolist() == [1, 0]
    text = '\ufeffsentence,label\r\n"two\r\nlines, ""quoted""",1\r\nplain,0\r\n'
    examples = read_files([write(tmp_path / "train.csv", text)], SST2)
    assert examples.texts == (('two\r\nlines, "quoted"', "plain"),)
    text = '\ufeff{"sentence": "a", "label": 1}\r\n{"sentence": "b", "label": 0}'
    for name in ("train.jsonl", "train.json"):
        assert read_files([write(tmp_path / name, text)], SST2).texts == (("a", "b"),)
    text = '\ufeff [{"sentence": "a", "label": 1}]\r\n'
    assert read_files([write(tmp_path / "train.json", text)], SST2).texts == (("a",),)


def test_the_hubs_test_splits_have_no_labels(tmp_path: Path) -> None:
    rows = [{"sentence": "Who can tell?", "label": -1, "idx": 0}]
    write_parquet(tmp_path / "sst2/test-00000-of-00001.parquet", rows)
    with pytest.raises(DataError, match=r"row 1: column 'label' holds no label but -1; .*=False"):
        load_examples(SST2, tmp_path, "test")
    examples = load_examples(SST2, tmp_path, "test", labelled=False)
    assert (examples.texts, examples.labels.tolist()) == ((("Who can tell?",),), [-1])


def test_label_names_of_a_file_count_more_than_its_integers(tmp_path: Path) -> None:
    """Datasets that number their labels otherwise are common."""
    rows = [{"premise": f"p{i}", "hypothesis": f"h{i}", "label": i} for i in range(3)]
    names = ["contradiction", "entailment", "neutral"]
    parquet.write_table(table_of(rows, names), tmp_path / "train.parquet")
    assert load_examples(MNLI, tmp_path, "train").labels.tolist() == [2, 0, 1]
    parquet.write_table(table_of(rows, ["yes", "maybe", "no"]), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="row 1: column 'label': the label 'yes' is none of ent"):
        load_examples(MNLI, tmp_path, "train")
    damaged = table_of(rows).replace_schema_metadata({"huggingface": '{"info": []}'})
    parquet.write_table(damaged, tmp_path / "train.parquet")
    assert load_examples(MNLI, tmp_path, "train").labels.tolist() == [0, 1, 2]


# Bad rows.

# The content of a file, of which all but the row "fine" is bad, and the complaint.
TSV, CSV, OBJECT = "sentence\tlabel\n", "sentence,label\n", '{"sentence": "fine", "label": 1}'
BAD = [
    ("a.tsv", TSV + "fine\t1\nno label\n", "line 3: 1 fields, .* has 2"),
    ("a.tsv", TSV + "a\tb\t1\nfine\t0\n", "line 2: 3 fields"),
    ("a.tsv", TSV + "\nfine\t0\n", "line 2: 1 fields"),
    ("a.tsv", TSV + "x\t2\nfine\t0\n", "line 2: .*the label '2' is none of"),
    ("a.tsv", TSV + "x\t\nfine\t0\n", "line 2: .*no label but ''"),
    ("a.tsv", TSV.encode() + b"\xff\xfe\t1\nfine\t0\n", "line 2: not UTF-8"),
    ("a.tsv", b"sentence\tlabel\tnote\nx\t1\t\xc3\nfine\t0\tn\n", "line 2: not UTF-8"),
    ("a.csv", CSV + '"fine",1\n"x\ny",1,2\n', "line 3: 3 fields"),
    ("a.csv", CSV + '"x"y,1\nfine,1\n', "line 2: not CSV: "),
    ("a.csv", CSV + 'fine,1\n"never closed,1\n', "line 3: not CSV: .*end of"),
    ("a.csv", CSV.encode() + b"fine,1\n\xe9t\xe9,1\n", "line 3: not UTF-8"),
    ("a.csv", CSV + "x,-1\nfine,1\n", "line 2: .*no label but '-1'"),
    ("a.jsonl", '{"label": 1}\n' + OBJECT, "line 1: .*missing"),
    ("a.jsonl", OBJECT + '\n{"sent\n', "line 2: not JSON: "),
    ("a.jsonl", "\n" + OBJECT, "line 1: not JSON: "),
    ("a.jsonl", OBJECT + '\n["x", 1]', "line 2: expected a JSON object"),
    ("a.jsonl", OBJECT.encode() + b'\n{"sentence": "\xff", "label": 1}', "line 2: not UTF-8"),
    ("a.json", f'[{OBJECT}, {{"sentence": "\\ud83d", "label": 1}}]', "row 2: .*not Unic.* surrog"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_bad_rows_say_where_and_why_or_are_left_out(
    tmp_path: Path, name: str, content: str | bytes, message: str, caplog
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=rf"^{path}, {message}"):
        read_files([path], SST2)
    examples = read_files([path], SST2, bad_rows="skip")
    assert examples.texts == (("fine",),)
    assert examples.skipped == 1
    assert f"Skipped 1 of 2 rows of {path}" in caplog.text


@pytest.mark.parametrize("name", TYPED)
@pytest.mark.parametrize(
    ("column", "values", "message", "kept"),
    [
        ("sentence", ["a", None, "c"], "row 2: .*'sentence' is missing or null", [0, 2]),
        ("sentence", [1, 2, 3], "row 1: .*'sentence' is 1, of type int, not a str", []),
        ("label", [0, 1, None], "row 3: column 'label' holds no label but None", [0, 1]),
        ("label", [0, 7, -1], "row 2: column 'label': the label 7 is none of negative, ", [0]),
        ("label", [0.5, 1.5, 2.0], r"row 1: column 'label': the label 0\.5 is none", []),
        ("label", [True, False, True], "row 1: column 'label': the label True is none", []),
    ],
)
def test_values_of_other_types_are_bad(
    tmp_path: Path, name: str, column: str, values: list, message: str, kept: list[int]
) -> None:
    rows = [{"sentence": "abc"[i], "label": i % 2, column: values[i]} for i in range(3)]
    WRITERS[name](tmp_path / name, rows)
    message = message.replace("row", "line") if name.endswith("jsonl") else message
    with pytest.raises(DataError, match=message):
        load_examples(SST2, tmp_path, "train")
    if kept:
        examples = load_examples(SST2, tmp_path, "train", bad_rows="skip")
        assert examples.texts == (tuple("abc"[i] for i in kept),)
        assert examples.labels.tolist() == [i % 2 for i in kept]
        assert examples.skipped == 3 - len(kept)
    else:
        with pytest.raises(DataError, match=rf"no usable row: .* 3 times, .*{message}"):
            load_examples(SST2, tmp_path, "train", bad_rows="skip")


def test_bad_bytes_in_parquet_cost_only_their_row(tmp_path: Path) -> None:
    texts = pa.array([b"fine", b"\xff", None]).view(pa.string())
    table = pa.table({"sentence": texts, "label": [1, 0, 0]})
    parquet.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataError, match="row 2: .*bytes that are not UTF-8"):
        load_examples(SST2, tmp_path, "train")
    examples = load_examples(SST2, tmp_path, "train", bad_rows="skip")
    assert (examples.texts, examples.skipped) == ((("fine",),), 2)


def test_skipped_rows_are_counted_by_reason(tmp_path: Path, caplog) -> None:
    rows = ["sentence\tlabel\tid", "a\t1\t10", "b\t5\t11", "c", "d\t6\t13", "e\t0\t14", "f\t\t15"]
    path = write(tmp_path / "train.tsv", "\n".join(rows))
    examples = load_examples(SST2, tmp_path, "train", bad_rows="skip")
    assert examples.texts == (("a", "e"),)
    assert examples.labels.tolist() == [1, 0]
    assert examples.ids == ("10", "14")
    assert examples.skipped == 4
    for part in (
        f"Skipped 4 of 6 rows of {path}: unknown label 2 times, first in {path}, line 3: column",
        f"not as many fields as the header has 1 times, first in {path}, line 4: 1",
        f"no label 1 times, first in {path}, line 7",
    ):
        assert part in caplog.text
    first = examples.take(1)
    assert (first.texts, first.labels.tolist(), first.ids) == ((("a",),), [1], ("10",))
    assert (first.files, first.skipped, first.digest()) == ((path,), 4, examples.digest())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "text\tlabel\nfine\t1\n", "no column 'sentence'; its columns are text, label"),
        ("a.tsv", "sentence\tstars\nfine\t1\n", "no column 'label'; its columns are sentence, st"),
        ("a.tsv", "sentence\tlabel\tlabel\nfine\t1\t1\n", "has 2 columns named 'label'"),
        ("a.tsv", "sentence\tlabel\n", "has no rows"),
        ("a.tsv", "", "no column 'sentence'; its columns are none"),
        ("a.tsv", "sentence\tlabel\n".encode("utf-16"), "is UTF-16, not UTF-8: save"),
        ("a.csv", "", "no column 'sentence'; its columns are none"),
        ("a.csv", '"sentence"x,label\n', "line 1: the header is not CSV"),
        ("a.json", "[1, 2", "is not JSON"),
        ("a.json", b'["\xff"]', "is not UTF-8"),
        ("a.json", '{\n"sentence": "x",\n"label": 1\n}\n', "line 1: not JSON"),
        ("a.jsonl", "nothing", "line 1: not JSON"),
        ("a.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("a.jsonl", "", "no column 'sentence'; its columns are none"),
        ("a.parquet", b"PAR1 and no more", "cannot be read as Parquet: .* It may be cut short"),
        ("a.arrow", b"no stream", "cannot be read as an Arrow stream"),
        ("a.txt", b"", r"ends in none of \.tsv, \.csv, \.jsonl, \.json, \.parquet, \.arrow"),
    ],
)
@pytest.mark.parametrize("bad_rows", ["error", "skip"])
def test_files_that_are_no_such_table_are_refused(
    tmp_path: Path, name: str, content: str | bytes, message: str, bad_rows: Any
) -> None:
    with pytest.raises(DataError, match=message):
        read_files([write(tmp_path / name, content)], SST2, bad_rows=bad_rows)


@pytest.mark.parametrize("name", ["train.parquet", "train/data-00000-of-00001.arrow"])
def test_cut_files_are_refused(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, REVIEWS * 100)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cut short"):
        load_examples(SST2, tmp_path, "train")


def test_long_fields_of_csv_are_read_and_its_limit_stays(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    text = "word " * 40_000
    assert len(text) > limit
    path = write(tmp_path / "train.csv", f"sentence,label\n{text},1\n")
    assert read_files([path], SST2).texts == ((text,),)
    assert csv.field_size_limit() == limit


def test_bad_rows_takes_two_values(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bad_rows is 'drop'; it must be one of"):
        read_files([write(tmp_path / "a.tsv", "")], SST2, bad_rows="drop")  # type: ignore[arg-type]


def test_without_pyarrow_only_its_formats_are_out_of_reach(tmp_path: Path, monkeypatch) -> None:
    write_parquet(tmp_path / "train.parquet", REVIEWS)
    write_tsv(tmp_path / "dev.tsv", REVIEWS)
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "pyarrow":
            raise ImportError("No module named 'pyarrow'")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(DataError, match=r"pip install distilbert-tf\[parquet\]"):
        load_examples(SST2, tmp_path, "train")
    assert len(load_examples(SST2, tmp_path, "validation")) == 5


# Examples, and tasks of one's own.


def test_examples_of_no_file_have_the_digest_of_their_rows() -> None:
    examples = Examples((("a", "bc"), ("d", "")), np.array([0, 1], np.int32))
    assert (examples.ids, examples.files, examples.skipped) == (None, (), 0)
    assert examples.take(1).ids is None
    others = [
        Examples((("ab", "c"), ("d", "")), examples.labels),
        Examples((("a", "bc"), ("d", "")), examples.labels[::-1].copy()),
        Examples((("a",), ("d",)), examples.labels),
        examples.take(1),
    ]
    assert len({one.digest() for one in (examples, *others)}) == 5
    assert examples.select([0, 1]).digest() == examples.digest()


def test_ids_of_other_types_are_none(tmp_path: Path) -> None:
    rows = [{"sentence": "a", "label": 1, "id": "x1"}, {"sentence": "b", "label": 1, "id": None}]
    write_json_lines(tmp_path / "train.jsonl", rows)
    assert load_examples(SST2, tmp_path, "train").ids is None
    write_json_lines(tmp_path / "train.jsonl", [rows[0], {**rows[1], "id": 2}])
    assert load_examples(SST2, tmp_path, "train").ids == ("x1", "2")


def test_a_task_of_ones_own_has_its_columns_labels_and_files(tmp_path: Path) -> None:
    tickets = Task(
        "tickets",
        ("subject", "body"),
        ("queue", "team"),
        ("Billing", "Network", "Other"),
        label_values=("B-1", "N-1", "X"),
        splits={"train": "tickets/2023", "validation": ("held out", "tickets/2024")},
        aliases={"title": "subject", "heading": "subject"},
    )
    rows = [
        {"team": "N-1", "body": "The router blinks red.", "heading": "No line", "index": "T7"},
        {"team": "Billing", "body": "I paid twice.", "heading": "Refund", "index": "T9"},
        {"team": "X", "body": "Thank you all!", "heading": "Praise", "index": "T10"},
    ]
    write_csv(tmp_path / "tickets/2024.csv", rows)
    examples = load_examples(tickets, tmp_path, "validation")
    assert examples.texts == (
        tuple(row["heading"] for row in rows), tuple(row["body"] for row in rows),
    )  # fmt: skip
    assert examples.labels.tolist() == [1, 0, 2]
    assert examples.ids == ("T7", "T9", "T10")


# Any text at all.

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
WITHOUT_TABS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n"), max_size=20
)


@pytest.mark.parametrize("name", WRITERS)
@given(texts=st.data())
@settings(max_examples=60, deadline=None)
def test_any_text_survives(name: str, texts: st.DataObject) -> None:
    kind = WITHOUT_TABS if name == "train.tsv" else TEXTS
    notes = texts.draw(st.lists(kind, min_size=1, max_size=8))
    rows = [{"note": text, "kind": ("fact", "wish")[i % 2]} for i, text in enumerate(notes)]
    with tempfile.TemporaryDirectory() as directory:
        WRITERS[name](Path(directory, name), rows)
        examples = load_examples(NOTES, directory, "train")
    assert examples.texts == (tuple(notes),)
    assert examples.labels.tolist() == [i % 2 for i in range(len(notes))]


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for ending in (*ENDINGS, ARROW):
            head = {".tsv": b"note\tkind\n", ".csv": b"note,kind\n"}.get(ending, b"")
            path = write(Path(directory, f"train{ending}"), head + content)
            try:
                examples = read_files([path], NOTES, bad_rows="skip")
            except DataError:
                continue
            assert len(examples) > 0
            assert set(examples.labels.tolist()) <= {0, 1}
