"""What a training minimizes of the labels: cross-entropy, smoothed and weighted by class.

Reference:
    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (arXiv 1512.00567),
    section 7, for smoothing; scikit-learn's `compute_class_weight` for balanced weights.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from distilbert_tf.checkpoints.problem_types import MULTI_LABEL, REGRESSION

BALANCED = "balanced"


class LabelLoss(NamedTuple):
    """The loss of a training row with a known label.

    Attributes:
        smoothing: Share of a label's probability that is spread evenly over all labels, 0 to 1.
        class_weights: A factor for each label; None for 1 everywhere.

    Example:
        LabelLoss(smoothing=0.1, class_weights=(0.5, 2.0))(tf.constant([1]), tf.zeros([1, 2]))
    """

    smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None

    def __call__(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Computes the losses.

        Args:
            labels: Integers (B,).
            logits: Float32 (B, C).

        Returns:
            Float32 (B,).
        """
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        if self.smoothing:
            spread = tf.reduce_logsumexp(logits, -1) - tf.reduce_mean(logits, -1)
            losses = (1 - self.smoothing) * losses + self.smoothing * spread
        if self.class_weights is not None:
            losses *= tf.gather(tf.constant(self.class_weights, losses.dtype), labels)
        return losses


def binary_losses(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes each row's mean cross-entropy of yes and no for each label: (B, C) to float (B,)."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits), axis=-1)


def squared_errors(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes each row's squared error: (B,) and (B, 1) to float (B,)."""
    return tf.math.squared_difference(logits[:, 0], labels)


# Of heads that do not pick one label.
OTHER_LOSSES = {MULTI_LABEL: binary_losses, REGRESSION: squared_errors}


def find_class_weights(
    setting: str | None, names: Sequence[str], labels: np.ndarray, task: str
) -> tuple[float, ...] | None:
    """Reads the setting `class_weight` for a task.

    Args:
        setting: "balanced", for factors with which the rows of every label weigh the same together;
            a JSON object of factors by label, 1 for those that it leaves out; or None.
        names: The task's labels.
        labels: Those of the training rows, integers (N,).
        task: The task's name, for errors.

    Returns:
        A factor for each label; None without a setting.

    Raises:
        ValueError: It is nothing of that; it names another label; a weight is not positive; weights
            are to be balanced, and a label has no rows.
    """
    if setting is None:
        return None
    if setting == BALANCED:
        counts = np.bincount(labels, minlength=len(names))
        if not counts.all():
            raise ValueError(
                f"class_weight is balanced, but {task}'s training data has no row with the label "
                f"{names[int(counts.argmin())]!r}."
            )
        return tuple((counts.sum() / (len(names) * counts)).tolist())
    try:
        factors = json.loads(setting)
    except ValueError:
        factors = None
    if not isinstance(factors, dict) or not factors:
        raise ValueError(
            f"class_weight must be {BALANCED}, or a JSON object of weights by label, such as "
            f"{json.dumps({names[0]: 2.0}, ensure_ascii=False)}; got {setting!r}."
        )
    for name, factor in factors.items():
        if name not in names:
            raise ValueError(
                f"class_weight names the label {name!r}; {task} has {', '.join(names)}."
            )
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0:
            raise ValueError(f"The class_weight of {name!r} must be above 0; got {factor!r}.")
    return tuple(float(factors.get(name, 1.0)) for name in names)
