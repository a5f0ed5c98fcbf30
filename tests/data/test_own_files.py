"""Files as people write them: quotes, separators, encodings, blanks and blank lines."""

import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from table_files import write

from distilbert_tf.data.examples import find_labels, load_examples, read_files
from distilbert_tf.data.file_formats import DataError
from distilbert_tf.data.tasks import TASKS, Task

TICKETS = Task("tickets", ("subject", "body"), ("queue",), ("billing", "network"))
HEADER = "subject\tbody\tqueue\n"
QUOTED = 'Refund\t"She said ""now"",\nthen left"\tbilling\nNo line\tIt blinks\tnetwork\n'


def test_fields_of_own_tables_may_be_quoted(tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", HEADER + QUOTED)
    expected = (("Refund", "No line"), ('She said "now",\nthen left', "It blinks"))
    assert read_files([path], TICKETS).texts == expected
    assert read_files([path], TICKETS).labels.tolist() == [0, 1]


def test_quotation_marks_in_unquoted_tables_stay(tmp_path: Path) -> None:
    text = HEADER + '"Refund" please\tHe said "hi\tbilling\n"What?\tIt\'s 5" wide\tnetwork\n'
    examples = read_files([write(tmp_path / "train.tsv", text)], TICKETS)
    assert examples.texts == (('"Refund" please', '"What?'), ('He said "hi', "It's 5\" wide"))


def test_glues_tables_are_never_quoted(tmp_path: Path) -> None:
    text = 'sentence\tlabel\n"a lovely ""mess"""\t1\n'
    examples = read_files([write(tmp_path / "train.tsv", text)], TASKS["sst2"])
    assert examples.texts == (('"a lovely ""mess"""',),)


def test_a_table_that_can_be_read_in_two_ways_is_refused(tmp_path: Path) -> None:
    note = Task("note", ("text",), ("kind",), ("a", "b"))
    text = 'text\tkind\nplain\ta\n"open\ta\nclosed"\tb\n'
    path = write(tmp_path / "train.tsv", text)
    with pytest.raises(
        DataError, match=r"line 3: a field begins with .* \(quoted_tsv=True\) or not"
    ):
        read_files([path], note)
    fields = {"text_columns": ("text",), "label_columns": ("kind",), "labels": ("a", "b")}
    plain = read_files([path], Task("note", **fields, quoted_tsv=False))  # type: ignore[arg-type]
    assert plain.texts == (("plain", '"open', 'closed"'),)
    quoted = read_files([path], Task("note", **fields, quoted_tsv=True))  # type: ignore[arg-type]
    assert quoted.texts == (("plain", "open\ta\nclosed"),)


def test_a_bad_row_does_not_change_how_quotes_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", HEADER + QUOTED + "too\tshort\n")
    with pytest.raises(DataError, match="line 5: 2 fields, but the header has 3"):
        read_files([path], TICKETS)
    assert read_files([path], TICKETS, bad_rows="skip").texts[0] == ("Refund", "No line")


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl"])
@pytest.mark.parametrize("blank", ["\n", "\n\n\n", "\r\n  \r\n", "{empty}\n{empty}\n"])
def test_blank_lines_at_the_end_are_no_rows(tmp_path: Path, ending: str, blank: str) -> None:
    lines = {
        ".tsv": ["subject\tbody\tqueue", "No line\tIt blinks\tnetwork"],
        ".csv": ["subject,body,queue", "No line,It blinks,network"],
        ".jsonl": ['{"subject": "No line", "body": "It blinks", "queue": "network"}'],
    }[ending]
    empty = {".tsv": "\t\t", ".csv": ",,", ".jsonl": ""}[ending]
    text = "\n".join(lines) + "\n" + blank.format(empty=empty)
    examples = read_files([write(tmp_path / f"train{ending}", text)], TICKETS)
    assert examples.texts == (("No line",), ("It blinks",))


def test_blank_lines_between_rows_are_named(tmp_path: Path) -> None:
    text = "subject,body,queue\nA,B,network\n\nC,D,billing\n"
    with pytest.raises(DataError, match=r"line 3: 0 fields, .*--bad_rows=skip"):
        read_files([write(tmp_path / "train.csv", text)], TICKETS)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_csv_has_the_separator_of_its_header(tmp_path: Path, separator: str) -> None:
    rows = [["subject", "body", "queue"], ["Two, three; four", "a|b\tc", "network"]]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator).writerows(rows)
    examples = read_files([write(tmp_path / "train.csv", file.getvalue())], TICKETS)
    assert examples.texts == (("Two, three; four",), ("a|b\tc",))


