"""Rows of several tasks as batches for every replica: for training, and for evaluation.

Shapes: N rows of all tasks, B rows of a batch, T tokens of the longest row in it, R replicas, L the
most labels of any task.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from distilbert_tf.data.datasets import TokenRows, tokenize_examples
from distilbert_tf.data.examples import Examples
from distilbert_tf.data.sampler import EpochSampler
from distilbert_tf.training.strategy import distribute

# What a model of several tasks gets as its targets; the last one if there is a teacher.
LABEL, TASK, TEACHER_LOGITS = "label", "task", "teacher_logits"


class TaskRows(NamedTuple):
    """The tokenized rows of several tasks, one task after the other.

    Attributes:
        tokens: The token ids.
        labels: int32 (N,), label ids; or, of a single task, what else `Examples` have.
        tasks: int32 (N,), which task each row is of.
        teacher_logits: What a teacher says of each row: see `Teacher.find_logits`.
    """

    tokens: TokenRows
    labels: tf.Tensor
    tasks: tf.Tensor
    teacher_logits: tf.Tensor | None = None

    def lengths(self) -> np.ndarray:
        """Returns the number of tokens of each row: (N,)."""
        return self.tokens.lengths.numpy()

    def batch(
        self, rows: tf.Tensor, width: int | None
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Makes a model's inputs and targets of rows (B,).

        Returns:
            A dict of (B, T), and one of `label` and `task`, (B,), and, if there is a teacher,
            `teacher_logits`, (B, L).
        """
        targets = {LABEL: tf.gather(self.labels, rows), TASK: tf.gather(self.tasks, rows)}
        if self.teacher_logits is not None:
            targets[TEACHER_LOGITS] = tf.gather(self.teacher_logits, rows)
        return self.tokens.batch(rows, width), targets


def collect_rows(
    examples: Sequence[Examples], tokenize: Callable[..., dict[str, tf.Tensor]]
) -> TaskRows:
    """Tokenizes the examples of all tasks.

    Args:
        examples: Those of each task.
        tokenize: The in-graph tokenizer: strings (B,), twice for pairs, to a dict of (B, T).

    Returns:
        The rows, task after task, in the order of the examples.
    """
    parts = [tokenize_examples(part, tokenize) for part in examples]
    lengths = tf.concat([part.lengths for part in parts], 0)
    tokens = TokenRows(
        tf.concat([part.ids for part in parts], 0), tf.cumsum(lengths, exclusive=True), lengths
    )
    tasks = np.repeat(np.arange(len(examples)), [len(part) for part in examples])
    labels = np.concatenate([part.labels for part in examples])
    return TaskRows(tokens, tf.constant(labels), tf.constant(tasks, tf.int32))


def training_batches(
    rows: TaskRows,
    sampler: EpochSampler,
    strategy: tf.distribute.Strategy,
    *,
    width: int | None = None,
    first_epoch: int = 0,
    first_step: int = 0,
) -> Any:
    """Makes the endless stream of a run's batches, for `fit` with `sampler.steps_per_epoch`.

    Args:
        rows: What to train on.
        sampler: Which rows each step sees.
        strategy: Its replicas get equal parts of each batch.
        width: T for all batches; by default each part of a batch is as wide as its longest row.
        first_epoch: Where to begin.
        first_step: The step of that epoch to begin with.

    Returns:
        A dataset of pairs: a model's inputs, int32 (B / R, T), and its targets, see
        `TaskRows.batch`, of B / R rows.
    """

    def steps() -> Iterator[np.ndarray]:
        return sampler.steps(first_epoch, first_step)

    def make_for(first: int, count: int) -> tf.data.Dataset:
        spec = tf.TensorSpec([sampler.batch_size], tf.int64)
        numbers = tf.data.Dataset.from_generator(steps, output_signature=spec)
        batches = _feed(rows, _for_replicas(numbers, strategy, first, count), width)
        # Of an endless dataset, TensorFlow knows that every replica always gets a whole part.
        return batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))

    return distribute(strategy, make_for)


def evaluation_batches(
    rows: TaskRows,
    batch_size: int,
    strategy: tf.distribute.Strategy,
    *,
    width: int | None = None,
    step_multiple: int = 1,
) -> tuple[Any, int]:
    """Makes batches that count every row once, in file order.

    Where the last batches are not full, they are filled up with rows of weight 0, so that all
    replicas have the same number of equal parts.

    Args:
        rows: What to evaluate on.
        batch_size: B.
        strategy: Its replicas get equal parts of each batch.
        width: T for all batches; by default each part of a batch is as wide as its longest row.
        step_multiple: The number of steps is a multiple of this.

    Returns:
        A dataset of triples, inputs, targets and weights, float32 (B / R,); and its number of
        steps.
    """
    count = len(rows.lengths())
    replicas = strategy.num_replicas_in_sync
    chunk = batch_size * step_multiple if replicas > 1 or step_multiple > 1 else 1
    total = -(-count // chunk) * chunk
    steps = -(-total // batch_size)

    def make_for(first: int, local: int) -> tf.data.Dataset:
        numbers = tf.data.Dataset.range(total).batch(batch_size, drop_remainder=chunk > 1)
        numbers = _for_replicas(numbers, strategy, first, local)
        weights = numbers.map(lambda batch: tf.cast(batch < count, tf.float32))
        batches = _feed(rows, numbers.map(lambda batch: tf.minimum(batch, count - 1)), width)
        return tf.data.Dataset.zip((batches, weights)).map(lambda pair, weights: (*pair, weights))

    return distribute(strategy, make_for), steps


def _for_replicas(
    numbers: tf.data.Dataset, strategy: tf.distribute.Strategy, first: int, count: int
) -> tf.data.Dataset:
    """Cuts each batch of row numbers into the parts of `count` replicas from `first` on."""
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return numbers
    parts = numbers.map(lambda batch: tf.reshape(batch, [replicas, -1])[first : first + count])
    return parts.unbatch()


def _feed(rows: TaskRows, numbers: tf.data.Dataset, width: int | None) -> tf.data.Dataset:
    batches = numbers.map(
        lambda batch: rows.batch(batch, width), num_parallel_calls=tf.data.AUTOTUNE
    )
    return batches.prefetch(tf.data.AUTOTUNE)
