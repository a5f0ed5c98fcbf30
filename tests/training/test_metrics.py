"""Scores against scikit-learn's, on the same labels and predictions."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from comparing import FEW, assert_close, near
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from distilbert_tf.data.tasks import METRIC_NAMES
from distilbert_tf.training import metrics
from distilbert_tf.training.metrics import ClassificationMetrics


@st.composite
def rows(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    """Draws C, true labels and predicted ones; often some labels are missing from either."""
    count = draw(st.integers(2, 5))
    used = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count))
    label = st.sampled_from(used) | st.integers(0, count - 1)
    pairs = draw(st.lists(st.tuples(label, label), min_size=1, max_size=40))
    true, predicted = map(list, zip(*pairs, strict=True))
    return count, true, predicted


def confusion(count: int, true: list[int], predicted: list[int]) -> np.ndarray:
    table = np.zeros((count, count), np.float32)
    np.add.at(table, (true, predicted), 1)
    return table


def theirs(count: int, true: list[int], predicted: list[int]) -> dict[str, float]:
    labels = list(range(count))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels that never occur
        scores = {
            "accuracy": sklearn_metrics.accuracy_score(true, predicted),
            "macro_f1": sklearn_metrics.f1_score(
                true, predicted, labels=labels, average="macro", zero_division=0
            ),
            "matthews_correlation": sklearn_metrics.matthews_corrcoef(true, predicted),
        }
        if count == 2:
            scores["f1"] = sklearn_metrics.f1_score(true, predicted, zero_division=0)
    return scores


@settings(max_examples=150, deadline=None)
@given(drawn=rows())
@example(drawn=(2, [0, 0, 0], [0, 0, 0]))
@example(drawn=(2, [0, 0, 0], [1, 1, 1]))
@example(drawn=(2, [1, 0, 1], [0, 0, 0]))
@example(drawn=(3, [2], [2]))
@example(drawn=(4, [0, 1, 2, 3], [1, 1, 1, 1]))
@example(drawn=(5, [3, 3, 3], [0, 1, 2]))
def test_scores_are_those_of_scikit_learn(drawn: tuple[int, list[int], list[int]]) -> None:
    count, true, predicted = drawn
    table = tf.constant(confusion(*drawn))
    for name, expected in theirs(*drawn).items():
        assert float(metrics.METRICS[name](table)) == near(expected, FEW, size=1.0), name
    by_label = sklearn_metrics.f1_score(
        true, predicted, labels=list(range(count)), average=None, zero_division=0
    )
    assert_close(metrics.f1_by_label(table), by_label, FEW)


def test_rare_labels_among_many_rows_are_not_rounded_away() -> None:
    """In float32 the square of a million has no room for a difference of a few."""
    for table in ([[999_990, 3], [4, 3]], [[10**7, 0], [1, 0]], [[0, 10**7], [0, 1]]):
        (a, b), (c, d) = table
        spread = (a + b) * (c + d) * (a + c) * (b + d)
        expected = 0.0 if spread == 0 else (a * d - b * c) / spread**0.5
        score = float(metrics.matthews_correlation(tf.constant(table, tf.float32)))
        assert score == near(expected, FEW, size=1.0)
    three = np.array([[400_000, 2, 1], [1, 5, 0], [3, 0, 4]])
    true, predicted = (np.repeat(axis.ravel(), three.ravel()) for axis in np.indices((3, 3)))
    score = float(metrics.matthews_correlation(tf.constant(three, tf.float32)))
    assert score == near(sklearn_metrics.matthews_corrcoef(true, predicted), FEW, size=1.0)


def test_there_is_a_function_for_every_name_that_a_task_may_give() -> None:
    for kind, names in METRIC_NAMES.items():
        assert tuple(metrics.METRICS_OF[kind].known) == names


class Rows:
    """Logits and labels of some rows, and which of them count."""

    def __init__(self, count: int, size: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.logits = random.normal(size=(size, count)).astype("float32")
        self.labels = random.integers(0, count, size)
        self.weights = (random.random(size) < 0.8).astype("float32")
        self.weights[0] = 1.0
        # Rows that do not count may hold anything: another task's labels and losses.
        self.labels[self.weights == 0] = 9
        self.losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            np.where(self.weights, self.labels, 0), self.logits
        ).numpy()

    def feed(self, metric: ClassificationMetrics, cuts: list[int]) -> dict[str, float]:
        for part in np.split(np.arange(len(self.labels)), cuts):
            parts = (self.labels[part], self.logits[part], self.losses[part], self.weights[part])
            metric.update_state(*map(tf.constant, parts))
        return {name: float(value) for name, value in metric.result().items()}


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(2, 5),
    size=st.integers(1, 30),
    seed=st.integers(0, 99),
    cuts=st.lists(st.integers(0, 30), max_size=4),
)
def test_batches_of_any_size_add_up(count: int, size: int, seed: int, cuts: list[int]) -> None:
    rows = Rows(count, size, seed)
    counted = rows.weights == 1
    true, logits = rows.labels[counted], rows.logits[counted]
    names = [name for name in metrics.METRICS if name != "f1" or count == 2]
    metric = ClassificationMetrics(count, names)
    found = rows.feed(metric, sorted(cuts))
    probabilities = tf.nn.softmax(logits.astype("float64")).numpy()
    predicted = logits.argmax(axis=1)
    expected = theirs(count, true.tolist(), predicted.tolist())
    expected["loss"] = sklearn_metrics.log_loss(true, probabilities, labels=list(range(count)))
    additions = FEW + size
    assert found == near(expected, additions, size=1.0)
    table = sklearn_metrics.confusion_matrix(true, predicted, labels=list(range(count)))
    assert metric.read_confusion().tolist() == table.tolist()
    at_once = rows.feed(ClassificationMetrics(count, names), [])
    assert at_once == near(found, additions, size=1.0)


def test_a_reset_forgets_all_rows() -> None:
    metric = ClassificationMetrics(3, ["accuracy", "macro_f1", "matthews_correlation"])
    assert set(Rows(3, 20, 0).feed(metric, []).values()) != {0.0}
    metric.reset_state()
    assert {name: float(value) for name, value in metric.result().items()} == {
        "loss": 0.0, "accuracy": 0.0, "macro_f1": 0.0, "matthews_correlation": 0.0,
    }  # fmt: skip
    assert Rows(3, 9, 1).feed(metric, [2]) == Rows(3, 9, 1).feed(
        ClassificationMetrics(3, metric.metric_names), [2]
    )


def test_results_bear_the_prefix() -> None:
    found = Rows(2, 5, 0).feed(ClassificationMetrics(2, ("f1",), prefix="mood_"), [])
    assert list(found) == ["mood_loss", "mood_f1"]


def test_keras_config_makes_the_same_metric() -> None:
    metric = ClassificationMetrics(4, ("macro_f1", "accuracy"), prefix="a_", name="tone")
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert type(again) is ClassificationMetrics
    assert again.get_config() == metric.get_config()
    assert again.name == "tone"
    assert Rows(4, 12, 3).feed(again, [5]) == Rows(4, 12, 3).feed(metric, [5])


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match=r"There is no metric 'recall'; known are accuracy, f1"):
        ClassificationMetrics(2, ("accuracy", "recall"))