def test_another_separator_in_a_table_of_tabs_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", "subject;body;queue\nA;B;network\n")
    with pytest.raises(
        DataError, match="header is one column: are its fields separated by semicol"
    ):
        read_files([path], TICKETS)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["train.csv", "train.tsv", "train.jsonl", "train.json"])
def test_utf_16_is_named(tmp_path: Path, encoding: str, name: str) -> None:
    path = write(tmp_path / name, "subject,body,queue\nA,B,network\n".encode(encoding))
    with pytest.raises(
        DataError, match=rf"{name} is UTF-16, not UTF-8: .*iconv -f UTF-16 -t UTF-8"
    ):
        read_files([path], TICKETS)


def test_windows_encodings_are_named_by_their_line(tmp_path: Path) -> None:
    content = "subject,body,queue\nA,B,network\nCafé,D,billing\n".encode("cp1252")
    with pytest.raises(DataError, match=r"line 3: not UTF-8: .*iconv -f WINDOWS-1252 -t UTF-8"):
        read_files([write(tmp_path / "train.csv", content)], TICKETS)


@pytest.mark.parametrize("content", [b"PK\x03\x04rest", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"])
def test_excel_files_are_named_whatever_they_are_called(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"is an Excel or ZIP file, .* Save it as CSV in UTF-8"):
        read_files([write(tmp_path / "train.csv", content)], TICKETS)


@pytest.mark.parametrize("name", ["Queue", " queue", "queue ", "queu", "QUEUE"])
def test_columns_that_are_almost_right_are_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "train.csv", f"subject,body,{name}\nA,B,network\n")
    with pytest.raises(DataError, match=rf"no column 'queue' \(did you mean '{name}'\?\); its col"):
        read_files([path], TICKETS)


def test_labels_that_are_almost_right_are_named_with_their_line(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "subject,body,queue\nA,B,network\nC,D,Billing\n")
    with pytest.raises(
        DataError,
        match=r"line 3: column 'queue': the label 'Billing' .*\(did you mean 'billing'\?\)",
    ):
        read_files([path], TICKETS)
    bare = Task("tickets", ("subject", "body"), ("queue",))
    write(tmp_path / "train.csv", "subject,body,queue\nA,B,billing\nC,D,Billing\nE,F,network\n")
    with pytest.raises(DataError, match=r"'billing' .*line 2\) and 'Billing' .*line 3\): write"):
        find_labels(bare, tmp_path)


def test_labels_are_found_in_the_training_file(tmp_path: Path) -> None:
    bare = Task("tickets", ("subject", "body"), ("team", "queue"))
    write(tmp_path / "train.csv", "subject,body,queue\nA,B,network\nC,D,billing\nE,F,\n")
    write(tmp_path / "dev.csv", "subject,body,queue\nA,B,unknown\n")
    assert find_labels(bare, tmp_path).labels == ("billing", "network")
    assert find_labels(TICKETS, tmp_path) is TICKETS
    with pytest.raises(ValueError, match=r"has no labels yet: .*find_labels\(task, data\)"):
        load_examples(bare, tmp_path, "train")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.text(
    '"\t\n\ra ', max_size=6
)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_any_quoted_table_is_read_as_written(texts: list[tuple[str, str]]) -> None:
    """Unless it is an unquoted one, too."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter="\t")
    writer.writerows([("subject", "body", "queue"), *((*pair, "network") for pair in texts)])
    with tempfile.TemporaryDirectory() as directory:
        path = write(Path(directory, "train.tsv"), file.getvalue())
        try:
            found = tuple(zip(*read_files([path], TICKETS).texts, strict=True))
        except DataError as error:
            found = str(error)
    assert found == tuple(texts) or "quoted_tsv=True" in found


PLAIN = TEXT.map(lambda text: "".join(c for c in text if c not in "\t\r\n"))


@given(st.lists(st.tuples(PLAIN, PLAIN), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_any_unquoted_table_is_read_as_written(texts: list[tuple[str, str]]) -> None:
    """Unless fields begin with quotation marks, which may be those of a quoted one."""
    lines = [HEADER, *(f"{subject}\t{body}\tnetwork\n" for subject, body in texts)]
    assume(not any(text.startswith('"') for pair in texts for text in pair))
    with tempfile.TemporaryDirectory() as directory:
        examples = read_files([write(Path(directory, "train.tsv"), "".join(lines))], TICKETS)
    assert tuple(zip(*examples.texts, strict=True)) == tuple(texts)
