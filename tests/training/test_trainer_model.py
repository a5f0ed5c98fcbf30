"""The trainer: what a subclass of a few lines gets from it, against the same worked out by hand."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from comparing import WITH_GRADIENTS, assert_close, largest, near, roundings
from transformers import DistilBertConfig

from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.models.pretrained import PreTrainedModel
from distilbert_tf.training.trainer_model import TrainerModel

WIDTH, ROWS = 6, 8


def make_model(n_layers: int) -> TFDistilBertForMaskedLM:
    keras.utils.set_random_seed(n_layers)
    config = DistilBertConfig(
        vocab_size=20, dim=8, n_layers=n_layers, n_heads=2, hidden_dim=12, dropout=0.0,
        attention_dropout=0.0, max_position_embeddings=WIDTH, initializer_range=0.3,
    )  # fmt: skip
    return TFDistilBertForMaskedLM(config)


class Distiller(TrainerModel):
    """A student learns a teacher's words on text without labels, and to fill in those left out."""

    def __init__(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher
        teacher.trainable = False
        self.soft_loss = keras.metrics.Mean(name="soft_loss")

    def pretrained_models(self) -> dict[str, PreTrainedModel]:
        return {"student": self.student}

    def compute_losses(self, inputs: Any, targets: Any, training: bool) -> tuple[tf.Tensor, Any]:
        logits = self.student(inputs, training=training, skip_padding=self.skip_padding)
        masked_loss = tf.nn.sparse_softmax_cross_entropy_with_logits(targets["words"], logits)
        masked_loss = tf.reduce_mean(masked_loss, axis=1)
        if not training:
            return masked_loss, None
        taught = self.teacher(inputs, training=False, skip_padding=self.skip_padding)
        soft_targets = tf.nn.softmax(taught / 2.0)
        soft_loss = tf.nn.softmax_cross_entropy_with_logits(soft_targets, logits / 2.0)
        soft_loss = tf.reduce_mean(soft_loss, axis=1)
        return masked_loss + soft_loss, soft_loss

    def update_metrics(self, targets: Any, losses: Any, outputs: Any, weights: Any) -> None:
        super().update_metrics(targets, losses, outputs, weights)
        if outputs is not None:
            self.soft_loss.update_state(outputs, sample_weight=weights)


def make_batch(seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    words = np.random.default_rng(seed).integers(5, 20, (ROWS, WIDTH)).astype("int32")
    ids = np.where(np.arange(WIDTH) == seed % WIDTH, 4, words).astype("int32")
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}, {"words": words}


def dataset(*batches: Any) -> tf.data.Dataset:
    stacked = keras.tree.map_structure(lambda *arrays: np.stack(arrays), *batches)
    return tf.data.Dataset.from_tensor_slices(stacked)


def losses_by_hand(student: Any, teacher: Any, seed: int) -> tuple[tf.Tensor, tf.Tensor]:
    inputs, targets = make_batch(seed)
    logits = student(inputs)
    words = tf.one_hot(targets["words"], 20)
    taught = tf.nn.softmax(teacher(inputs) / 2.0)
    masked = -tf.reduce_sum(words * tf.nn.log_softmax(logits), axis=-1)
    soft = -tf.reduce_sum(taught * tf.nn.log_softmax(logits / 2.0), axis=-1)
    return tf.reduce_mean(masked), tf.reduce_mean(soft)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"jit_compile": True, "gradient_accumulation_steps": 2},
    ],
    ids=lambda options: ", ".join(options) or "plain",
)
def test_a_student_moves_by_the_gradients_of_its_losses(options: dict[str, Any]) -> None:
    trainer = Distiller(make_model(1), make_model(2))
    taught = [weight.numpy() for weight in trainer.teacher.weights]
    trainer.compile(keras.optimizers.SGD(1.0), **options)
    data = dataset(make_batch(0), make_batch(1))
    history = trainer.fit(data, shuffle=False, verbose=0).history

    student, teacher = make_model(1), make_model(2)
    variables = student.trainable_weights
    expected = []
    for seed in (0, 1):
        with tf.GradientTape() as tape:
            masked, soft = losses_by_hand(student, teacher, seed)
            total = masked + soft
        expected.append((float(total), float(soft)))
        values = [weight.value for weight in variables]
        for weight, gradient in zip(variables, tape.gradient(total, values), strict=True):
            weight.assign_sub(tf.convert_to_tensor(gradient))
    means = dict(zip(("loss", "soft_loss"), np.mean(expected, axis=0), strict=True))
    steps = roundings(teacher, 2 * WITH_GRADIENTS)
    assert {name: values[-1] for name, values in history.items()} == near(means, steps)
    size = max(largest(weight) for weight in variables)
    starts = make_model(1).trainable_weights
    assert max(largest(a - b) for a, b in zip(variables, starts, strict=True)) > 0.05
    for ours, by_hand in zip(trainer.student.trainable_weights, variables, strict=True):
        assert_close(ours, by_hand, steps, size=size)
    for before, weight in zip(taught, trainer.teacher.weights, strict=True):
        np.testing.assert_array_equal(weight, before)


def test_an_evaluation_counts_rows_by_their_weights() -> None:
    trainer = Distiller(make_model(1), make_model(2))
    trainer.compile()
    (inputs, targets), weights = make_batch(3), np.float32([1, 1, 1, 0, 0, 0, 0, 0])
    found = trainer.evaluate(dataset((inputs, targets, weights)), verbose=0, return_dict=True)
    own = {name: array[:3] for name, array in inputs.items()}
    logits = tf.nn.log_softmax(trainer.student(own))
    expected = -np.take_along_axis(logits.numpy(), targets["words"][:3, :, None], axis=-1)
    assert found["loss"] == near(expected.mean(), roundings(trainer.student))


def test_the_state_is_that_of_what_is_trained() -> None:
    trainer = Distiller(make_model(1), make_model(2))
    trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    groups = trainer.variable_groups()
    assert [id(v) for v in groups["model"]] == [id(v) for v in trainer.student.variables]
    moments = [v for v in groups["optimizer"] if "momentum" in v.path]
    assert len(moments) == len(trainer.student.trainable_weights)
    assert len(groups["metrics"]) == 4  # sum and count of two means
    assert trainer.trainable_weights == trainer.student.trainable_weights
