import builtins
import csv
import hashlib
import tempfile
from collections.abc import Sequence
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
    write_json_lines,
    write_parquet,
    write_tsv,
)

from distilbert_tf.data import examples as readers
from distilbert_tf.data.examples import Examples, load_examples, read_files
from distilbert_tf.data.file_formats import DataError
from distilbert_tf.data.tasks import TASKS, Task

SST2, MNLI, QQP = TASKS["sst2"], TASKS["mnli"], TASKS["qqp"]
NOTES = Task("notes", ("note",), ("kind",), ("fact", "wish"))


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


@pytest.mark.parametrize("name", WRITERS)
def test_pairs_go_by_the_hubs_names_too(tmp_path: Path, name: str) -> None:
    rows = [
        {"hypothesis": "It rained.", "premise": "The streets were wet.", "label": "neutral"},
        {"hypothesis": "It was dry.", "premise": "It poured all day.", "label": "contradiction"},
    ]
    WRITERS[name](tmp_path / name, rows)
    examples = load_examples(MNLI, tmp_path, "train")
    assert examples.texts == (
        ("The streets were wet.", "It poured all day."),
        ("It rained.", "It was dry."),
    )
    assert examples.labels.tolist() == [1, 2]
    assert examples.ids is None


# GLUE's own layouts.

PARSES = ("( a b )", "( c d )", "(ROOT a)", "(ROOT c)")


def mnli_file(labels: Sequence[str], *rows: tuple[str, str, tuple[str, ...]]) -> str:
    """Rows in the columns that all of MNLI's files have, and those of the labels after them."""
    parses = [f"sentence{i}_{kind}" for kind in ("binary_parse", "parse") for i in (1, 2)]
    texts = ("sentence1", "sentence2")
    lines = [("index", "promptID", "pairID", "genre", *parses, *texts, *labels)]
    for i, (premise, hypothesis, values) in enumerate(rows):
        lines.append((str(i), f"3{i}", f"3{i}n", "travel", *PARSES, premise, hypothesis, *values))
    return "".join("\t".join(line) + "\n" for line in lines)


MNLI_TRAIN = mnli_file(
    ("label1", "gold_label"),
    ('The "new bridge opened in May.', "Traffic is lighter now.", ("neutral", "neutral")),
    ("uh I sold it, you know", "I no longer have it.", ("entailment", "entailment")),
)
MNLI_DEV = mnli_file(
    ("label1", "label2", "label3", "label4", "label5", "gold_label"),
    (
        "Few people voted.",
        "Everybody voted.",
        ("neutral", "contradiction", "neutral", "neutral", "entailment", "contradiction"),
    ),
)
MNLI_TEST = mnli_file(
    (),
    ("The ferry leaves at six.", "Ferries run.", ()),
    ("Bring a coat.", "It may be cold.", ()),
)


def test_glues_mnli_files(tmp_path: Path) -> None:
    headers = [text.split("\n")[0].split("\t") for text in (MNLI_TRAIN, MNLI_DEV, MNLI_TEST)]
    assert [len(header) for header in headers] == [12, 16, 10]
    write(tmp_path / "train.tsv", MNLI_TRAIN)
    write(tmp_path / "dev_matched.tsv", MNLI_DEV)
    write(tmp_path / "dev_mismatched.tsv", MNLI_DEV.replace("Few people", "Hardly anybody"))
    write(tmp_path / "test_matched.tsv", MNLI_TEST)
    write(tmp_path / "test_mismatched.tsv", MNLI_TEST.replace("coat", "scarf"))
    train = load_examples(MNLI, tmp_path, "train")
    assert train.texts == (
        ('The "new bridge opened in May.', "uh I sold it, you know"),
        ("Traffic is lighter now.", "I no longer have it."),
    )
    assert train.labels.tolist() == [1, 0]
    assert load_examples(MNLI, tmp_path, "validation").labels.tolist() == [2]
    mismatched = load_examples(MNLI, tmp_path, "validation_mismatched")
    assert mismatched.texts == (("Hardly anybody voted.",), ("Everybody voted.",))
    test = load_examples(MNLI, tmp_path, "test", labelled=False)
    assert test.texts == (
        ("The ferry leaves at six.", "Bring a coat."),
        ("Ferries run.", "It may be cold."),
    )
    assert test.labels.tolist() == [-1, -1]
    assert test.ids == ("0", "1")
    test = load_examples(MNLI, tmp_path, "test_mismatched", labelled=False)
    assert test.texts[0][1] == "Bring a scarf."
    with pytest.raises(DataError, match="no column 'gold_label' or 'label'.*labelled=False"):
        load_examples(MNLI, tmp_path, "test")


