"""`distilbert-tf finetune` on a tiny task in real processes, which tests may kill."""

import subprocess
import time
from pathlib import Path

from benchmarks import equality
from benchmarks.equality import saved_steps

RECIPE = (
    "--epochs=6", "--batch_size=8", "--learning_rate=1e-2", "--max_length=12", "--save_steps=2",
)  # fmt: skip


def start(
    devices: str, encoder: Path, data: Path, output: Path, *flags: str
) -> "subprocess.Popen[str]":
    """Starts a run of 6 x 12 steps with dropout; its state is saved every second step."""
    paths = [f"--model={encoder}", f"--data={data}", f"--output={output}"]
    return equality.start(devices, [*paths, *RECIPE, *flags])


def finish(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """Waits for the end, and gives what was printed."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output[-4000:]
    return output


def wait_for_step(output: Path, step: int, process: "subprocess.Popen[str]") -> None:
    """Waits until the run has saved a state of this step or a later one."""
    deadline_s = time.monotonic() + 200
    while not saved_steps(output)[-1:] >= [step]:
        assert process.poll() is None, process.communicate()[0][-4000:]
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
