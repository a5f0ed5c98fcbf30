"""Scores of classifiers, all from one table: the confusion matrix; and those of other heads.

Shapes: B rows, C classes. A confusion matrix is float (C, C), rows the true labels, columns the
predicted ones.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from distilbert_tf.checkpoints.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL


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


class TaskMetrics(keras.metrics.Metric, abc.ABC):
    """Loss and scores of one head over all batches, each row counted by its weight.

    The scores are functions of counts and sums, so they do not depend on how rows are put into
    batches, or batches on replicas.

    Args:
        num_labels: C.
        metrics: Names in `known`; by default the first of them.
        prefix: What the names of the results begin with.
        **kwargs: `keras.metrics.Metric`'s arguments.

    Attributes:
        known: The scores of such a head: functions of `statistics`.
        statistics: What is counted.

    Raises:
        ValueError: An unknown metric.
    """

    known: ClassVar[Mapping[str, Callable[[tf.Tensor], tf.Tensor]]]
    statistics: keras.Variable

    def __init__(
        self,
        num_labels: int,
        metrics: Sequence[str] = (),
        prefix: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        metrics = metrics or tuple(self.known)[:1]
        if unknown := [name for name in metrics if name not in self.known]:
            raise ValueError(
                f"There is no metric {unknown[0]!r}; known are {', '.join(self.known)}."
            )
        self.num_labels, self.metric_names, self.prefix = num_labels, tuple(metrics), prefix
        self.total_loss = self.add_variable((), "zeros", dtype="float32", name="total_loss")
        self.rows = self.add_variable((), "zeros", dtype="float32", name="rows")

    def update_state(
        self, labels: tf.Tensor, logits: tf.Tensor, losses: tf.Tensor, weights: tf.Tensor
    ) -> None:
        """Adds rows.

        Args:
            labels: As in `Examples`; label ids in [0, C) wherever the weight is not 0.
            logits: Float (B, C).
            losses: Float (B,), each row's loss.
            weights: Float (B,): 1 for a row that counts, 0 for one that does not.
        """
        self.statistics.assign_add(self.count(labels, logits, weights))
        self.total_loss.assign_add(tf.reduce_sum(losses * weights))
        self.rows.assign_add(tf.reduce_sum(weights))

    @abc.abstractmethod
    def count(self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Returns what rows add to `statistics`."""

    def read_confusion(self) -> np.ndarray:
        """Returns the confusion that `Scores` have, int64."""
        return np.rint(tf.convert_to_tensor(self.statistics.value)).astype(np.int64)

    def result(self) -> dict[str, tf.Tensor]:
        """Returns the mean loss and the scores by name."""
        statistics = tf.convert_to_tensor(self.statistics)
        loss = tf.math.divide_no_nan(
            tf.convert_to_tensor(self.total_loss), tf.convert_to_tensor(self.rows)
        )
        scores = {name: self.known[name](statistics) for name in self.metric_names}
        return {f"{self.prefix}{name}": value for name, value in {"loss": loss, **scores}.items()}

    def get_config(self) -> dict[str, Any]:
        """Describes the metric for Keras' files."""
        return {
            **super().get_config(),
            "num_labels": self.num_labels,
            "metrics": list(self.metric_names),
            "prefix": self.prefix,
        }


