"""The losses of distillation and their gradients, against PyTorch's own functions."""

from typing import Any

import comparing
import numpy as np
import pytest
import tensorflow as tf

from distilbert_tf.data.masking import NOT_MASKED
from distilbert_tf.distillation.losses import (
    cosine_loss,
    logits_mse_loss,
    masked_lm_loss,
)
from distilbert_tf.training.soft_targets import SoftTargets, soft_target_loss

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
pytestmark = pytest.mark.parity

N, V = 41, 307
ROUNDINGS = 4 * comparing.FEW  # softmax over many words, and its gradient


def torch_soft_targets(student: Any, teacher: Any) -> Any:
    """As the training script of DistilBERT has it, at temperature 2."""
    kl = torch.nn.KLDivLoss(reduction="batchmean")
    return kl(torch.log_softmax(student / 2, -1), torch.softmax(teacher / 2, -1)) * 4


def torch_cosine(student: Any, teacher: Any) -> Any:
    target = torch.ones(len(student))
    return torch.nn.CosineEmbeddingLoss(reduction="mean")(student, teacher, target)


def torch_mse(student: Any, teacher: Any) -> Any:
    return torch.nn.MSELoss(reduction="sum")(student, teacher) / len(student)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (soft_target_loss, torch_soft_targets),
        (cosine_loss, torch_cosine),
        (logits_mse_loss, torch_mse),
    ],
)
@pytest.mark.parametrize("size", [0.1, 3.0, 30.0])
def test_losses_between_student_and_teacher(ours, theirs, size) -> None:
    random = np.random.default_rng(0)
    student, teacher = (random.normal(0, size, (N, V)).astype(np.float32) for _ in range(2))
    variable = tf.Variable(student)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(ours(variable, teacher))
    tensor = torch.tensor(student, requires_grad=True)
    expected = theirs(tensor, torch.tensor(teacher))
    expected.backward()
    comparing.assert_close(loss, expected.detach(), ROUNDINGS, size=1.0)
    comparing.assert_close(tape.gradient(loss, variable), tensor.grad, ROUNDINGS)


def test_masked_lm() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(0, 3, (N, V)).astype(np.float32)
    labels = np.where(random.random(N) < 0.4, random.integers(0, V, N), NOT_MASKED)
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        losses = masked_lm_loss(variable, tf.constant(labels, tf.int32))
        loss = tf.reduce_sum(losses) / np.sum(labels != NOT_MASKED)
    tensor = torch.tensor(logits, requires_grad=True)
    entropy = torch.nn.CrossEntropyLoss(ignore_index=NOT_MASKED)
    expected = entropy(tensor, torch.tensor(labels))
    expected.backward()
    comparing.assert_close(loss, expected.detach(), ROUNDINGS)
    comparing.assert_close(tape.gradient(loss, variable), tensor.grad, ROUNDINGS)


@pytest.mark.parametrize(("alpha", "temperature"), [(0.5, 2.0), (0.9, 4.0)])
def test_soft_targets_beside_labels(alpha, temperature) -> None:
    """As tutorials of PyTorch write it: a weighted sum of two means over the batch."""
    random = np.random.default_rng(2)
    student, teacher = (random.normal(0, 3, (N, 5)).astype(np.float32) for _ in range(2))
    labels = random.integers(0, 5, N)
    variable = tf.Variable(student)
    with tf.GradientTape() as tape:
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, variable)
        loss = tf.reduce_mean(SoftTargets(alpha, temperature).mix(entropy, variable, teacher))
    tensor = torch.tensor(student, requires_grad=True)
    soft = torch.nn.functional.kl_div(
        torch.log_softmax(tensor / temperature, -1),
        torch.softmax(torch.tensor(teacher) / temperature, -1),
        reduction="batchmean",
    )
    hard = torch.nn.functional.cross_entropy(tensor, torch.tensor(labels))
    expected = alpha * temperature**2 * soft + (1 - alpha) * hard
    expected.backward()
    comparing.assert_close(loss, expected.detach(), ROUNDINGS, size=1.0)
    comparing.assert_close(tape.gradient(loss, variable), tensor.grad, ROUNDINGS)
