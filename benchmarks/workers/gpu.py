"""One variant of gpu.py, in a process of its own: sets `finetune`'s run up, and times its steps."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.checkpoints import make_checkpoint
from benchmarks.flops import NO_WORK, Work, grouped_work, padded_work, training_flops, true_work
from benchmarks.workers.protocol import Channel, serve, versions
from distilbert_tf import get_task, load_examples
from distilbert_tf.data.examples import Examples
from distilbert_tf.models.unpadding import LENGTH_GROUPS
from distilbert_tf.training.batches import training_batches
from distilbert_tf.training.classifier_training import Finetuning, set_up_finetuning
from distilbert_tf.training.options import FinetuneOptions

TASK = "sst2"
TRUE_TOKENS, PADDED, PADDED_XLA = "true_tokens", "padded", "padded_xla"


@dataclass(frozen=True)
class Measurement:
    """What is measured.

    Attributes:
        checkpoint: Directory of the model to start from.
        data: Directory with train.tsv, or "demo".
        dtype: Keras dtype policy.
        layout: `TRUE_TOKENS`, `PADDED` (all rows to `max_length`) or `PADDED_XLA`.
        strategy: Devices: see `make_strategy`.
        batch_size: Rows of a step, over all devices.
        max_length: Longest row in tokens.
        max_examples: Training rows that are read at most.
        warmup: Untimed steps at the start.
        steps: Timed steps.
        steps_per_execution: Steps between two returns to Python.
    """

    checkpoint: str
    data: str
    dtype: str
    layout: str
    strategy: str
    batch_size: int
    max_length: int
    max_examples: int
    warmup: int
    steps: int
    steps_per_execution: int


class Clock(keras.callbacks.Callback):
    """Times the steps of a `fit` after the warm-up, and those of the warm-up.

    Like the callbacks of `finetune` it is called after every execution, which has Keras wait for
    it; what is timed is what a run does.
    """

    def __init__(self, warmup: int, steps: int) -> None:
        super().__init__()
        self._ends = {warmup: "start", warmup + steps: "end"}
        self._at_s: dict[str, float] = {}
        self.loss = float("nan")

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._at_s["begin"] = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Reads the clock, once the step is computed."""
        self.loss = float((logs or {})["loss"])
        self._at_s.setdefault("first", time.perf_counter())
        if name := self._ends.get(batch + 1):
            self._at_s[name] = time.perf_counter()

    def between_s(self, start: str, end: str) -> float:
        """Returns the seconds between two of `begin`, `first`, `start` and `end`."""
        return self._at_s[end] - self._at_s[start]


def describe() -> dict[str, Any]:
    """Says which devices and libraries this environment has."""
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    build = tf.sysconfig.get_build_info()
    return {
        "gpus": [str(found.get("device_name", "unknown")) for found in details],
        "compute_capability": [
            ".".join(map(str, found.get("compute_capability", ()))) for found in details
        ],
        "cuda": build.get("cuda_version", "none"),
        "cudnn": build.get("cudnn_version", "none"),
        "tf32": tf.config.experimental.tensor_float_32_execution_enabled(),
        "versions": versions(),
    }


def make_named_checkpoint(name: str) -> str:
    """Writes one of the checkpoints if it is missing, and gives its directory."""
    return str(make_checkpoint(name))


def measure(**settings: Any) -> dict[str, Any]:
    """Times one variant: the fields of a `Measurement` in, figures out."""
    wanted = Measurement(**settings)
    run = _set_up(wanted)
    if wanted.layout == PADDED:  # by default only XLA computes padding
        with run.model.distribute_strategy.scope():
            run.model.compile(
                run.model.optimizer,
                steps_per_execution=wanted.steps_per_execution,
                skip_padding=False,
            )
    width = None if wanted.layout == TRUE_TOKENS else wanted.max_length
    clock = Clock(wanted.warmup, wanted.steps)
    run.model.fit(
        training_batches(run.rows, run.sampler, run.model.distribute_strategy, width=width),
        steps_per_epoch=wanted.warmup + wanted.steps,
        callbacks=[clock],
        shuffle=False,
        verbose=0,
    )
    if not np.isfinite(clock.loss):
        raise RuntimeError(f"the mean loss is {clock.loss}")
    true, computed = _count_work(wanted, run)
    config, labels = run.model.distilbert.config, len(get_task(TASK).labels)
    time_s = clock.between_s("start", "end")
    return {
        "examples_per_s": wanted.steps * wanted.batch_size / time_s,
        "time_s": time_s,
        "first_step_s": clock.between_s("begin", "first"),
        "mean_loss": clock.loss,
        "replicas": run.model.distribute_strategy.num_replicas_in_sync,
        "true_tokens": true.tokens,
        "computed_tokens": computed.tokens,
        "true_flops": training_flops(config, labels, true),
        "computed_flops": training_flops(config, labels, computed),
        "peak_device_mib": _peak_device_mib(),
    }


def _set_up(wanted: Measurement) -> Finetuning:
    task = get_task(TASK)
    examples = load_examples(task, wanted.data, "train").take(wanted.max_examples)
    repeats = -(-wanted.batch_size * wanted.steps_per_execution // len(examples))
    if repeats > 1:  # the demo has too few for many devices
        texts = tuple(column * repeats for column in examples.texts)
        examples = Examples(texts, np.tile(examples.labels, repeats))
    steps_per_epoch = len(examples) // wanted.batch_size
    options = FinetuneOptions(
        epochs=-(-(wanted.warmup + wanted.steps) // steps_per_epoch) + 1,
        batch_size=wanted.batch_size,
        max_length=wanted.max_length,
        fresh_head=True,
        dtype=wanted.dtype,
        jit_compile=wanted.layout == PADDED_XLA,
        strategy=wanted.strategy,
        steps_per_execution=wanted.steps_per_execution,
    )
    return set_up_finetuning([task], wanted.checkpoint, {task.name: {"train": examples}}, options)


def _count_work(wanted: Measurement, run: Finetuning) -> tuple[Work, Work]:
    """Counts the work of the timed steps: of their true tokens, and of what is computed."""
    lengths, steps = run.rows.lengths(), run.sampler.steps()
    true = computed = NO_WORK
    for number in range(wanted.warmup + wanted.steps):
        rows = lengths[next(steps)]
        if number < wanted.warmup:
            continue
        true += true_work(rows)
        if wanted.layout == TRUE_TOKENS:  # each replica makes groups of its own rows
            for part in np.split(rows, run.model.distribute_strategy.num_replicas_in_sync):
                computed += grouped_work(part, LENGTH_GROUPS)
        else:
            computed += padded_work(rows, wanted.max_length)
    return true, computed


def _peak_device_mib() -> float | None:
    """Returns the most memory that any GPU has held in this process; None without a GPU."""
    devices = [device.name for device in tf.config.list_logical_devices("GPU")]
    peaks = [
        tf.config.experimental.get_memory_info(name.removeprefix("/device:"))["peak"]
        for name in devices
    ]
    return max(peaks) / 2**20 if peaks else None


if __name__ == "__main__":
    handlers: dict[str, Callable[..., Any]] = {
        "describe": describe,
        "make_checkpoint": make_named_checkpoint,
        "measure": measure,
    }
    serve(handlers, Channel())
