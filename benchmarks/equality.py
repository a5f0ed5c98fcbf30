"""Trains the same on one device, two devices, two processes, and through a kill -9.

    python -m benchmarks.equality                  # fine-tunes the demo encoder on the demo data
    python -m benchmarks.equality --data=DIR --max_train_examples=2000
    python -m benchmarks.equality --model=TEACHER --corpus=FILES       # distils a student

Without dropout all runs should end with the same weights up to rounding; with dropout, which each
replica draws for itself, those of equally many replicas exactly. Each run is a `distilbert-tf
finetune` or `distill` of its own; the killed ones are started again with the same command, or by
the launcher.
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
    """Compares the weights of two results, and returns the largest difference of any."""
    differences, _ = _compare(first, second)
    return float(np.abs(differences).max())


def relative_difference(first: Path, second: Path) -> float:
    """Compares all weights of two results as one vector: the difference's norm by the second's."""
    differences, weights = _compare(first, second)
    return float(np.linalg.norm(differences) / np.linalg.norm(weights))


def _compare(first: Path, second: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the differences of all weights, and the weights of the second result."""
    ours, theirs = load_weights(first), load_weights(second)
    if ours.keys() != theirs.keys():
        raise ValueError(f"{first} and {second} hold different tensors.")
    weights = [
        np.concatenate([tensors[name].ravel().astype("float64") for name in sorted(theirs)])
        for tensors in (ours, theirs)
    ]
    return weights[0] - weights[1], weights[1]


def start(
    devices: str, arguments: list[str], *, wrapper: Sequence[str] = ()
) -> "subprocess.Popen[str]":
    """Starts a run on some devices; its output goes into a pipe.

    Args:
        devices: One of `DEVICES`.
        arguments: Those of `distilbert-tf`: a subcommand, and its flags.
        wrapper: A command that runs the words after it, such as `nohup`.
    """
    program, strategy = DEVICES[devices]
    return subprocess.Popen(
        [*wrapper, *program, *arguments, *strategy],
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
    from distilbert_tf import DistilBertTokenizer, TFDistilBertForMaskedLM, TFDistilBertModel

    kind = TFDistilBertForMaskedLM if FLAGS.corpus else TFDistilBertModel
    rates: dict[str, Any] = dict.fromkeys(
        ("dropout", "attention_dropout", "seq_classif_dropout"), 0.0
    )
    kind.from_pretrained(model, **rates).save_pretrained(directory)
    DistilBertTokenizer.from_pretrained(model).save_pretrained(directory)
    return directory


def _recipe(model: str | Path, corpus: Path) -> list[str]:
    recipe = ["--batch_size=32", "--learning_rate=1e-4", "--save_steps=3"]
    if FLAGS.corpus:
        files = [f"--corpus={','.join(FLAGS.corpus)}", f"--corpus_dir={corpus}"]
        lengths = [f"--max_steps={FLAGS.max_steps}", f"--max_length={FLAGS.max_length}"]
        lengths.append("--max_validation_rows=64")  # scores are not what is compared
        return ["distill", f"--teacher={model}", *files, *lengths, *recipe]
    task = [f"--task={FLAGS.task}", f"--data={FLAGS.data}", f"--epochs={FLAGS.epochs}"]
    if FLAGS.max_train_examples:
        task.append(f"--max_train_examples={FLAGS.max_train_examples}")
    return ["finetune", f"--model={model}", *task, f"--max_length={FLAGS.max_length}", *recipe]


def main(argv: list[str]) -> int:
    """Runs all, and prints a Markdown table.

    Returns:
        The exit code: 1 if a run that was killed has ended with other weights than it would have.
    """
    del argv
    code = 0
    choose = random.Random(FLAGS.seed)
    print(
        "| dropout | run | compared with | largest difference of a weight | of all, relative |\n"
        "|---|---|---|---:|---:|"
    )

    def show(dropout: str, run: str, against: str, outputs: tuple[Path, Path]) -> bool:
        largest, relative = largest_difference(*outputs), relative_difference(*outputs)
        print(f"| {dropout} | {run} | {against} | {largest:.1e} | {relative:.1e} |", flush=True)
        return largest == 0

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for dropout in FLAGS.dropout:
            model = FLAGS.model
            if dropout == "no":
                model = _without_dropout(FLAGS.model, root / "without")
            recipe = _recipe(model, root / "corpus")
            whole = {}
            for devices in FLAGS.devices:
                whole[devices] = root / f"{dropout}-{devices}"
                _run(devices, recipe, whole[devices])
                against = {"no": "one device", "yes": "two devices"}[dropout]
                if dropout == "yes" and devices == "one device":
                    continue  # its masks are others
                if devices != against and against in whole:
                    show(dropout, devices, against, (whole[devices], whole[against]))
            for devices in FLAGS.devices:
                step = choose.randint(4, FLAGS.kill_before)
                output = root / f"{dropout}-{devices}-killed"
                _run(devices, recipe, output, step)
                run = f"{devices}, kill -9 once step {step} was saved"
                same = show(dropout, run, "the same, uninterrupted", (output, whole[devices]))
                code |= not same
    return code


if __name__ == "__main__":
    flags.DEFINE_string("model", "demo", "checkpoint to start from")
    flags.DEFINE_string("task", "sst2", "what to train for")
    flags.DEFINE_string("data", "demo", "directory with the task's files, or 'demo'")
    flags.DEFINE_integer("epochs", 2, "passes over the data")
    flags.DEFINE_integer("max_train_examples", None, "use only the first so many")
    flags.DEFINE_list("corpus", [], "text files: distils a student of --model, which has a head")
    flags.DEFINE_integer("max_steps", 44, "steps of a distillation")
    flags.DEFINE_integer("max_length", 64, "longest row in tokens")
    flags.DEFINE_integer("kill_before", 35, "the last step after which a run may be killed")
    flags.DEFINE_integer("seed", 1, "seed of the steps to kill after")
    flags.DEFINE_multi_enum("devices", list(DEVICES), list(DEVICES), "where to run")
    flags.DEFINE_multi_enum("dropout", ["no", "yes"], ["no", "yes"], "with dropout, or without")
    app.run(main)
