"""Learning from a teacher's logits: soft targets, alone or beside the labels.

Reference:
    Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531).
"""

from typing import NamedTuple

import tensorflow as tf


def soft_target_loss(
    student_logits: tf.Tensor, teacher_logits: tf.Tensor, temperature: float = 2.0
) -> tf.Tensor:
    """Returns the KL divergence between the softened distributions, times `temperature` squared.

    The factor keeps the size of the gradients the same at every temperature. The teacher's logits
    get none.

    Args:
        student_logits: Float (N, V).
        teacher_logits: Float (N, V).
        temperature: What both logits are divided by; above 0.

    Returns:
        Float (N,): the sum over words or labels of p * (log p - log q), p being the teacher's
        distribution and q the student's. Float32 at least, whatever the dtype of the logits.
    """

    # The gradient is written out since what TensorFlow derives takes twice the passes over (N, V).
    @tf.custom_gradient
    def compute(own: tf.Tensor, theirs: tf.Tensor) -> tuple[tf.Tensor, object]:
        q, p = tf.nn.softmax(own / temperature), tf.nn.softmax(theirs / temperature)
        distance = tf.reduce_sum(p * (theirs - own), axis=-1) / temperature
        log_sums = [log_sum(x, y, temperature) for x, y in ((own, q), (theirs, p))]

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
            return (temperature * upstream)[:, tf.newaxis] * (q - p), None

        return temperature**2 * (distance + log_sums[0] - log_sums[1]), gradient

    return compute(widen(student_logits), widen(teacher_logits))


def log_sum(logits: tf.Tensor, softmax: tf.Tensor, temperature: float = 1.0) -> tf.Tensor:
    """Computes log(sum(exp(logits / temperature))) from the softmax that is there."""
    return tf.reduce_max(logits, -1) / temperature - tf.math.log(tf.reduce_max(softmax, -1))


def widen(x: tf.Tensor) -> tf.Tensor:
    """Casts to float32, unless it is float64."""
    return x if x.dtype == tf.float64 else tf.cast(x, tf.float32)


class SoftTargets(NamedTuple):
    """How much a student learns from its teacher, and how much from the labels.

    Attributes:
        alpha: Weight of the soft targets, 0 to 1; the labels have 1 - alpha. What has weight 0 is
            not computed.
        temperature: See `soft_target_loss`.

    Example:
        SoftTargets(alpha=0.9, temperature=4.0)
    """

    alpha: float = 0.5
    temperature: float = 2.0

    def mix(
        self, label_losses: tf.Tensor, student_logits: tf.Tensor, teacher_logits: tf.Tensor
    ) -> tf.Tensor:
        """Returns alpha * `soft_target_loss` + (1 - alpha) * the cross-entropy of the labels.

        Args:
            label_losses: That cross-entropy, float32 (B,).
            student_logits: Float32 (B, C).
            teacher_logits: Float32 (B, C).

        Returns:
            Float32 (B,).
        """
        if self.alpha == 0:
            return label_losses
        soft = soft_target_loss(student_logits, teacher_logits, self.temperature)
        return soft if self.alpha == 1 else self.alpha * soft + (1 - self.alpha) * label_losses
