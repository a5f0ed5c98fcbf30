"""Batches of masked text from a prepared corpus, for every replica.

Which rows a step sees, and how they are masked, depends on seed, epoch and step alone: a run
resumes anywhere, and all workers agree. Memory holds a window of rows, whatever the corpus.

Shapes: B rows of a batch, T tokens of its longest row (or `width`), R replicas.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from distilbert_tf.data.corpus_records import TRAIN, Corpus
from distilbert_tf.data.masking import NOT_MASKED, Masking
from distilbert_tf.training.strategy import distribute

# Targets.
LABELS = "labels"  # int32 (B, T), see `Masking.apply`
BATCH_TOKENS = "batch_tokens"  # float32 (B,), how many tokens the whole batch has, in each row
BATCH_MASKED = "batch_masked"  # float32 (B,), how many of them masked LM asks for

WINDOW = 16_384  # rows that are shuffled together
_SHARDS_AT_ONCE = 8
_EVALUATION_SEED = 0


@dataclasses.dataclass(frozen=True)
class CorpusBatches:
    """The batches of one split of a corpus.

    Attributes:
        corpus: Where the rows are.
        split: Which of them.
        masking: How they are masked, anew in every epoch.
        batch_size: B.
        seed: Decides on order and masks.
        width: T for all batches; None for that of the longest row.
        max_rows: Use the first so many rows alone, if given; for evaluations.
        window: How many rows are shuffled together.

    Example:
        from distilbert_tf.data.corpus_writer import prepare_corpus
        from distilbert_tf.data.demo_corpus import write_demo_corpus

        tokenizer = DistilBertTokenizer.from_pretrained("demo")
        write_demo_corpus("demo.txt")
        corpus = prepare_corpus(["demo.txt"], "corpus", tokenizer)
        masking = Masking(tokenizer.mask_token_id, tokenizer.all_special_ids, len(tokenizer))
        batches = CorpusBatches(corpus, "train", masking, batch_size=32, seed=42)
        inputs, targets = next(iter(batches.training(tf.distribute.get_strategy())))
    """

    corpus: Corpus
    split: str
    masking: Masking
    batch_size: int
    seed: int = 0
    width: int | None = None
    max_rows: int | None = None
    window: int = WINDOW

    @property
    def rows(self) -> int:
        """Rows in an epoch, of which what does not fill a training batch is left out."""
        rows = self.corpus.rows(self.split)
        return rows if self.max_rows is None else min(rows, self.max_rows)

    @property
    def steps_per_epoch(self) -> int:
        """Training batches in an epoch."""
        return self.rows // self.batch_size

    def training(
        self, strategy: tf.distribute.Strategy, first_epoch: int = 0, first_step: int = 0
    ) -> Any:
        """Makes the endless stream of training batches.

        Args:
            strategy: Its replicas get equal parts of each batch.
            first_epoch: Where to begin.
            first_step: The step of that epoch to begin with.

        Returns:
            A dataset of pairs: `input_ids` and `attention_mask`, int32 (B / R, T); and targets, see
            the constants of this module.
        """

        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            batches = self._shuffled(number).batch(self.batch_size, drop_remainder=True)
            return tf.data.Dataset.zip((_counted(number), batches))

        numbers = tf.data.Dataset.range(first_epoch, tf.int64.max)
        steps = numbers.flat_map(epoch).skip(first_step)
        batches = steps.map(self._make_batch, tf.data.AUTOTUNE)
        # Of an endless dataset, TensorFlow knows that every replica always gets a whole part.
        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        return _share(batches, strategy, endless)

    def evaluation(self, strategy: tf.distribute.Strategy) -> tuple[Any, int]:
        """Makes batches that count every row once, in file order, always masked alike.

        The last batch is filled up with rows that hold no token.

        Returns:
            The same as of `training`, and how many batches there are.
        """
        steps = -(-self.rows // self.batch_size)
        records = tf.data.TFRecordDataset(self.corpus.paths(self.split)).take(self.rows)
        nothing = tf.data.Dataset.from_tensors("").repeat(steps * self.batch_size - self.rows)
        batches = records.concatenate(nothing).batch(self.batch_size, drop_remainder=True)
        numbered = tf.data.Dataset.zip((_counted(_EVALUATION_SEED), batches))
        made = numbered.map(self._make_batch, tf.data.AUTOTUNE)
        return _share(made, strategy), steps

    def _shuffled(self, epoch: tf.Tensor) -> tf.data.Dataset:
        """Reads the records of an epoch: shards in random order, rows shuffled in a window."""
        shards = tf.random.experimental.stateless_shuffle(
            tf.constant(self.corpus.paths(self.split)), [self.seed, epoch]
        )
        records = tf.data.Dataset.from_tensor_slices(shards).interleave(
            tf.data.TFRecordDataset,
            cycle_length=_SHARDS_AT_ONCE,
            block_length=64,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        windows = tf.data.Dataset.zip((_counted(epoch), records.batch(self.window)))
        return windows.map(
            lambda number, rows: tf.random.experimental.stateless_shuffle(
                rows, tf.stack([tf.cast(self.seed, tf.int64), number])
            )
        ).unbatch()

    def _make_batch(
        self, number: tf.Tensor, records: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        dtype = tf.as_dtype(np.dtype(self.corpus.dtype))
        lengths = tf.strings.length(records) // dtype.size  # (B,)
        width = tf.reduce_max(lengths) if self.width is None else self.width
        ids = tf.cast(tf.io.decode_raw(records, dtype, fixed_length=width * dtype.size), tf.int32)
        ids = tf.ensure_shape(ids, [self.batch_size, self.width])
        mask = tf.cast(tf.range(tf.shape(ids)[1]) < lengths[:, tf.newaxis], tf.int32)
        seed = tf.stack([tf.cast(self.seed, tf.int64) + 1, number])
        inputs, labels = self.masking.apply(ids, mask, seed)
        masked = tf.cast(labels != NOT_MASKED, tf.float32)
        ones = tf.ones([self.batch_size])
        return {"input_ids": inputs, "attention_mask": mask}, {
            LABELS: labels,
            BATCH_TOKENS: ones * tf.cast(tf.reduce_sum(mask), tf.float32),
            BATCH_MASKED: ones * tf.reduce_sum(masked),
        }


def _counted(epoch: Any) -> tf.data.Dataset:
    """Counts what comes in an epoch, with numbers that no other epoch has."""
    return tf.data.Dataset.range(tf.cast(epoch, tf.int64) * 2**32, tf.int64.max)


def _share(
    batches: tf.data.Dataset,
    strategy: tf.distribute.Strategy,
    transform: Callable[[tf.data.Dataset], tf.data.Dataset] = lambda dataset: dataset,
) -> Any:
    """Gives each replica its part of each batch."""
    replicas = strategy.num_replicas_in_sync

    def make_for(first: int, count: int) -> tf.data.Dataset:
        def cut(rows: tf.Tensor) -> tf.Tensor:
            size = rows.shape[0] // replicas
            parts = tf.reshape(rows, [replicas, size, *tf.unstack(tf.shape(rows)[1:])])
            return tf.ensure_shape(parts, [replicas, size, *rows.shape[1:]])[first : first + count]

        parts = batches
        if replicas > 1:
            parts = batches.map(lambda *batch: tf.nest.map_structure(cut, batch)).unbatch()
        return transform(parts).prefetch(tf.data.AUTOTUNE)

    return distribute(strategy, make_for)


def count_words(corpus: Corpus, vocab_size: int) -> np.ndarray:
    """Counts how often each word is in the training split: int64 (V,)."""
    counts = np.zeros(vocab_size, np.int64)
    for batch in tf.data.TFRecordDataset(corpus.paths(TRAIN)).batch(1024).as_numpy_iterator():
        counts += np.bincount(np.frombuffer(b"".join(batch), corpus.dtype), minlength=vocab_size)
    return counts
