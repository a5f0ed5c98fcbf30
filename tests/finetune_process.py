"""`distilbert-tf finetune` on a tiny task in real processes, which tests may kill."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import processes

from benchmarks import equality
from benchmarks.equality import saved_steps

RECIPE = (
    "--epochs=6", "--batch_size=8", "--learning_rate=1e-2", "--max_length=12", "--save_steps=2",
)  # fmt: skip


def start(
    devices: str,
    encoder: Path,
    data: Path,
    output: Path,
    *flags: str,
    wrapper: Sequence[str] = (),
) -> "subprocess.Popen[str]":
    """Starts a run of 6 x 12 steps with dropout; its state is saved every second step."""
    paths = [f"--model={encoder}", f"--data={data}", f"--output={output}"]
    return equality.start(devices, [*paths, *RECIPE, *flags], wrapper=wrapper)


def finish(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """Waits for the end, and returns what was printed."""
    return processes.finish(process, code, timeout_s=200.0)[0]


def wait_for_step(output: Path, step: int, process: "subprocess.Popen[str]") -> None:
    """Waits until the run has saved a state of this step or a later one."""
    with processes.deadline(process, 200.0):
        while not saved_steps(output)[-1:] >= [step]:
            assert process.poll() is None, process.communicate()[0][-4000:]
            time.sleep(0.01)
