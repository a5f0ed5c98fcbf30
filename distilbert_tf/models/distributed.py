"""What Keras needs to `fit` under every synchronous strategy of `tf.distribute`.

Two private methods of Keras' trainer are overridden here (setup.py holds Keras to one minor
version); tests run them, so that an upgrade fails a test and not somebody's training.
"""

import json
import os
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from distilbert_tf.training.options import STRATEGIES


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """Makes a strategy for what this process can use. Call it before anything else of TensorFlow.

    Args:
        name: One of `STRATEGIES`. `"none"` is one device; `"mirrored"` all GPUs of this machine
            (or, without any, all logical CPU devices); `"multi_worker"` the machines of the
            environment variable `TF_CONFIG`; `"tpu"` the TPU that the environment names.
            `"auto"` is the first of these that there is more than one of: workers in `TF_CONFIG`,
            then GPUs.

    Returns:
        The strategy; TensorFlow's default one for a single device.

    Raises:
        ValueError: No such name, or `"multi_worker"` without a usable `TF_CONFIG`.
        RuntimeError: No TPU can be reached.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}; got {name!r}.")
    workers = _count_workers()
    if name == "multi_worker" and not workers:
        raise ValueError(
            "strategy='multi_worker' needs the environment variable TF_CONFIG, a JSON object with "
            "'cluster' (its 'worker' a list of host:port) and 'task' (its 'type' and 'index')."
        )
    if name == "tpu":
        return _make_tpu_strategy()
    gpus = _grow_gpu_memory()
    if name == "multi_worker" or (name == "auto" and workers > 1):
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        kind = "GPU" if gpus else "CPU"
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.get_strategy()


def _count_workers() -> int:
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return 0
    try:
        cluster = json.loads(text).get("cluster", {})
        return sum(len(cluster.get(kind, [])) for kind in ("chief", "worker"))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"TF_CONFIG is not a JSON object with a cluster of workers: {error}; it is "
            f"{text[:200]!r}."
        ) from error


def _grow_gpu_memory() -> list[Any]:
    """Lets TensorFlow take GPU memory as it needs it, so that others can use the rest."""
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # a notebook that has used the GPU already
            logging.warning("%s is in use already: its memory is taken as it was set.", gpu.name)
    return gpus


def _make_tpu_strategy() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(os.environ.get("TPU_NAME", ""))
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError, SystemError) as error:
        raise RuntimeError(
            f"No TPU can be reached: {error}. On a TPU machine set TPU_NAME (local: 'local'), and "
            "use TensorFlow's build for TPUs."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Says whether this process is the one that writes files: the only one, or worker 0."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
        return True
    has_chief = "chief" in resolver.cluster_spec().as_dict()
    return resolver.task_type == "chief" or (resolver.task_id == 0 and not has_chief)


def distribute(
    strategy: tf.distribute.Strategy, make_dataset: Callable[[int, int], tf.data.Dataset]
) -> Any:
    """Gives each replica its part of every batch.

    The parts are the same whether the replicas stand in one process or in several: so a run on two
    machines equals one on two devices.

    Args:
        strategy: Whose replicas.
        make_dataset: Given a first replica's number and how many of them this process feeds, makes
            the dataset of their batches: that of one step for the first replica, for the second,
            and so on, then the next step's.

    Returns:
        What `fit` takes: the dataset itself, or a distributed one.
    """
    if strategy.num_replicas_in_sync == 1:
        return make_dataset(0, 1)

    def make_for(context: tf.distribute.InputContext) -> tf.data.Dataset:
        count = context.num_replicas_in_sync // context.num_input_pipelines
        return make_dataset(context.input_pipeline_id * count, count)

    return strategy.distribute_datasets_from_function(make_for)


class DistributedTraining:
    """Mixed into a `keras.Model`, mends `fit` and `evaluate` under strategies.

    Make and compile the model in the strategy's scope; batches may come from a `tf.data.Dataset`,
    which TensorFlow then splits, or from `distribute`.
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
            # Each replica has its own running metrics; the first one's are good enough to be
            # shown. At the end of an epoch Keras reads all.
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
