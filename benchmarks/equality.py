"""Fine-tunes the same on one device, two devices, two processes, and through a kill -9.

    python -m benchmarks.equality                  # the demo encoder on the demo data
    python -m benchmarks.equality --data=DIR --max_train_examples=2000

Without dropout all runs should end with the same weights up to rounding; with dropout, which each
replica draws for itself, those of equally many replicas exactly. Each run is a `distilbert-tf
finetune` of its own; the killed ones are started again with the same command, or by the launcher.
"""

import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from absl import app, flags
from safetensors.numpy import load_file

FLAGS = flags.FLAGS

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


def saved_steps(output: Path) -> list[int]:
    """Lists the steps whose state a run has saved."""
    names = [path.name for path in (output / "checkpoints").glob("step-*.safetensors")]
    return sorted(int(re.sub(r"\D", "", name)) for name in names)


def load_weights(output: Path) -> dict[str, np.ndarray]:
    """Reads the result of a run."""
    return load_file(output / "model.safetensors")


def largest_difference(first: Path, second: Path) -> float:
    """Compares the weights of two results."""
    ours, theirs = load_weights(first), load_weights(second)
    if ours.keys() != theirs.keys():
        raise ValueError(f"{first} and {second} hold different tensors.")
    return max(float(np.abs(ours[name].astype("float64") - theirs[name]).max()) for name in ours)


def start(
    devices: str, arguments: list[str], *, wrapper: Sequence[str] = ()
) -> "subprocess.Popen[str]":
    """Starts a run on some devices; its output goes into a pipe.

    Args:
        devices: One of `DEVICES`.
        arguments: Those of `distilbert-tf finetune`.
        wrapper: A command that runs the words after it, such as `nohup`.
    """
    program, strategy = DEVICES[devices]
    return subprocess.Popen(
        [*wrapper, *program, "finetune", *strategy, *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_all(process: "subprocess.Popen[str]") -> None:
    """Kills a run with all its workers, as a power cut would."""
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.communicate()


def _finish(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"A run ended with exit code {process.returncode}:\n{output[-3000:]}")
    return output


def _run(devices: str, arguments: list[str], output: Path, kill_after: int | None = None) -> None:
    arguments = [*arguments, f"--output={output}"]
    process = start(devices, arguments)
    if kill_after is not None:
        while not saved_steps(output)[-1:] >= [kill_after]:
            if process.poll() is not None:
                raise RuntimeError(f"Ended before it was killed:\n{process.communicate()[0]}")
            time.sleep(0.01)
        if devices == "two processes":  # one worker; the launcher sees to the rest
            psutil.Process(process.pid).children()[1].kill()
        else:
            kill_all(process)
            process = start(devices, arguments)
    _finish(process)


def _without_dropout(model: str, directory: Path) -> Path:
    from distilbert_tf import DistilBertTokenizer, TFDistilBertModel

    rates: dict[str, Any] = dict.fromkeys(
        ("dropout", "attention_dropout", "seq_classif_dropout"), 0.0
    )
    TFDistilBertModel.from_pretrained(model, **rates).save_pretrained(directory)
    DistilBertTokenizer.from_pretrained(model).save_pretrained(directory)
    return directory


def main(argv: list[str]) -> int:
    """Runs all, and prints a Markdown table.

    Returns:
        The exit code: 1 if a run that was killed has ended with other weights than it would have.
    """
    del argv
    code = 0
    choose = random.Random(FLAGS.seed)
    recipe = [
        f"--task={FLAGS.task}", f"--data={FLAGS.data}", f"--epochs={FLAGS.epochs}",
        "--batch_size=32", "--learning_rate=1e-4", "--max_length=64", "--save_steps=3",
    ]  # fmt: skip
    if FLAGS.max_train_examples:
        recipe.append(f"--max_train_examples={FLAGS.max_train_examples}")
    print("| dropout | run | compared with | largest difference of a weight |\n|---|---|---|---:|")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for dropout in FLAGS.dropout:
            model = FLAGS.model
            if dropout == "no":
                model = _without_dropout(FLAGS.model, root / "without")
            whole = {}
            for devices in FLAGS.devices:
                whole[devices] = root / f"{dropout}-{devices}"
                _run(devices, [*recipe, f"--model={model}"], whole[devices])
                against = {"no": "one device", "yes": "two devices"}[dropout]
                if dropout == "yes" and devices == "one device":
                    continue  # its masks are others
                if devices != against and against in whole:
                    difference = largest_difference(whole[devices], whole[against])
                    print(f"| {dropout} | {devices} | {against} | {difference:.1e} |", flush=True)
            for devices in FLAGS.devices:
                step = choose.randint(4, FLAGS.kill_before)
                output = root / f"{dropout}-{devices}-killed"
                _run(devices, [*recipe, f"--model={model}"], output, step)
                difference = largest_difference(output, whole[devices])
                code |= difference != 0
                print(
                    f"| {dropout} | {devices}, kill -9 once step {step} was saved | the same, "
                    f"uninterrupted | {difference:.1e} |",
                    flush=True,
                )
    return code


if __name__ == "__main__":
    flags.DEFINE_string("model", "demo", "checkpoint to start from")
    flags.DEFINE_string("task", "sst2", "what to train for")
    flags.DEFINE_string("data", "demo", "directory with the task's files, or 'demo'")
    flags.DEFINE_integer("epochs", 2, "passes over the data")
    flags.DEFINE_integer("max_train_examples", None, "use only the first so many")
    flags.DEFINE_integer("kill_before", 35, "the last step after which a run may be killed")
    flags.DEFINE_integer("seed", 1, "seed of the steps to kill after")
    flags.DEFINE_multi_enum("devices", list(DEVICES), list(DEVICES), "where to run")
    flags.DEFINE_multi_enum("dropout", ["no", "yes"], ["no", "yes"], "with dropout, or without")
    app.run(main)
