"""The losses of distillation, against values written down by hand and NumPy in float64."""

import math

import comparing
import numpy as np
import pytest
import tensorflow as tf

from distilbert_tf.data.masking import NOT_MASKED
from distilbert_tf.distillation.losses import (
    LossWeights,
    WordScorer,
    cosine_loss,
    logits_mse_loss,
    masked_lm_loss,
    vocabulary_losses,
)
from distilbert_tf.training.soft_targets import soft_target_loss


def test_masked_lm_by_hand() -> None:
    logits = tf.constant([[0.0, math.log(3)], [7.0, 7.0], [1.0, -1.0]])
    labels = tf.constant([0, 1, NOT_MASKED])
    np.testing.assert_allclose(
        masked_lm_loss(logits, labels), [math.log(4), math.log(2), 0.0], rtol=1e-6
    )


def test_squared_distance_of_logits_by_hand() -> None:
    losses = logits_mse_loss(tf.constant([[1.0, 2.0], [0.5, 0.0]]), tf.constant([[3.0, -2.0]] * 2))
    np.testing.assert_allclose(losses, [20.0, 10.25], rtol=1e-6)


def test_cosine_by_hand() -> None:
    student = tf.constant([[3.0, 4.0], [1.0, 0.0], [2.0, -2.0], [0.0, 0.0]])
    teacher = tf.constant([[6.0, 8.0], [0.0, 5.0], [-1.0, 1.0], [1.0, 1.0]])
    rounding = comparing.FEW * comparing.EPS  # of a cosine, which is of size 1
    losses = cosine_loss(student, teacher)
    np.testing.assert_allclose(losses, [0.0, 1.0, 2.0, 1.0], rtol=0.0, atol=rounding)


def test_bfloat16_logits_are_compared_in_float32() -> None:
    random = np.random.default_rng(1)
    logits = [tf.cast(random.normal(0, 3, (4, 9)), tf.bfloat16) for _ in range(2)]
    wide = [tf.cast(x, tf.float32) for x in logits]
    for loss in (soft_target_loss, logits_mse_loss, cosine_loss):
        np.testing.assert_array_equal(loss(*logits), loss(*wide))


N, V, D, E = 37, 23, 6, 10  # positions, words, widths of student and teacher


@pytest.fixture(scope="module")
def scorers() -> tuple[WordScorer, WordScorer]:
    random = np.random.default_rng(2)

    def scorer(width: int) -> WordScorer:
        shapes = ((N, width), (V, width), (V,))
        return WordScorer(*(tf.constant(random.normal(0, 1, s), tf.float32) for s in shapes))

    return scorer(D), scorer(E)


def make_labels() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    labels = np.where(random.random(N) < 0.3, random.integers(0, V, N), NOT_MASKED)
    return labels.astype(np.int32), random.random(N) < 0.8


def directly(
    student: WordScorer, teacher: WordScorer, weights: LossWeights, scales: tuple[float, float]
) -> tuple[tf.Tensor, list[float]]:
    """The same from all logits at once."""
    labels, counts = make_labels()
    logits, targets = student.score(), teacher.score()
    kept = tf.cast(counts, tf.float32)
    soft = tf.reduce_sum(soft_target_loss(logits, targets, 3.0) * kept)
    masked = tf.reduce_sum(masked_lm_loss(logits, labels))
    mse = tf.reduce_sum(logits_mse_loss(logits, targets) * kept)
    total = scales[0] * (weights.soft_targets * soft + weights.logits_mse * mse)
    same = np.argmax(logits, -1) == np.argmax(targets, -1)
    return total + scales[1] * weights.masked_lm * masked, [
        float(soft), float(masked), float(mse), float(np.sum(same & (labels != NOT_MASKED)))
    ]  # fmt: skip


def test_an_evaluation_needs_no_gradients(scorers: tuple[WordScorer, WordScorer]) -> None:
    labels, counts = make_labels()
    (total, sums), (expected, expected_sums) = (
        vocabulary_losses(
            *scorers, labels, counts, LossWeights(), chunk_size=8, with_gradients=with_gradients
        )
        for with_gradients in (False, True)
    )
    np.testing.assert_array_equal([total, *sums], [expected, *expected_sums])


@pytest.mark.parametrize("chunk_size", [1, 8, 37, 64])
@pytest.mark.parametrize("in_graph", [False, True], ids=["eager", "graph"])
def test_chunks_add_up(
    scorers: tuple[WordScorer, WordScorer], chunk_size: int, in_graph: bool
) -> None:
    student, teacher = scorers
    weights, scales = LossWeights(5.0, 2.0, 1.0, 0.5), (1 / 30, 1 / 7)
    labels, counts = make_labels()

    def chunked(*tensors: tf.Tensor) -> tuple:
        own = WordScorer(*tensors)
        with tf.GradientTape() as tape:
            tape.watch(list(own))
            total, sums = vocabulary_losses(
                own, teacher, labels, counts, weights, temperature=3.0,
                soft_target_scale=scales[0], masked_lm_scale=scales[1], chunk_size=chunk_size,
            )  # fmt: skip
            doubled = 2 * total  # something must flow into it
        return total, sums, tape.gradient(doubled, list(own))

    run = chunked
    if in_graph:
        signature = [tf.TensorSpec([None, D]), tf.TensorSpec([V, D]), tf.TensorSpec([V])]
        run = tf.function(chunked, input_signature=signature)
    total, sums, gradients = run(*student)
    with tf.GradientTape() as tape:
        tape.watch(list(student))
        expected, expected_sums = directly(student, teacher, weights, scales)
        doubled = 2 * expected
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-5)
    for found, wanted in zip(gradients, tape.gradient(doubled, list(student)), strict=True):
        comparing.assert_close(found, wanted, comparing.FEW)


def test_no_positions_cost_nothing(scorers: tuple[WordScorer, WordScorer]) -> None:
    student, teacher = (scorer._replace(states=scorer.states[:0]) for scorer in scorers)
    with tf.GradientTape() as tape:
        tape.watch(list(student))
        total, sums = vocabulary_losses(student, teacher, [], [], LossWeights())
    assert float(total) == 0.0
    assert [float(value) for value in sums] == [0.0] * 4
    assert [np.abs(g).sum() for g in tape.gradient(total, list(student))] == [0.0] * 3


def test_without_losses_that_need_it_no_teacher_is_asked(
    scorers: tuple[WordScorer, WordScorer],
) -> None:
    student, _ = scorers
    labels, counts = make_labels()
    weights = LossWeights(soft_targets=0.0)
    assert not weights.needs_teacher_logits
    total, sums = vocabulary_losses(student, None, labels, counts, weights)
    expected = tf.reduce_sum(masked_lm_loss(student.score(), labels))
    np.testing.assert_allclose(total, 2.0 * expected, rtol=1e-6)
    assert float(sums.soft_targets) == 0.0


def test_xla_compiles_the_chunks(scorers: tuple[WordScorer, WordScorer]) -> None:
    student, teacher = scorers
    labels, counts = make_labels()

    def compute() -> tf.Tensor:
        return vocabulary_losses(student, teacher, labels, counts, LossWeights(), chunk_size=16)[0]

    compiled = tf.function(compute, jit_compile=True)()
    np.testing.assert_allclose(compiled, compute(), rtol=1e-5)
