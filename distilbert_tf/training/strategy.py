"""Strategies of `tf.distribute`: which one a process can use, and what each replica is fed."""

import functools
import json
import os
from collections.abc import Callable
from typing import Any

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
        return _mirror(tuple(device.name for device in tf.config.list_logical_devices(kind)))
    return tf.distribute.get_strategy()


@functools.cache
def _mirror(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    # A second strategy on the same devices would number its all-reduces from the start again, and
    # TensorFlow compares their shapes with those that had the numbers before.
    return tf.distribute.MirroredStrategy(list(devices))


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
    """Whether this process writes the files: the only one, or worker 0."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
        return True
    has_chief = "chief" in resolver.cluster_spec().as_dict()
    return resolver.task_type == "chief" or (resolver.task_id == 0 and not has_chief)


def distribute(
    strategy: tf.distribute.Strategy, make_dataset: Callable[[int, int], tf.data.Dataset]
) -> Any:
    """Distributes the parts of every batch to the replicas.

    The parts are the same whether the replicas are in one process or in several, so a run on two
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