def test_glues_qqp_files(tmp_path: Path) -> None:
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    rows = (
        '133273\t213221\t213222\t"How long is ""Lear""?"\tWhy "Lear?\t1\n'
        "402555\t536040\t536041\tWhat is a knot?\tHow do I tie one?\t0\n"
    )
    write(tmp_path / "QQP" / "dev.tsv", header + rows)
    write(tmp_path / "QQP" / "test.tsv", 'id\tquestion1\tquestion2\n0\tIs "5 a lot?\tIs six?\n')
    examples = load_examples(QQP, tmp_path, "validation")
    assert examples.texts == (
        ('"How long is ""Lear""?"', "What is a knot?"),
        ('Why "Lear?', "How do I tie one?"),
    )
    assert examples.labels.tolist() == [1, 0]
    assert examples.ids == ("133273", "402555")
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

# The content of a file, the complaint about it, and what is left if bad rows are skipped.
BAD = [
    ("a.tsv", "sentence\tlabel\nfine\t1\nno label\n", "line 3: 1 fields, .* has 2", "fine"),
    ("a.tsv", "sentence\tlabel\na\tb\t1\nfine\t0\n", "line 2: 3 fields", "fine"),
    ("a.tsv", "sentence\tlabel\n\nfine\t0\n", "line 2: 1 fields", "fine"),
    ("a.tsv", "sentence\tlabel\nx\t2\nfine\t0\n", "line 2: .*the label '2' is none of", "fine"),
    ("a.tsv", "sentence\tlabel\nx\t\nfine\t0\n", "line 2: .*no label but ''", "fine"),
    ("a.tsv", b"sentence\tlabel\n\xff\xfe\t1\nfine\t0\n", "line 2: not UTF-8", "fine"),
    ("a.tsv", b"sentence\tlabel\tnote\nx\t1\t\xc3\nfine\t0\tn\n", "line 2: not UTF-8", "fine"),
    ("a.csv", 'sentence,label\n"two\nlines",1\nx,y,1\n', "line 4: 3 fields", "two\nlines"),
    ("a.csv", "sentence,label\n\nfine,1\n", "line 2: 0 fields", "fine"),
    ("a.csv", 'sentence,label\n"x"y,1\nfine,1\n', "line 2: not CSV: ", "fine"),
    ("a.csv", 'sentence,label\nfine,1\n"never closed,1\n', "line 3: not CSV: .*end of", "fine"),
    ("a.csv", b"sentence,label\nfine,1\n\xe9t\xe9,1\n", "line 3: not UTF-8", "fine"),
    ("a.csv", "sentence,label\nx,-1\nfine,1\n", "line 2: .*no label but '-1'", "fine"),
    ("a.jsonl", '{"sentence": "x"}\n{"sentence": "fine", "label": 1}', "line 1: .*None", "fine"),
    ("a.jsonl", '{"label": 1}\n{"sentence": "fine", "label": 1}', "line 1: .*missing", "fine"),
    ("a.jsonl", '{"sentence": "fine", "label": 1}\n{"sent\n', "line 2: not JSON: ", "fine"),
    ("a.jsonl", '{"sentence": "fine", "label": 1}\n\n', "line 2: not JSON: ", "fine"),
    ("a.jsonl", '{"sentence": "fine", "label": 1}\n["x", 1]', "line 2: .*object is w", "fine"),
    (
        "a.jsonl",
        b'{"sentence": "fine", "label": 1}\n{"sentence": "\xff", "label": 1}',
        "line 2: not UTF-8",
        "fine",
    ),
    (
        "a.json",
        '[{"sentence": 5, "label": 1}, {"sentence": "fine", "label": 1}]',
        "row 1: the text in column 'sentence' is 5, of type int, not a string",
        "fine",
    ),
    (
        "a.json",
        '[{"sentence": null, "label": 1}, {"sentence": "fine", "label": 1}]',
        "row 1: the text in column 'sentence' is missing or null",
        "fine",
    ),
    (
        "a.json",
        '[{"sentence": "fine", "label": 1}, {"sentence": "\\ud83d", "label": 1}]',
        "row 2: .*not Unicode.* surrogate pair",
        "fine",
    ),
    (
        "a.json",
        '[{"sentence": "fine", "label": 1}, {"sentence": "x", "label": true}]',
        "row 2: .*the label True is none of",
        "fine",
    ),
]


