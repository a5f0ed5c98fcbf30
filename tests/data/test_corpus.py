"""Files of text: documents, sentences, and rows packed from them."""

import gzip
import itertools
import json
import lzma
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from distilbert_tf.data import corpus
from distilbert_tf.data.corpus import pack_document, read_documents, split_sentences
from distilbert_tf.data.file_formats import DataError

TEXT = "\ufeffOne line. And more.\n  Its second paragraph \n\n\n \nAnother document\r\n"
DOCUMENTS = [["One line. And more.", "Its second paragraph"], ["Another document"]]


def test_blank_lines_divide_documents(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_bytes(TEXT.encode())
    (tmp_path / "zipped.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "zipped.xz").write_bytes(lzma.compress(TEXT.encode()))
    for path in tmp_path.iterdir():
        assert list(map(list, read_documents(path))) == DOCUMENTS


def test_rows_of_tables_are_documents(tmp_path: Path) -> None:
    texts = ["\n".join(paragraphs) for paragraphs in DOCUMENTS] + ["\n \n"]
    lines = "\n".join(json.dumps({"id": 1, "body": text}) for text in texts)
    (tmp_path / "rows.jsonl").write_text(lines + "\n\n")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    parquet.write_table(pyarrow.table({"body": texts}), tmp_path / "rows.parquet")
    for path in tmp_path.iterdir():
        documents = read_documents(path, text_column="body")
        assert list(map(list, documents)) == DOCUMENTS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\n\xff\xfe\n", "a.txt, line 2: not UTF-8"),
        ("a.txt.gz", gzip.compress(b"word " * 999)[:-9], "a.txt.gz cannot be read after line 0"),
        ("a.xz", b"no xz", "a.xz cannot be read after line 0"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 3}\n', "line 2: no text in 'text', but 3"),
        ("a.jsonl", b'{"body": "x"}\n', "its columns are body"),
        ("a.jsonl", b'{"text": "x"\n', "a.jsonl, line 1: not JSON"),
        ("a.jsonl", b'{"text": "x \\ud800"}\n', "a.jsonl, line 1: the text is not Unicode"),
        ("a.jsonl", b"[]\n", "line 1: no text in 'text', but None; its columns are none"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(map(list, read_documents(tmp_path / name)))


def test_a_giant_line_is_no_paragraph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "MAX_LINE_BYTES", 2**20)
    (tmp_path / "a.txt").write_bytes(b"short\n" + b"x" * (2**20 + 1))
    with pytest.raises(DataError, match=r"a.txt, line 2: longer than 1 MiB. A corpus has a para"):
        list(map(list, read_documents(tmp_path / "a.txt")))


@pytest.mark.parametrize(
    "sentences",
    [
        ["It rains.", "We stay in!", "Do you?", "Yes…", "Well."],
        ['"Come in," he said.', '"Is it late?"', "It was (nearly) ten.", "[3] So it goes."],
        ["Dr. Hale met J. R. Oak at 5 p.m. on St. Mary's Lane.", "No. 7 was shut."],
        ["the tea costs 3.50 and the u.s. is far. nobody knows."],
        ["Été comme hiver.", "Élan, oui."],
    ],
)
def test_sentences(sentences: list[str]) -> None:
    assert split_sentences("  " + " ".join(sentences)) == sentences


def test_what_has_no_end_is_cut_at_white_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "MAX_SENTENCE", 7)
    assert split_sentences("So. Ab cd ef gh i. Xyz") == ["So.", "Ab cd", "ef gh", "i.", "Xyz"]
    assert split_sentences("x" * 16) == ["x" * 7, "x" * 7, "xx"]


@given(st.text(alphabet="aB1.!? \"')\n", max_size=60))
def test_no_character_of_a_paragraph_is_lost(paragraph: str) -> None:
    assert " ".join(split_sentences(paragraph)).split() == paragraph.split()


def test_rows_hold_consecutive_sentences() -> None:
    sentences = [[1, 2], [3], [], [4, 5, 6], [7] * 9, [8]]
    rows = list(pack_document(sentences, 6, first_token=100, last_token=101))
    assert [row[1:-1] for row in rows] == [[1, 2, 3], [4, 5, 6], [7] * 4, [7] * 4, [7, 8]]
    assert {(row[0], row[-1]) for row in rows} == {(100, 101)}


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=12),
    st.integers(3, 14),
)
def test_packing_keeps_every_token_in_order(sentences: list[list[int]], max_length: int) -> None:
    rows = list(pack_document(sentences, max_length, first_token=10, last_token=11))
    assert [t for row in rows for t in row[1:-1]] == [t for ids in sentences for t in ids]
    assert all(3 <= len(row) <= max_length for row in rows)
    # A row ends only where the next sentence, or what is left of it, does not fit.
    starts = {sum(map(len, sentences[:i])) for i in range(len(sentences))}
    position = 0
    for row, following in itertools.pairwise(rows):
        position += len(row) - 2
        if position in starts:
            assert (
                len(row) - 2 + len(following) - 2 > max_length - 2 or len(following) == max_length
            )
        else:
            assert len(row) == max_length


def test_a_row_needs_room_for_a_word() -> None:
    with pytest.raises(ValueError, match="max_length is 2; a row has two special tokens and a w"):
        list(pack_document([[1]], 2, first_token=0, last_token=0))
