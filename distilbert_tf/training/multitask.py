"""One encoder, a classifier for each task on it, trained together.

Shapes: B rows of a batch (of one replica), T tokens in a row, D = config.dim, C labels of a task.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.inputs import ModelInputs
from distilbert_tf.training.batches import LABEL, TASK, TEACHER_LOGITS
from distilbert_tf.training.label_loss import OTHER_LOSSES, LabelLoss
from distilbert_tf.training.metrics import METRICS_OF, log_prefix
from distilbert_tf.training.soft_targets import SoftTargets
from distilbert_tf.training.trainer_model import TrainerModel


class TaskOutput(NamedTuple):
    """What one classifier makes of a batch.

    Attributes:
        is_own: bool (B,), which rows are of its task.
        labels: As in `Examples`; ids are 0 for other tasks' rows, whose labels may not exist here.
        losses: float32 (B,); 0 for other tasks' rows.
        logits: float32 (B, C).
    """

    is_own: tf.Tensor
    labels: tf.Tensor
    losses: tf.Tensor
    logits: tf.Tensor


class MultiTaskModel(TrainerModel):
    """Classifiers that share an encoder; a batch may hold rows of all tasks.

    `fit` and `evaluate` take what `training_batches` and `evaluation_batches` return. A row's loss
    is that of its own task. One task is the same, with one classifier.

    With `soft_targets`, the training also minimizes the distance to a teacher's logits, and each
    task has the metric `agreement`: the share of rows for which classifier and teacher score the
    same label highest. The loss of an evaluation is the plain cross-entropy of the labels alone.

    Args:
        classifiers: A classifier for each task, by name; all on one encoder.
        metrics: For each task, which scores to compute: names in `metrics.METRICS`. By default
            accuracy.
        soft_targets: How to learn from a teacher, whose logits are then among the targets.
        label_losses: The loss of each task's training rows; plain cross-entropy by default.
        **kwargs: Passed on to `keras.Model`.

    Call arguments:
        inputs: See `TFDistilBertModel`.
        training: Whether dropout acts.

    Returns:
        Logits by task, float32 (B, C) each.

    Raises:
        ValueError: The classifiers do not share one encoder, there are none, or `metrics` names
            another task; of several, one does not pick one label (`config.problem_type`).

    Example:
        first = TFDistilBertForSequenceClassification.from_pretrained("demo", num_labels=2)
        second = TFDistilBertForSequenceClassification(first.config, encoder=first.distilbert)
        model = MultiTaskModel({"tone": first, "topic": second})
        model.compile(create_optimizer(5e-5, total_steps=100))
    """

    def __init__(
        self,
        classifiers: Mapping[str, TFDistilBertForSequenceClassification],
        metrics: Mapping[str, Sequence[str]] | None = None,
        soft_targets: SoftTargets | None = None,
        label_losses: Mapping[str, LabelLoss] | None = None,
        **kwargs: Any,
    ) -> None:
        if unknown := (metrics or {}).keys() - classifiers.keys():
            raise ValueError(
                f"metrics names the task {min(unknown)!r}, which has no classifier; there are "
                f"{', '.join(classifiers) or 'none'}."
            )
        if not classifiers:
            raise ValueError("At least one classifier is needed.")
        first = next(iter(classifiers.values()))
        for name, model in classifiers.items():
            if model.config.problem_type in OTHER_LOSSES and len(classifiers) > 1:
                raise ValueError(
                    f"{name} is a {model.config.problem_type}: such a task is trained alone."
                )
        super().__init__(dtype=first.dtype_policy, **kwargs)
        if any(model.distilbert is not first.distilbert for model in classifiers.values()):
            raise ValueError("All classifiers must be made with one and the same `encoder`.")
        self.classifiers = dict(classifiers)
        self.distilbert = first.distilbert
        self.soft_targets = soft_targets
        self.label_losses = dict(label_losses or {})
        self.task_metrics = {
            name: METRICS_OF[model.config.problem_type](
                model.config.num_labels,
                (metrics or {}).get(name, ()),
                prefix=log_prefix(name, len(classifiers)),
                name=name,
            )
            for name, model in classifiers.items()
        }
        self.agreements = {
            name: keras.metrics.Mean(f"{log_prefix(name, len(classifiers))}agreement")
            for name in (classifiers if soft_targets else ())
        }

    def pretrained_models(self) -> dict[str, TFDistilBertForSequenceClassification]:
        """Returns the classifiers by task."""
        return self.classifiers

    def call(self, inputs: ModelInputs, training: bool | None = None) -> dict[str, tf.Tensor]:
        """Encodes the rows once, and applies every classifier to all of them."""
        encoded = self.distilbert(
            inputs, training=training, first_token_only=True, skip_padding=self.skip_padding
        )
        first_tokens = encoded.last_hidden_state[:, 0]  # (B, D)
        return {
            name: model.classify(first_tokens, training=training)
            for name, model in self.classifiers.items()
        }

    def compute_losses(
        self, inputs: ModelInputs, targets: Mapping[str, tf.Tensor], training: bool
    ) -> tuple[tf.Tensor, dict[str, TaskOutput]]:
        """Computes each row's loss in its own task: float32 (B,)."""
        logits, outputs = self(inputs, training=training), {}
        for number, name in enumerate(self.classifiers):
            is_own = targets[TASK] == number
            labels = targets[LABEL]
            if other_loss := OTHER_LOSSES.get(self.classifiers[name].config.problem_type):
                losses = other_loss(labels, logits[name])  # such a task is alone
            else:
                labels = tf.where(is_own, labels, 0)
                label_loss = self.label_losses.get(name, LabelLoss()) if training else LabelLoss()
                losses = label_loss(labels, logits[name])
            if training and self.soft_targets:
                theirs = targets[TEACHER_LOGITS][:, : logits[name].shape[-1]]
                losses = self.soft_targets.mix(losses, logits[name], theirs)
            outputs[name] = TaskOutput(is_own, labels, tf.where(is_own, losses, 0.0), logits[name])
        return tf.add_n([output.losses for output in outputs.values()]), outputs

    def update_metrics(
        self,
        targets: Mapping[str, tf.Tensor],
        losses: tf.Tensor,
        outputs: Mapping[str, TaskOutput],
        weights: tf.Tensor,
    ) -> None:
        """Adds a batch to the mean loss, and each task's rows to its own metrics."""
        super().update_metrics(targets, losses, outputs, weights)
        for name, (is_own, labels, own_losses, logits) in outputs.items():
            own_weights = tf.where(is_own, weights, 0.0)
            self.task_metrics[name].update_state(labels, logits, own_losses, own_weights)
            if self.soft_targets:
                theirs = targets[TEACHER_LOGITS][:, : logits.shape[-1]]
                # `==` would forget that it is (B,), if B is not known, as with several replicas.
                agrees = tf.equal(tf.argmax(logits, -1), tf.argmax(theirs, -1))
                self.agreements[name].update_state(agrees, own_weights)