@pytest.mark.parametrize(("name", "content", "message", "left"), BAD)
def test_bad_rows_say_where_and_why_or_are_left_out(
    tmp_path: Path, name: str, content: str | bytes, message: str, left: str, caplog
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=rf"^{path}, {message}"):
        read_files([path], SST2)
    examples = read_files([path], SST2, bad_rows="skip")
    assert examples.texts == ((left,),)
    assert examples.skipped == 1
    assert f"Left out 1 of 2 rows of {path}" in caplog.text


@pytest.mark.parametrize("name", TYPED)
@pytest.mark.parametrize(
    ("column", "values", "message", "kept"),
    [
        ("sentence", ["a", None, "c"], "row 2: .*'sentence' is missing or null", [0, 2]),
        ("sentence", [1, 2, 3], "row 1: .*'sentence' is 1, of type int, not a str", []),
        ("label", [0, 1, None], "row 3: column 'label' holds no label but None", [0, 1]),
        ("label", [0, 7, -1], "row 2: column 'label': the label 7 is none of negative, ", [0]),
        ("label", [0.0, 1.0, 1.0], r"row 1: column 'label': the label 0\.0 is none", []),
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
        with pytest.raises(DataError, match=rf"no row that can be used: .* 3 times, .*{message}"):
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
    assert (
        f"Left out 4 of 6 rows of {path}: unknown label 2 times, first in {path}, line 3: colum"
        in (caplog.text)
    )
    assert (
        f"not as many fields as the header has 1 times, first in {path}, line 4: 1" in caplog.text
    )
    assert f"no label 1 times, first in {path}, line 7" in caplog.text
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
        ("a.tsv", "sentence\tlabel\n".encode("utf-16"), "line 1: the header is not UTF-8"),
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
        ("a.xlsx", b"", r"ends in none of \.tsv, \.csv, \.jsonl, \.json, \.parquet, \.arrow"),
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


def test_examples_of_no_file_have_no_digest() -> None:
    examples = Examples((("a",),), np.zeros(1, np.int32))
    assert (examples.ids, examples.files, examples.skipped) == (None, (), 0)
    assert examples.take(1).ids is None
    with pytest.raises(ValueError, match="come from no file"):
        examples.digest()


def test_ids_of_other_types_are_none(tmp_path: Path) -> None:
    rows = [{"sentence": "a", "label": 1, "id": "x1"}, {"sentence": "b", "label": 1, "id": None}]
    write_json_lines(tmp_path / "train.jsonl", rows)
    assert load_examples(SST2, tmp_path, "train").ids is None
    write_json_lines(tmp_path / "train.jsonl", [rows[0], {**rows[1], "id": 2}])
    assert load_examples(SST2, tmp_path, "train").ids == ("x1", "2")


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl", ".json", ".parquet"])
def test_a_task_of_ones_own_has_its_columns_labels_and_files(tmp_path: Path, ending: str) -> None:
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
    writer = next(w for name, w in WRITERS.items() if name.endswith(ending))
    writer(tmp_path / f"tickets/2024{ending}", rows)
    examples = load_examples(tickets, tmp_path, "validation")
    assert examples.texts == (
        ("No line", "Refund", "Praise"),
        ("The router blinks red.", "I paid twice.", "Thank you all!"),
    )
    assert examples.labels.tolist() == [1, 0, 2]
    assert examples.ids == ("T7", "T9", "T10")


# Any text at all.

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
WITHOUT_TABS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n"), max_size=20
)


def round_trip(name: str, texts: Sequence[str]) -> None:
    rows = [{"note": text, "kind": ("fact", "wish")[i % 2]} for i, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as directory:
        WRITERS[name](Path(directory, name), rows)
        examples = load_examples(NOTES, directory, "train")
    assert examples.texts == (tuple(texts),)
    assert examples.labels.tolist() == [i % 2 for i in range(len(texts))]


@given(st.lists(WITHOUT_TABS, min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_text_without_tabs_survives_tsv(texts: list[str]) -> None:
    round_trip("train.tsv", texts)


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "train.tsv"])
@given(texts=st.lists(TEXTS, min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_text_survives_the_other_formats(name: str, texts: list[str]) -> None:
    round_trip(name, texts)


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for ending in (*readers.ENDINGS, readers.ARROW):
            head = {".tsv": b"note\tkind\n", ".csv": b"note,kind\n"}.get(ending, b"")
            path = write(Path(directory, f"train{ending}"), head + content)
            try:
                examples = read_files([path], NOTES, bad_rows="skip")
            except DataError:
                continue
            assert len(examples) > 0
            assert set(examples.labels.tolist()) <= {0, 1}
