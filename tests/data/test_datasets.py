from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from distilbert_tf.data.datasets import make_dataset
from distilbert_tf.data.examples import Examples
from distilbert_tf.data.sampler import SORTED_BATCHES
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer


def numbered(count: int) -> Examples:
    """Row i is i + 1 characters long, and its label is its number."""
    return Examples((tuple("x" * (i + 1) for i in range(count)),), np.arange(count, dtype="int32"))


def spell(text: tf.Tensor, pair: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
    """Stands in for the tokenizer: a token for each character, whose id tells the row.

    Padding has ids too, as it may, and goes by the mask alone.
    """
    count = tf.strings.length(text)
    number = count if pair is None else count + 100 * tf.strings.length(pair)
    mask = tf.sequence_mask(count, tf.reduce_max(count) + 2, tf.int32)
    return {"input_ids": number[:, None] * mask + 9 * (1 - mask), "attention_mask": mask}


def row_of(inputs: dict[str, tf.Tensor]) -> np.ndarray:
    """Returns each row's number of tokens, and checks that they are all its own."""
    ids, mask = inputs["input_ids"].numpy(), inputs["attention_mask"].numpy()
    assert ids.dtype == mask.dtype == np.int32
    assert (ids == ids[:, :1] * mask).all()
    lengths = mask.sum(axis=1)
    assert (mask == (np.arange(mask.shape[1]) < lengths[:, None])).all()
    return ids[:, 0]


def test_evaluation_keeps_the_order_and_every_row() -> None:
    batches = list(make_dataset(numbered(10), spell, batch_size=4))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert np.concatenate([labels for _, labels in batches]).tolist() == list(range(10))
    assert [row_of(inputs).tolist() for inputs, _ in batches][2] == [9, 10]
    assert [inputs["input_ids"].shape[1] for inputs, _ in batches] == [4, 8, 10]


@pytest.mark.parametrize("count", [1, 7, 2 * SORTED_BATCHES, 2 * SORTED_BATCHES + 3])
def test_training_gives_every_row_once_in_even_batches(count: int) -> None:
    dataset = make_dataset(numbered(count), spell, batch_size=2, shuffle_seed=3)
    epochs = [list(dataset), list(dataset)]
    for batches in epochs:
        assert len(batches) == len(dataset) == -(-count // 2)
        assert sorted(np.concatenate([labels for _, labels in batches])) == list(range(count))
        for inputs, labels in batches:
            assert (row_of(inputs) == labels.numpy() + 1).all()
            assert inputs["input_ids"].shape[1] == labels.numpy().max() + 1  # no wider than needed
    if count > 10:
        first, second = (np.concatenate([x for _, x in epoch]).tolist() for epoch in epochs)
        assert first != second


def test_pairs_reach_the_tokenizer_together() -> None:
    pairs = Examples((("a", "bb", "ccc"), ("dddd", "e", "ff")), np.array([2, 0, 1], "int32"))
    ((inputs, labels),) = make_dataset(pairs, spell, batch_size=3, shuffle_seed=0)
    by_label = dict(zip(labels.numpy().tolist(), row_of(inputs).tolist(), strict=True))
    assert by_label == {2: 401, 0: 102, 1: 203}


def test_one_width_for_all_batches() -> None:
    batches = list(make_dataset(numbered(5), spell, batch_size=2, width=7))
    assert [inputs["input_ids"].shape for inputs, _ in batches] == [(2, 7), (2, 7), (1, 7)]
    assert np.concatenate([row_of(inputs) for inputs, _ in batches]).tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="A row has 5 tokens, but width=4"):
        make_dataset(numbered(5), spell, batch_size=2, width=4)


def test_texts_are_tokenized_once() -> None:
    calls = []

    def count(text: tf.Tensor) -> dict[str, tf.Tensor]:
        tf.py_function(lambda rows: calls.append(int(tf.size(rows))), [text], [])
        return spell(text)

    dataset = make_dataset(numbered(30), count, batch_size=4, shuffle_seed=1)
    assert sum(calls) == 30
    for _ in range(3):
        assert len(list(dataset)) == 8
    assert sum(calls) == 30


def test_rows_are_what_the_tokenizer_gives(demo: Path) -> None:
    """More rows than are tokenized at once, of uneven lengths, cut at 16 tokens."""
    texts = [f"{'so ' * (i % 40)}it rained on day {i}, naïve as we were" for i in range(1500)]
    tokenizer = DistilBertTokenizer.from_pretrained(demo)
    examples = Examples((tuple(texts),), np.arange(1500, dtype="int32"))
    dataset = make_dataset(examples, tokenizer.as_layer(max_length=16), 32, shuffle_seed=5)
    expected = tokenizer(texts, truncation=True, max_length=16)["input_ids"]
    seen = 0
    for inputs, labels in dataset:
        for ids, mask, label in zip(*map(np.array, inputs.values()), labels.numpy(), strict=True):
            assert ids[mask != 0].tolist() == expected[label]
            seen += 1
    assert seen == 1500
