"""What Keras needs to `fit` under every synchronous strategy of `tf.distribute`.

Two private methods of Keras' trainer are overridden here (setup.py holds Keras to one minor
version); tests run them, so that an upgrade fails a test and not somebody's training.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


class DistributedTraining:
    """A mixin for a `keras.Model` whose `fit` and `evaluate` work under every strategy.

    Make and compile the model in the strategy's scope. Batches come from a `tf.data.Dataset`, which
    TensorFlow then splits, or from `training.strategy.distribute`.
    """

    distribute_strategy: tf.distribute.Strategy
    steps_per_execution: int
    run_eagerly: bool
    jit_compile: bool

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Keras averages the first batch over the replicas to see its shapes: ids become floats, an
        # uneven batch fails, and several workers never start.
        if self._distribute_strategy is None:  # type: ignore[attr-defined]
            return
        strategy = self.distribute_strategy
        if iterator is not None:
            iterator.reset()  # an evaluation's may stand at its end
            for _, _, batches in iterator:
                data_batch = keras.tree.map_structure(
                    lambda value: strategy.experimental_local_results(value)[0], next(batches)
                )
                break
        with strategy.scope():
            self._symbolic_build(data_batch=data_batch)  # type: ignore[attr-defined]

    def _make_function(self, step_function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        # Keras reduces the metrics of each step in a way that fails with several workers, and loops
        # over the steps of an execution in one that fails with several replicas.
        if self._distribute_strategy is None:  # type: ignore[attr-defined]
            return super()._make_function(step_function)  # type: ignore[misc]
        strategy, steps = self.distribute_strategy, self.steps_per_execution
        if self.jit_compile:
            raise ValueError(
                "compile(jit_compile=True) compiles whole steps, which tf.distribute cannot have; "
                "`finetune(jit_compile=True)` compiles what is between two all-reduces."
            )

        def run(data: Any) -> Any:
            # Each replica has running metrics of its own; showing the first one's is enough, since
            # at the end of an epoch Keras reads all.
            outputs = strategy.run(step_function, args=(data,))
            return keras.tree.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], outputs
            )

        def run_steps(iterator: Any) -> Any:
            outputs = run(next(iterator))
            for _ in tf.range(steps - 1):
                data = iterator.get_next_as_optional()
                if data.has_value():  # a dataset may end within an execution
                    outputs = run(data.get_value())
            return outputs

        def run_one(iterator: Any) -> Any:
            return run(next(iterator))

        if self.run_eagerly:
            return run_one
        function = tf.function(run_one if steps == 1 else run_steps, reduce_retracing=True)

        def call(iterator: Any) -> Any:
            try:
                return function(iterator)
            except tf.errors.OutOfRangeError:
                raise StopIteration from None

        return call
