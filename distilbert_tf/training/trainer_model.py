"""The one trainer: a Keras model whose training step is the same in one part and in many.

Shapes: B rows of a batch (of one replica).
"""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from distilbert_tf.models.distributed import DistributedTraining
from distilbert_tf.models.pretrained import PreTrainedModel, refuse_frozen_weights

Tensors = Mapping[str, tf.Tensor]


class TrainerModel(DistributedTraining, keras.Model):
    """Trains what a subclass defines, under every strategy of `tf.distribute`.

    `fit` and `evaluate` take batches of inputs and targets, both dicts of tensors whose first
    dimension is the rows; an evaluation's may have weights (B,), 0 for rows that do not count.
    The training minimizes the mean loss of the rows of a batch, on however many replicas and in
    however many parts it is computed.

    A subclass defines the loss with `compute_losses`, what it trains with `pretrained_models`, and
    its metrics, if there are more than the mean loss, with `update_metrics`. What it only needs for
    the loss, such as a teacher, is frozen (`trainable = False`) and not among `pretrained_models`.
    Then neither checkpoints nor states contain it.

    Args:
        **kwargs: Passed on to `keras.Model`.

    Attributes:
        skip_padding: What `compute_losses` passes on to its models; False where XLA or a TPU needs
            shapes that do not depend on the contents of a batch.

    Example:
        class Distiller(TrainerModel):
            def __init__(self, student, teacher):
                super().__init__()
                self.student, self.teacher = student, teacher
                teacher.trainable = False

            def compute_losses(self, inputs, targets, training):
                soft_targets = tf.nn.softmax(
                    self.teacher(inputs, training=False, skip_padding=self.skip_padding)
                )
                logits = self.student(inputs, training=training, skip_padding=self.skip_padding)
                losses = tf.nn.softmax_cross_entropy_with_logits(soft_targets, logits)
                return losses, logits

            def pretrained_models(self):
                return {"student": self.student}
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gradient_accumulation_steps = 1
        self.skip_padding = True
        self.train_function: Callable[[Any], Any] | None = None
        self._steps_to_skip = 0
        self.built = True

    def compute_losses(
        self, inputs: Tensors, targets: Tensors, training: bool
    ) -> tuple[tf.Tensor, Any]:
        """Computes the loss of each row; XLA may compile this together with its gradients.

        Args:
            inputs: A batch's inputs.
            targets: Its targets.
            training: Whether dropout acts.

        Returns:
            Losses, float32 (B,), whose mean is minimized; and the tensors that `update_metrics`
            needs, in any structure.
        """
        raise NotImplementedError

    def pretrained_models(self) -> dict[str, PreTrainedModel]:
        """Returns the models that are trained and saved, by name."""
        raise NotImplementedError

    def update_metrics(
        self, targets: Tensors, losses: tf.Tensor, outputs: Any, weights: tf.Tensor
    ) -> None:
        """Adds a batch to the running metrics: by default to the mean loss alone.

        Args:
            targets: The batch's targets.
            losses: See `compute_losses`, as for `outputs`.
            outputs: What that returned second.
            weights: Float32 (B,), the rows' weights.
        """
        self._loss_tracker.update_state(losses, sample_weight=weights)

    def variable_groups(self) -> dict[str, list[keras.Variable]]:
        """Lists all that a training changes: the state of a run."""
        models = self.pretrained_models().values()
        variables = {id(variable): variable for model in models for variable in model.variables}
        return {
            "model": list(variables.values()),
            "optimizer": self.optimizer.variables,
            "metrics": self.metrics_variables,
        }

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | None = None,
        *,
        jit_compile: bool = False,
        gradient_accumulation_steps: int = 1,
        steps_per_execution: int = 1,
        run_eagerly: bool = False,
        skip_padding: bool = True,
    ) -> None:
        """Prepares for `fit` and `evaluate`; to be called in the strategy's scope.

        Args:
            optimizer: The optimizer; not needed to evaluate.
            jit_compile: Whether to compile forward and backward pass with XLA (a TPU always does
                so with whole steps). Padding is then computed too, and batches must have one width.
            gradient_accumulation_steps: In how many parts each replica computes its part of a
                batch, one after the other, to save memory. The step is the same.
            steps_per_execution: Optimizer steps between two returns to Python.
            run_eagerly: Whether to run without graphs, for debugging.
            skip_padding: Whether to leave padding out, where neither XLA nor a TPU needs it.
        """
        on_tpu = isinstance(self.distribute_strategy, tf.distribute.TPUStrategy)
        self.skip_padding = skip_padding and not (jit_compile or on_tpu)
        self.gradient_accumulation_steps = gradient_accumulation_steps
        super().compile(
            optimizer=optimizer,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
            jit_compile=False,  # XLA cannot have the all-reduce: it gets compute_gradients
        )
        self._gradient_function: Callable[..., Any] = self.compute_gradients
        if jit_compile and not on_tpu:
            self._gradient_function = tf.function(self.compute_gradients, jit_compile=True)
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
        add = self._compute_part if self.gradient_accumulation_steps == 1 else self._accumulate
        gradients = add(inputs, targets)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return self.get_metrics_result()

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Evaluates one batch; `evaluate` calls it for each replica."""
        inputs, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
        losses, outputs = self.compute_losses(inputs, targets, training=False)
        weights = tf.ones_like(losses) if weights is None else weights
        self.update_metrics(targets, losses, outputs, weights)
        return self.get_metrics_result()

    def compute_gradients(
        self, inputs: Tensors, targets: Tensors
    ) -> tuple[list[tf.Tensor], tf.Tensor, Any]:
        """Computes the gradients of a part of a batch, scaled so that those of all parts add up.

        Returns:
            Gradients of the trainable weights, and what `compute_losses` returned.
        """
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            losses, outputs = self.compute_losses(inputs, targets, training=True)
            loss = tf.reduce_mean(losses) / (replicas * self.gradient_accumulation_steps)
        gradients = tape.gradient(
            loss,
            [weight.value for weight in self.trainable_weights],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return gradients, losses, outputs

    def _compute_part(self, inputs: Tensors, targets: Tensors) -> list[tf.Tensor]:
        gradients, losses, outputs = self._gradient_function(inputs, targets)
        self.update_metrics(targets, losses, outputs, tf.ones_like(losses))
        return gradients

    def _accumulate(self, inputs: Tensors, targets: Tensors) -> list[tf.Tensor]:
        """Adds up the gradients of one part of the batch after the other."""
        count = self.gradient_accumulation_steps

        def split(rows: tf.Tensor) -> tf.Tensor:
            size = rows.shape[0] // count  # training batches have a static size
            parts = tf.reshape(rows, [count, size, *tf.unstack(tf.shape(rows)[1:])])
            return tf.ensure_shape(parts, [count, size, *rows.shape[1:]])

        parts = keras.tree.map_structure(split, (dict(inputs), dict(targets)))

        def add(i: tf.Tensor, *total: tf.Tensor) -> tuple[tf.Tensor, ...]:
            part = keras.tree.map_structure(lambda rows: rows[i], parts)
            gradients = self._compute_part(*part)
            return (i + 1, *[a + b for a, b in zip(total, gradients, strict=True)])

        start = (tf.constant(0), *[tf.zeros(weight.shape) for weight in self.trainable_weights])
        if self.steps_per_execution == 1:
            return list(tf.while_loop(lambda i, *_: i < count, add, start)[1:])
        # Within the loop over the steps, TensorFlow's memory optimizer gives a sum in this loop one
        # temporary variable for all steps, and fails at the second: "already exists".
        for _ in range(count):
            with tf.control_dependencies(start):
                start = add(*start)
        return list(start[1:])