@keras.saving.register_keras_serializable(package="distilbert_tf")
class ClassificationMetrics(TaskMetrics):
    """Scores of a classifier that picks one of C labels; counts a confusion matrix (C, C)."""

    known = METRICS

    def __init__(self, num_labels: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_labels, *args, **kwargs)
        self.statistics = self.add_variable(
            (num_labels, num_labels), "zeros", dtype="float32", name="confusion"
        )

    def count(self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """See `TaskMetrics`."""
        true = tf.one_hot(labels, self.num_labels) * weights[:, tf.newaxis]
        predicted = tf.one_hot(tf.argmax(logits, axis=-1), self.num_labels)
        return tf.matmul(true, predicted, transpose_a=True)


def _micro_f1(tables: tf.Tensor) -> tf.Tensor:
    right, wrong = tables[:-1, 1, 1], tables[:-1, 0, 1] + tables[:-1, 1, 0]
    right, wrong = tf.reduce_sum(right), tf.reduce_sum(wrong)
    return tf.math.divide_no_nan(2 * right, 2 * right + wrong)


def _mean_f1(tables: tf.Tensor) -> tf.Tensor:
    right, wrong = tables[:-1, 1, 1], tables[:-1, 0, 1] + tables[:-1, 1, 0]
    return tf.reduce_mean(tf.math.divide_no_nan(2 * right, 2 * right + wrong))


def _exact_matches(tables: tf.Tensor) -> tf.Tensor:
    return tf.math.divide_no_nan(tables[-1, 1, 1], tf.reduce_sum(tables[-1]))


@keras.saving.register_keras_serializable(package="distilbert_tf")
class MultiLabelMetrics(TaskMetrics):
    """Scores of a head that says of each of C labels whether a row has it (above 0 logits).

    Counts (C + 1, 2, 2): for each label, whether rows have it and whether that is predicted; and,
    as if it were one more label that all rows have, whether all of a row's are right.
    """

    known: ClassVar = {
        "micro_f1": _micro_f1, "macro_f1": _mean_f1, "accuracy": _exact_matches,
    }  # fmt: skip

    def __init__(self, num_labels: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_labels, *args, **kwargs)
        self.statistics = self.add_variable(
            (num_labels + 1, 2, 2), "zeros", dtype="float32", name="tables"
        )

    def count(self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """See `TaskMetrics`."""
        true, predicted = labels > 0.5, logits > 0.0  # (B, C)
        is_right = tf.reduce_all(tf.equal(true, predicted), axis=1, keepdims=True)
        true = tf.concat([true, tf.ones_like(is_right)], axis=1)
        predicted = tf.concat([predicted, is_right], axis=1)
        # (B, C + 1, 2) each
        pairs = [tf.one_hot(tf.cast(one, tf.int32), 2) for one in (true, predicted)]
        return tf.einsum("b,bct,bcp->ctp", weights, *pairs)

    def read_confusion(self) -> np.ndarray:
        """See `TaskMetrics`: (C, 2, 2)."""
        return super().read_confusion()[:-1]


def _moments(sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
    rows, true, predicted, true_squares, predicted_squares, products = tf.unstack(sums)
    mean_true, mean_predicted = true / rows, predicted / rows
    return (
        true_squares / rows - mean_true**2,
        predicted_squares / rows - mean_predicted**2,
        products / rows - mean_true * mean_predicted,
        (true_squares - 2 * products + predicted_squares) / rows,
    )


def _pearson(sums: tf.Tensor) -> tf.Tensor:
    variance, predicted_variance, covariance, _ = _moments(sums)
    spread = tf.sqrt(tf.maximum(variance * predicted_variance, 0))
    return tf.cast(tf.math.divide_no_nan(covariance, spread), tf.float32)


def _r2(sums: tf.Tensor) -> tf.Tensor:
    variance, _, _, error = _moments(sums)
    return tf.cast(1 - tf.math.divide_no_nan(error, variance), tf.float32)


@keras.saving.register_keras_serializable(package="distilbert_tf")
class RegressionMetrics(TaskMetrics):
    """Scores of a head that predicts a number; the loss is the mean squared error.

    Sums numbers, squares and products in float64: their differences are what counts.
    """

    known: ClassVar = {"pearson": _pearson, "r2": _r2}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.statistics = self.add_variable((6,), "zeros", dtype="float64", name="sums")

    def count(self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """See `TaskMetrics`."""
        true, predicted = tf.cast(labels, tf.float64), tf.cast(logits[:, 0], tf.float64)
        terms = [tf.ones_like(true), true, predicted, true**2, predicted**2, true * predicted]
        return tf.linalg.matvec(tf.stack(terms), tf.cast(weights, tf.float64))

    def read_confusion(self) -> np.ndarray:
        """See `TaskMetrics`: (0, 0)."""
        return np.zeros((0, 0), np.int64)


METRICS_OF: dict[str | None, type[TaskMetrics]] = {
    None: ClassificationMetrics,
    SINGLE_LABEL: ClassificationMetrics,
    MULTI_LABEL: MultiLabelMetrics,
    REGRESSION: RegressionMetrics,
}
