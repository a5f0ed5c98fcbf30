"""One encoder, a classifier for each task on it, trained together.

Shapes: B rows of a batch (of one replica), T tokens in a row, D = config.dim, C labels of a task.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from distilbert_tf.models.distributed import DistributedTraining
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.pretrained import ModelInputs, refuse_frozen_weights
from distilbert_tf.training.batches import LABEL, TASK
from distilbert_tf.training.metrics import ClassificationMetrics, log_prefix

Gradients = list[tf.Tensor]


class MultiTaskModel(DistributedTraining, keras.Model):
    """Classifiers that share an encoder; a batch may hold rows of all tasks.

    `fit` and `evaluate` take what `training_batches` and `evaluation_batches` give. The loss is the
    mean over the rows of a batch, each row's being that of its own task. One task is the same, with
    one classifier.

    Args:
        classifiers: A classifier for each task, by name; all on one encoder.
        metrics: For each task, which scores to compute: names in `metrics.METRICS`. By default
            accuracy.
        **kwargs: Passed on to `keras.Model`.

    Call arguments:
        inputs: See `TFDistilBertModel`.
        training: Whether dropout acts.

    Returns:
        Logits by task, float32 (B, C) each.

    Raises:
        ValueError: The classifiers do not share one encoder, there are none, or `metrics` names
            another task.
    """

    def __init__(
        self,
        classifiers: Mapping[str, TFDistilBertForSequenceClassification],
        metrics: Mapping[str, Sequence[str]] | None = None,
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
        super().__init__(dtype=first.dtype_policy, **kwargs)
        if any(model.distilbert is not first.distilbert for model in classifiers.values()):
            raise ValueError("All classifiers must be made with one and the same `encoder`.")
        self.classifiers = dict(classifiers)
        self.distilbert = first.distilbert
        self.task_names = tuple(classifiers)
        self.task_metrics = [
            ClassificationMetrics(
                model.config.num_labels,
                (metrics or {}).get(name, ("accuracy",)),
                prefix=log_prefix(name, len(classifiers)),
                name=name,
            )
            for name, model in classifiers.items()
        ]
        self.micro_batches = 1
        self.skip_padding = True
        self.train_function: Callable[[Any], Any] | None = None
        self._steps_to_skip = 0
        self.built = True

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

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | None = None,
        *,
        jit_compile: bool = False,
        micro_batches: int = 1,
        steps_per_execution: int = 1,
        run_eagerly: bool = False,
        skip_padding: bool = True,
    ) -> None:
        """Prepares for `fit` and `evaluate`; to be called in the strategy's scope.

        Args:
            optimizer: The optimizer; not needed to evaluate.
            jit_compile: Whether to compile forward and backward pass with XLA (a TPU always does
                so with whole steps). The model then computes padding too, and wants batches of one
                width.
            micro_batches: In how many parts each replica computes its part of a batch, one after
                the other, to save memory. The step is the same.
            steps_per_execution: Steps between two returns to Python.
            run_eagerly: Whether to run without graphs, for debugging.
            skip_padding: Whether to leave padding out, where neither XLA nor a TPU needs it.
        """
        on_tpu = isinstance(self.distribute_strategy, tf.distribute.TPUStrategy)
        self.skip_padding = skip_padding and not (jit_compile or on_tpu)
        self.micro_batches = micro_batches
        super().compile(
            optimizer=optimizer,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
            jit_compile=False,  # see _forward_backward
        )
        self._forward_backward: Callable[..., Any] = self._compute_gradients
        if jit_compile and not on_tpu:
            self._forward_backward = tf.function(self._compute_gradients, jit_compile=True)
        if optimizer is not None:
            optimizer.build(self.trainable_variables)

    def skip_steps(self, count: int) -> None:
        """Lets the next `fit` count this many steps of its first epoch without computing them."""
        self._steps_to_skip = count

    def make_train_function(self, force: bool = False) -> None:
        """Makes what `fit` runs."""
        refuse_frozen_weights()
        if self.train_function is not None and not force:
            return
        run_steps = self._make_function(self.train_step)

        def run_or_skip(iterator: Any) -> Any:
            if self._steps_to_skip > 0:
                self._steps_to_skip -= self.steps_per_execution
                return {}
            return run_steps(iterator)

        self.train_function = run_or_skip

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Takes one step; `fit` calls it for each replica."""
        inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(data)
        if self.micro_batches == 1:
            gradients = self._add_micro_batch(inputs, targets)
        else:
            gradients = self._accumulate(inputs, targets)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return self.get_metrics_result()

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Scores one batch; `evaluate` calls it for each replica."""
        inputs, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
        logits = self(inputs, training=False)
        self._update_metrics(targets, logits, weights)
        return self.get_metrics_result()

    def _compute_gradients(
        self, inputs: ModelInputs, targets: Mapping[str, tf.Tensor]
    ) -> tuple[Gradients, dict[str, tf.Tensor]]:
        """Gives the gradients of this replica's share of the loss, and the logits."""
        shares = tf.distribute.get_strategy().num_replicas_in_sync * self.micro_batches
        with tf.GradientTape() as tape:
            logits = self(inputs, training=True)
            losses = [loss for _, _, loss in self._by_task(targets, logits)]
            loss = tf.reduce_mean(tf.add_n(losses)) / shares  # gradients are summed up later
        return tape.gradient(loss, self.trainable_weights), logits

    def _by_task(
        self, targets: Mapping[str, tf.Tensor], logits: Mapping[str, tf.Tensor]
    ) -> list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
        """Gives for each task which rows are its own, their labels, and their losses: (B,) each.

        Rows of other tasks have label 0, since theirs may not exist here, and loss 0.
        """
        found = []
        for number, name in enumerate(self.task_names):
            is_own = targets[TASK] == number
            labels = tf.where(is_own, targets[LABEL], 0)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits[name])
            found.append((is_own, labels, tf.where(is_own, losses, 0.0)))
        return found

    def _add_micro_batch(self, inputs: ModelInputs, targets: Mapping[str, tf.Tensor]) -> Gradients:
        gradients, logits = self._forward_backward(inputs, targets)
        self._update_metrics(targets, logits, None)
        return gradients

    def _accumulate(
        self, inputs: Mapping[str, tf.Tensor], targets: Mapping[str, tf.Tensor]
    ) -> Gradients:
        """Adds up the gradients of one micro-batch after the other."""

        def split(rows: tf.Tensor) -> tf.Tensor:
            size = rows.shape[0] // self.micro_batches  # training batches have a static size
            parts = tf.reshape(rows, [self.micro_batches, size, *tf.unstack(tf.shape(rows)[1:])])
            return tf.ensure_shape(parts, [self.micro_batches, size, *rows.shape[1:]])

        parts = keras.tree.map_structure(split, (dict(inputs), dict(targets)))

        def add(i: tf.Tensor, *total: tf.Tensor) -> tuple[tf.Tensor, ...]:
            part = keras.tree.map_structure(lambda rows: rows[i], parts)
            gradients = self._add_micro_batch(*part)
            return (i + 1, *[a + b for a, b in zip(total, gradients, strict=True)])

        _, *gradients = tf.while_loop(
            lambda i, *_: i < self.micro_batches,
            add,
            (tf.constant(0), *[tf.zeros(weight.shape) for weight in self.trainable_weights]),
        )
        return gradients

    def _update_metrics(
        self,
        targets: Mapping[str, tf.Tensor],
        logits: Mapping[str, tf.Tensor],
        weights: tf.Tensor | None,
    ) -> None:
        if weights is None:
            weights = tf.ones(tf.shape(targets[TASK]))
        total = tf.zeros(tf.shape(weights))
        by_task = self._by_task(targets, logits)
        for name, metric, (is_own, labels, losses) in zip(
            self.task_names, self.task_metrics, by_task, strict=True
        ):
            metric.update_state(labels, logits[name], losses, tf.where(is_own, weights, 0.0))
            total += losses
        self._loss_tracker.update_state(total, sample_weight=weights)
