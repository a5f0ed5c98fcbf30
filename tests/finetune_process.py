"""`distilbert-tf finetune` on a tiny task in real processes, which tests may kill."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

COMMAND = [sys.executable, "-m", "distilbert_tf.cli"]
# Two logical CPU devices: what a machine with two GPUs is to MirroredStrategy.
ON_TWO_DEVICES = [
    sys.executable,
    "-c",
    "import tensorflow as tf;"
    'cpu = tf.config.list_physical_devices("CPU")[0];'
    "tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2);"
    "from distilbert_tf.cli import main; main()",
]
DEVICES = {
    "one device": (COMMAND, ["--strategy=none"]),
    "two devices": (ON_TWO_DEVICES, ["--strategy=mirrored"]),
    "two processes": (COMMAND, ["--num_workers=2"]),
}


def start(
    devices: str, encoder: Path, data: Path, output: Path, *flags: str
) -> "subprocess.Popen[str]":
    """Starts a run of 6 x 12 steps with dropout; its state is saved every second step."""
    program, strategy = DEVICES[devices]
    recipe = ["--epochs=6", "--batch_size=8", "--learning_rate=1e-2", "--max_length=12"]
    return subprocess.Popen(
        [
            *program, "finetune", f"--model={encoder}", f"--data={data}", f"--output={output}",
            *strategy, *recipe, "--save_steps=2", *flags,
        ],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """Waits for the end, and gives what was printed."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output[-4000:]
    return output


def wait_for_step(output: Path, step: int, process: "subprocess.Popen[str]") -> None:
    """Waits until the run has saved a state of this step or a later one."""
    _wait(lambda: saved_steps(output)[-1:] >= [step], process)


def saved_steps(output: Path) -> list[int]:
    """Lists the steps whose state is there."""
    names = [path.name for path in (output / "checkpoints").glob("step-*.safetensors")]
    return sorted(int(re.sub(r"\D", "", name)) for name in names)


def _wait(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline_s = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()[0][-4000:]
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def largest_difference(first: Path, second: Path, module: str = "") -> float:
    """Compares the weights of two results."""
    ours, theirs = (load_file(path / "model.safetensors") for path in (first, second))
    assert ours.keys() == theirs.keys()
    return max(
        float(np.abs(ours[name].astype("float64") - theirs[name]).max())
        for name in ours
        if name.startswith(module)
    )
