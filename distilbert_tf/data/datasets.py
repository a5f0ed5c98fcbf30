"""Turns texts and labels into batches in `tf.data`.

Shapes: B rows of a batch, T tokens of the longest row in it.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from distilbert_tf.data.examples import Examples
from distilbert_tf.data.sampler import EpochSampler

TOKENIZED_ROWS = 1024  # rows in a call of the tokenizer


class TokenRows(NamedTuple):
    """The token ids of many rows, without padding.

    Attributes:
        ids: int32 (sum of the lengths,), row after row.
        starts: int32 (N,), where in `ids` each row begins.
        lengths: int32 (N,).
    """

    ids: tf.Tensor
    starts: tf.Tensor
    lengths: tf.Tensor

    def batch(self, rows: tf.Tensor, width: int | None = None) -> dict[str, tf.Tensor]:
        """Returns the padded model inputs of some rows.

        Args:
            rows: Integers (B,), indices of rows.
            width: T; the length of the longest of the rows if None.

        Returns:
            `input_ids` and `attention_mask`, each int32 (B, T).
        """
        lengths = tf.gather(self.lengths, rows)[:, tf.newaxis]
        places = tf.range(tf.reduce_max(lengths) if width is None else width)
        is_token = places < lengths  # (B, T)
        indices = tf.where(is_token, tf.gather(self.starts, rows)[:, tf.newaxis] + places, 0)
        ids = tf.where(is_token, tf.gather(self.ids, indices), 0)
        return {"input_ids": ids, "attention_mask": tf.cast(is_token, tf.int32)}


def tokenize_examples(
    examples: Examples, tokenize: Callable[..., dict[str, tf.Tensor]]
) -> TokenRows:
    """Tokenizes all examples, on all cores.

    Args:
        examples: N examples.
        tokenize: The in-graph tokenizer: strings (B,), twice for pairs, to a dict of (B, T).

    Returns:
        The token ids of all rows, in the order of the examples.
    """
    texts = tf.data.Dataset.from_tensor_slices(tuple(map(tf.constant, examples.texts)))

    def strip(*columns: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        tokens = tokenize(*columns)
        is_token = tokens["attention_mask"] != 0
        lengths = tf.reduce_sum(tokens["attention_mask"], axis=1)
        return tf.boolean_mask(tokens["input_ids"], is_token), lengths

    batches = texts.batch(TOKENIZED_ROWS).map(strip, num_parallel_calls=tf.data.AUTOTUNE)
    ids, lengths = zip(*batches.prefetch(tf.data.AUTOTUNE), strict=True)
    all_lengths = tf.concat(lengths, 0)
    return TokenRows(tf.concat(ids, 0), tf.cumsum(all_lengths, exclusive=True), all_lengths)


def make_dataset(
    examples: Examples,
    tokenize: Callable[..., dict[str, tf.Tensor]],
    batch_size: int,
    *,
    shuffle_seed: int | None = None,
    width: int | None = None,
) -> tf.data.Dataset:
    """Turns examples into batches for `fit`, `evaluate` and `predict`.

    Every text is tokenized once, here, and its token ids are kept in memory (about 60 bytes for a
    sentence of SST-2); an epoch then costs a few gathers. For training, rows are reshuffled each
    time the dataset is iterated, into batches of rows of similar length: see `EpochSampler`.

    Args:
        examples: The rows.
        tokenize: The in-graph tokenizer: strings (B,), twice for pairs, to a dict of (B, T).
        batch_size: B; one batch of an epoch may be smaller.
        shuffle_seed: Seed of the shuffling; without one, rows stay in file order.
        width: T for all batches, at least the tokenizer's `max_length`: XLA needs static shapes. By
            default each batch is as wide as its longest row.

    Returns:
        A dataset of pairs of inputs (`input_ids`, `attention_mask`: int32 (B, T)) and labels,
        int32 (B,) or as `Examples` have them, of known cardinality.

    Raises:
        ValueError: A row is longer than `width`.

    Example:
        examples = load_examples(get_task("sst2"), "demo", "train")
        tokenize = DistilBertTokenizer.from_pretrained("demo").as_layer(max_length=64)
        dataset = make_dataset(examples, tokenize, batch_size=16, shuffle_seed=1)
        inputs, labels = next(iter(dataset))
    """
    tokens = tokenize_examples(examples, tokenize)
    longest = int(tf.reduce_max(tokens.lengths))
    if width is not None and longest > width:
        raise ValueError(f"A row has {longest} tokens, but width={width}.")
    labels = tf.constant(examples.labels)
    count = len(examples)
    if shuffle_seed is None:
        rows = tf.data.Dataset.range(count).batch(batch_size)
    else:
        sampler = EpochSampler(
            tokens.lengths.numpy(), (count,), batch_size, shuffle_seed, drop_remainder=False
        )
        epochs = itertools.count()
        rows = tf.data.Dataset.from_generator(
            lambda: sampler.batches(next(epochs)),
            output_signature=tf.TensorSpec([None], tf.int64),
        )
    dataset = rows.map(
        lambda batch: (tokens.batch(batch, width), tf.gather(labels, batch)),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return dataset.prefetch(tf.data.AUTOTUNE).apply(
        tf.data.experimental.assert_cardinality(-(-count // batch_size))
    )
