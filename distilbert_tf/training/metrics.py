"""Scores of classifiers, all from one table: the confusion matrix.

Shapes: B rows, C classes. A confusion matrix is float (C, C), rows the true labels, columns the
predicted ones.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf


def accuracy(confusion: tf.Tensor) -> tf.Tensor:
    """Returns the share of rows whose label is predicted: scalar."""
    return tf.math.divide_no_nan(tf.linalg.trace(confusion), tf.reduce_sum(confusion))


def f1_by_label(confusion: tf.Tensor) -> tf.Tensor:
    """Returns each label's F1, the harmonic mean of precision and recall: (C,).

    A label that neither occurs nor is predicted has 0, as in scikit-learn.
    """
    right = tf.linalg.diag_part(confusion)
    both = tf.reduce_sum(confusion, 0) + tf.reduce_sum(confusion, 1)
    return tf.math.divide_no_nan(2 * right, both)


def f1(confusion: tf.Tensor) -> tf.Tensor:
    """Returns the F1 of label 1, the positive one of two: scalar."""
    return f1_by_label(confusion)[1]


def macro_f1(confusion: tf.Tensor) -> tf.Tensor:
    """Returns the mean F1 of the labels: scalar."""
    return tf.reduce_mean(f1_by_label(confusion))


def matthews_correlation(confusion: tf.Tensor) -> tf.Tensor:
    """Returns the correlation of true and predicted labels, for any number of them: scalar.

    0 if all rows have one label, or get one.

    Reference:
        Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient"
        (Computational Biology and Chemistry 28, 2004).
    """
    true, predicted = tf.reduce_sum(confusion, 1), tf.reduce_sum(confusion, 0)
    rows, right = tf.reduce_sum(confusion), tf.linalg.diag_part(confusion)
    missed, wrong = true - right, predicted - right
    # The same as differences of squares of the number of rows, but those lose rare labels to
    # rounding: float32 has 24 bits.
    covariance = tf.reduce_sum(right * (rows - right - missed - wrong) - missed * wrong)
    spreads = [tf.reduce_sum(counts * (rows - counts)) for counts in (true, predicted)]
    return tf.math.divide_no_nan(covariance, tf.sqrt(spreads[0]) * tf.sqrt(spreads[1]))


METRICS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews_correlation": matthews_correlation,
}


def log_prefix(task: str, num_tasks: int) -> str:
    """Returns what a task's figures begin with in logs: nothing if it is the only one."""
    return "" if num_tasks == 1 else f"{task}_"


@keras.saving.register_keras_serializable(package="distilbert_tf")
class ClassificationMetrics(keras.metrics.Metric):
    """Loss and scores of one classifier over all batches, each row counted by its weight.

    The scores are functions of counts, so they do not depend on how rows are put into batches, or
    batches on replicas.

    Args:
        num_labels: C.
        metrics: Names in `METRICS`.
        prefix: What the names of the results begin with.
        **kwargs: `keras.metrics.Metric`'s arguments.

    Raises:
        ValueError: An unknown metric.
    """

    def __init__(
        self,
        num_labels: int,
        metrics: Sequence[str] = ("accuracy",),
        prefix: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if unknown := [name for name in metrics if name not in METRICS]:
            raise ValueError(f"There is no metric {unknown[0]!r}; known are {', '.join(METRICS)}.")
        self.num_labels, self.metric_names, self.prefix = num_labels, tuple(metrics), prefix
        self.confusion = self.add_variable(
            (num_labels, num_labels), initializer="zeros", dtype="float32", name="confusion"
        )
        self.total_loss = self.add_variable((), "zeros", dtype="float32", name="total_loss")

    def update_state(
        self, labels: tf.Tensor, logits: tf.Tensor, losses: tf.Tensor, weights: tf.Tensor
    ) -> None:
        """Adds rows.

        Args:
            labels: Integers (B,), in [0, C) wherever the weight is not 0.
            logits: Float (B, C).
            losses: Float (B,), each row's loss.
            weights: Float (B,): 1 for a row that counts, 0 for one that does not.
        """
        true = tf.one_hot(labels, self.num_labels) * weights[:, tf.newaxis]
        predicted = tf.one_hot(tf.argmax(logits, axis=-1), self.num_labels)
        self.confusion.assign_add(tf.matmul(true, predicted, transpose_a=True))
        self.total_loss.assign_add(tf.reduce_sum(losses * weights))

    def result(self) -> dict[str, tf.Tensor]:
        """Returns the mean loss and the scores by name."""
        confusion = tf.convert_to_tensor(self.confusion)
        rows = tf.reduce_sum(confusion)
        loss = tf.math.divide_no_nan(tf.convert_to_tensor(self.total_loss), rows)
        results = {"loss": loss} | {name: METRICS[name](confusion) for name in self.metric_names}
        return {f"{self.prefix}{name}": value for name, value in results.items()}

    def get_config(self) -> dict[str, Any]:
        """Describes the metric for Keras' files."""
        return {
            **super().get_config(),
            "num_labels": self.num_labels,
            "metrics": list(self.metric_names),
            "prefix": self.prefix,
        }
