from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from distilbert_tf.data import (
    SORTED_BATCHES,
    DataError,
    Examples,
    load_examples,
    make_dataset,
    read_tsv,
)
from distilbert_tf.tasks import TASKS

SST2, MNLI, QQP = TASKS["sst2"], TASKS["mnli"], TASKS["qqp"]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_quotes_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    text = '\ufeffsentence\tlabel\r\n"Unbalanced quote, she said.\t1\r\nend\u2028of line\t0\r\n'
    examples = read_tsv(write(tmp_path / "train.tsv", text), SST2)
    assert examples.texts == (('"Unbalanced quote, she said.', "end\u2028of line"),)
    assert examples.labels.tolist() == [1, 0]


def test_columns_are_found_by_name_among_others(tmp_path: Path) -> None:
    header = "index\tpairID\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n"
    rows = "0\t9n\tfiction\tA\tB\tneutral\tcontradiction\n1\t4e\tletters\tC\tD\tneutral\tneutral\n"
    examples = read_tsv(write(tmp_path / "train.tsv", header + rows), MNLI)
    assert examples.texts == (("A", "C"), ("B", "D"))
    assert examples.labels.tolist() == [2, 1]


def test_questions_with_the_hubs_column_order(tmp_path: Path) -> None:
    text = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n7\t1\t2\tWhy?\tHow come?\t1\n"
    examples = read_tsv(write(tmp_path / "dev.tsv", text), QQP)
    assert examples.texts == (("Why?",), ("How come?",))
    assert examples.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sentence\tlabel\nfine\t1\nno label\n", r"train\.tsv, line 3: 1 fields, .* has 2"),
        ("sentence\tlabel\na\tb\t1\n", "line 2: 3 fields"),
        ("sentence\tlabel\nfine\t2\n", "line 2: the label '2' in column 'label' is none of 0, 1"),
        ("text\tlabel\nfine\t1\n", "no column 'sentence'; its header is text, label"),
        ("sentence\tlabel\n", "has no rows"),
        ("", "no column 'sentence'; its header is empty"),
        (b"sentence\tlabel\n\xff\t1\n", "is not UTF-8"),
    ],
)
def test_bad_files_say_where_and_why(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_tsv(write(tmp_path / "train.tsv", content), SST2)


def test_splits_are_found_directly_and_in_glues_folder(tmp_path: Path) -> None:
    (tmp_path / "SST-2").mkdir()
    write(tmp_path / "SST-2" / "dev.tsv", "sentence\tlabel\ndeep\t1\n")
    assert load_examples(SST2, tmp_path, "validation").texts == (("deep",),)
    write(tmp_path / "dev.tsv", "sentence\tlabel\nshallow\t0\n")
    assert load_examples(SST2, tmp_path, "validation").texts == (("shallow",),)


def test_missing_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", "")
    with pytest.raises(FileNotFoundError, match=r"dev_mismatched\.tsv.* holds notes\.txt"):
        load_examples(MNLI, tmp_path, "validation_mismatched")
    with pytest.raises(FileNotFoundError, match="no data directory"):
        load_examples(SST2, tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="has no split 'dev'"):
        load_examples(SST2, tmp_path, "dev")


def numbered(count: int) -> Examples:
    """Row i is i + 1 characters long, and its label is its number."""
    return Examples((tuple("x" * (i + 1) for i in range(count)),), np.arange(count, dtype="int32"))


def lengths(text: tf.Tensor, pair: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
    """Stands in for the tokenizer: enough to tell which row is which."""
    count = tf.strings.length(text)
    return {"length": count if pair is None else count + 100 * tf.strings.length(pair)}


def test_evaluation_keeps_the_order_and_every_row() -> None:
    batches = list(make_dataset(numbered(10), lengths, batch_size=4))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert np.concatenate([labels for _, labels in batches]).tolist() == list(range(10))
    assert batches[2][0]["length"].numpy().tolist() == [9, 10]


@pytest.mark.parametrize("count", [1, 7, 2 * SORTED_BATCHES, 2 * SORTED_BATCHES + 3])
def test_training_gives_every_row_once_in_even_batches(count: int) -> None:
    dataset = make_dataset(numbered(count), lengths, batch_size=2, shuffle_seed=3)
    epochs = [list(dataset), list(dataset)]
    for batches in epochs:
        assert len(batches) == len(dataset) == -(-count // 2)
        assert sorted(np.concatenate([labels for _, labels in batches])) == list(range(count))
        for inputs, labels in batches:
            assert (inputs["length"].numpy() == labels.numpy() + 1).all()
    if count == 2 * SORTED_BATCHES:  # one window: each batch holds neighbours in length
        assert all(abs(labels[0] - labels[1]) == 1 for _, labels in epochs[0])
    if count > 10:
        first, second = (np.concatenate([x for _, x in epoch]).tolist() for epoch in epochs)
        assert first != second


def test_the_seed_repeats_the_shuffle() -> None:
    def order(seed: int) -> list[int]:
        dataset = make_dataset(numbered(150), lengths, batch_size=2, shuffle_seed=seed)
        return np.concatenate([labels for _, labels in dataset]).tolist()

    assert order(1) == order(1) != order(2)


def test_pairs_reach_the_tokenizer_together() -> None:
    pairs = Examples((("a", "bb", "ccc"), ("dddd", "e", "ff")), np.array([2, 0, 1], "int32"))
    ((inputs, labels),) = make_dataset(pairs, lengths, batch_size=3, shuffle_seed=0)
    by_label = dict(zip(labels.numpy().tolist(), inputs["length"].numpy().tolist(), strict=True))
    assert by_label == {2: 401, 0: 102, 1: 203}
