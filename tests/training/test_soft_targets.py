"""Soft targets, and their mix with labels, against values written down by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from distilbert_tf.training.soft_targets import SoftTargets, soft_target_loss


def test_soft_targets_by_hand() -> None:
    """Softened, the teacher's odds are 3 to 1 and 1 to 1, the student's 1 to 1 and 9 to 1."""
    ln3 = math.log(3)
    teacher = tf.constant([[2 * ln3, 0.0], [5.0, 5.0]])
    student = tf.constant([[1.0, 1.0], [4 * ln3, 0.0]])
    first = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    second = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    losses = soft_target_loss(student, teacher, temperature=2.0)
    np.testing.assert_allclose(losses, [4 * first, 4 * second], rtol=1e-6)


def test_the_soft_target_gradient_is_the_difference_of_the_distributions() -> None:
    random = np.random.default_rng(0)
    student, teacher = (tf.constant(random.normal(0, 3, (5, 11))) for _ in range(2))
    for temperature in (1.0, 2.0, 4.0):
        with tf.GradientTape() as tape:
            tape.watch(student)
            loss = tf.reduce_sum(soft_target_loss(student, teacher, temperature))
        expected = temperature * (
            tf.nn.softmax(student / temperature) - tf.nn.softmax(teacher / temperature)
        )
        np.testing.assert_allclose(tape.gradient(loss, student), expected, rtol=1e-10)


def test_soft_targets_and_labels_are_mixed_by_hand() -> None:
    """As above; for the labels, at temperature 1, the student's odds are 1 to 1 and 81 to 1."""
    ln3 = math.log(3)
    teacher = tf.constant([[2 * ln3, 0.0], [5.0, 5.0]])
    student = tf.constant([[1.0, 1.0], [4 * ln3, 0.0]])
    soft = [
        4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)),
        4 * (0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)),
    ]
    labels = [math.log(2), math.log(82)]  # of the first label, and of the second
    for alpha in (0.0, 0.25, 1.0):
        losses = SoftTargets(alpha, 2.0).mix(tf.constant(labels, tf.float32), student, teacher)
        expected = [alpha * a + (1 - alpha) * b for a, b in zip(soft, labels, strict=True)]
        np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_what_has_no_weight_reaches_no_gradient(alpha: float) -> None:
    """A loss of weight 0 is left out, however large it is."""
    random = np.random.default_rng(1)
    student, teacher = (tf.constant(random.normal(0, 3, (5, 3))) for _ in range(2))
    labels = tf.constant([0, 2, 1, 1, 0])
    with tf.GradientTape() as tape:
        tape.watch(student)
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, student)
        loss = tf.reduce_sum(SoftTargets(alpha, 4.0).mix(entropy, student, teacher))
    of_labels = tf.nn.softmax(student) - tf.one_hot(labels, 3, dtype=tf.float64)
    of_teacher = 4 * (tf.nn.softmax(student / 4) - tf.nn.softmax(teacher / 4))
    expected = alpha * of_teacher + (1 - alpha) * of_labels
    np.testing.assert_allclose(tape.gradient(loss, student), expected, rtol=1e-10)
    nan = tf.fill([5, 3], tf.constant(math.nan, tf.float64))
    if alpha == 0.0:
        assert np.isfinite(SoftTargets(alpha).mix(entropy, student, nan)).all()
    if alpha == 1.0:
        assert np.isfinite(SoftTargets(alpha).mix(nan[:, 0], student, teacher)).all()
