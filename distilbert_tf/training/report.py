"""What a run leaves beside its checkpoint: JSON, pictures and a model card."""

import importlib.metadata
import json
import platform
import resource
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from distilbert_tf.checkpoints.problem_types import SINGLE_LABEL
from distilbert_tf.data.examples import Examples
from distilbert_tf.data.tasks import Task
from distilbert_tf.files import replacing
from distilbert_tf.training.evaluation import Scores
from distilbert_tf.training.metrics import log_prefix
from distilbert_tf.training.model_card import write_card
from distilbert_tf.training.run_directory import (
    CARD,
    CURVES,
    METRICS,
    RUN,
    RunDirectory,
    confusion_picture,
)
from distilbert_tf.training.state import Progress
from distilbert_tf.version import __version__

_LIBRARIES = ("tensorflow", "keras", "transformers", "tokenizers", "numpy")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file under a temporary name, and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def describe_process() -> dict[str, Any]:
    """Describes the command, the versions and the devices."""
    return {
        "command": shlex.join(sys.argv),
        "versions": {
            "distilbert_tf": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        },
        "platform": platform.platform(),
        "devices": [
            f"{device.device_type}: {_device_name(device)}"
            for device in tf.config.list_physical_devices()
        ],
    }


def _device_name(device: Any) -> str:
    if device.device_type == "CPU":
        return platform.processor() or platform.machine()
    return str(tf.config.experimental.get_device_details(device).get("device_name", device.name))


def peak_memory_mib() -> float:
    """Returns the most memory that this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def describe_data(splits: Mapping[str, Mapping[str, Examples]]) -> dict[str, Any]:
    """Describes the files that a run read: for each task and split names, digest and rows."""
    return {
        task: {
            split: {
                "files": [path.name for path in examples.files],
                "sha256": examples.digest(),
                "rows": len(examples),
                "skipped": examples.skipped,
            }
            for split, examples in by_split.items()
        }
        for task, by_split in splits.items()
    }


def plot_curves(
    path: Path,
    losses: Sequence[tuple[int, float]],
    evaluations: Sequence[Mapping[str, float]],
    metrics: Sequence[str],
    best_step: int,
) -> None:
    """Draws the learning curves: loss on the left, the metrics on the right.

    Args:
        path: The PNG file.
        losses: Pairs of a step and the mean training loss up to it since the pair before.
        evaluations: Each with `step`, `loss` and the metrics.
        metrics: Names of the metrics to draw.
        best_step: The step of the evaluation whose weights were kept.
    """
    from matplotlib.figure import Figure  # without pyplot, which wants a display and one thread

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [found["step"] for found in evaluations]
    left.plot(*zip(*losses, strict=True) if losses else ([], []), label="training", linewidth=1)
    left.plot(steps, [found["loss"] for found in evaluations], "o-", label="validation")
    for name in metrics:
        right.plot(steps, [found[name] for found in evaluations], "o-", label=name)
    for axes, title in ((left, "loss"), (right, "metrics on validation")):
        axes.axvline(best_step, color="grey", linestyle=":", label="kept")
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def plot_confusion(path: Path, confusion: np.ndarray, labels: Sequence[str], title: str) -> None:
    """Draws a confusion matrix: counts, coloured by their share of the true label's rows.

    Args:
        path: The PNG file.
        confusion: Integers (C, C): rows the true labels, columns the predicted ones.
        labels: C names.
        title: Stands above.
    """
    from matplotlib.figure import Figure

    size = 2.5 + 0.9 * len(labels)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(confusion.shape):
        share = shares[row, column]
        axes.text(
            column, row, f"{confusion[row, column]:,}\n{share:.1%}", ha="center", va="center",
            color="white" if share > 0.5 else "black",
        )  # fmt: skip
    axes.set(title=title, xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels, rotation=90, va="center")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def write_results(
    directory: RunDirectory,
    tasks: Sequence[Task],
    scores: Mapping[str, Mapping[str, Scores]],
    progress: Progress,
    record: Mapping[str, Any],
) -> None:
    """Writes all that a finished run leaves beside its checkpoints.

    Args:
        directory: The run's directory.
        tasks: The tasks.
        scores: By task and split.
        progress: How the run went.
        record: What `run.json` holds.
    """
    metrics = [log_prefix(task.name, len(tasks)) + name for task in tasks for name in task.metrics]
    for task in tasks:
        place, best_step = directory.models[task.name], record["best"]["step"]
        plot_curves(place / CURVES, progress.losses, progress.evaluations, metrics, best_step)
        for split, found in scores[task.name].items():
            if task.problem_type == SINGLE_LABEL:
                path = place / confusion_picture(split)
                plot_confusion(path, found.confusion, task.labels, f"{task.name}, {split}")
        write_card(place / CARD, task, scores[task.name], record)
    write_json(directory.path / RUN, record)
    content = {
        "scores": {
            task: {split: found.record() for split, found in by_split.items()}
            for task, by_split in scores.items()
        },
        "best": record["best"],
        "evaluations": progress.evaluations,
        "epochs": progress.epochs,
    }
    write_json(directory.path / METRICS, content)  # last: it says that the run is finished
