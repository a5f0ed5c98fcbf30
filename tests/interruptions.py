"""Runs of `finetune` on a tiny task that tests interrupt, in this process or in real ones."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import processes

from benchmarks import equality
from benchmarks.equality import saved_steps

# 6 x 12 steps with dropout, whose state is saved every second step.
RECIPE: dict[str, Any] = {
    "epochs": 6, "batch_size": 8, "learning_rate": 1e-2, "max_length": 12, "save_steps": 2,
}  # fmt: skip


class CrashError(Exception):
    """What ends a run without warning."""


class CrashOnce(keras.callbacks.Callback):
    """Raises after a step of a run, before its state is saved."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step, self.epoch, self.is_over = step, 0, False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Interrupts the run after the step or, of several in an execution, a later one."""
        step = self.epoch * self.params["steps"] + batch + 1
        if logs and not self.is_over and step >= self.step:
            self.is_over = True
            self.interrupt()

    def interrupt(self) -> None:
        raise CrashError


class StopOnce(CrashOnce):
    """Sends this process a signal after a step of a run."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        super().__init__(step)
        self.number = number

    def interrupt(self) -> None:
        os.kill(os.getpid(), self.number)


def start(
    devices: str,
    encoder: Path,
    data: Path,
    teacher: Path,
    output: Path,
    *,
    wrapper: Sequence[str] = (),
) -> "subprocess.Popen[str]":
    """Starts a run in real processes."""
    paths = {"task": "sst2", "model": encoder, "data": data, "teacher": teacher, "output": output}
    flags = [f"--{name}={value}" for name, value in (paths | RECIPE).items()]
    return equality.start(devices, ["finetune", *flags], wrapper=wrapper)


def finish(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """Waits for the end, and returns what was printed."""
    return processes.finish(process, code, timeout_s=200.0)[0]


def wait_for_step(output: Path, step: int, process: "subprocess.Popen[str]") -> None:
    """Waits until the run has saved a state of this step or a later one."""
    with processes.deadline(process, 200.0):
        while not saved_steps(output)[-1:] >= [step]:
            assert process.poll() is None, process.communicate()[0][-4000:]
            time.sleep(0.01)
