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

from distilbert_tf.checkpoints.tensor_files import replacing
from distilbert_tf.data.examples import Examples
from distilbert_tf.data.tasks import Task
from distilbert_tf.models.shared_encoder import RUN
from distilbert_tf.training.evaluation import Scores
from distilbert_tf.training.metrics import log_prefix
from distilbert_tf.version import __version__

VALIDATION = "validation"  # the split by which the best weights are chosen
METRICS, CARD = "metrics.json", "README.md"
CURVES, CONFUSION = "learning_curves.png", "confusion_matrix.png"
PICTURES = (CURVES, "confusion_*.png")  # other splits than validation have a confusion_<split>.png

_LIBRARIES = ("tensorflow", "keras", "transformers", "tokenizers", "numpy")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def describe_process() -> dict[str, Any]:
    """Says what was run, with which versions, and on what."""
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
    """Gives the most memory that this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def describe_data(splits: Mapping[str, Mapping[str, Examples]]) -> dict[str, Any]:
    """Says which files a run read: for each task and split names, digest and rows."""
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


def write_card(
    path: Path, task: Task, scores: Mapping[str, Scores], run: Mapping[str, Any]
) -> None:
    """Writes the model card of a classifier: what it is, its measured scores, how it was made.

    Args:
        path: The Markdown file.
        task: What the classifier is for.
        scores: Those measured, by split.
        run: The record of the run.
    """
    options = run["options"]
    columns = list(next(iter(scores.values())).values)
    texts = " and ".join(f"`{column}`" for column in task.text_columns)
    lines = [
        "---",
        "pipeline_tag: text-classification",
        "tags: [distilbert, tensorflow]",
        f"metrics: [{', '.join(name for name in columns if name != 'loss')}]",
        "---",
        "",
        f"# {task.name}: {', '.join(task.labels)}",
        "",
        f"A DistilBERT classifier of {texts}, fine-tuned from `{run['model']}` with distilbert-tf.",
        "",
        "## Scores",
        "",
        f"| split | rows | {' | '.join(columns)} |",
        f"|---|---:|{'---:|' * len(columns)}",
        *(
            f"| {split} | {found.rows:,} | "
            + " | ".join(f"{value:.4f}" for value in found.values.values())
            + " |"
            for split, found in scores.items()
        ),
        "",
        "Measured on the data below at the end of the run. The weights kept are those with the "
        "best score on the validation split, so that score is a little flattering.",
        "",
        f"![confusion matrix]({CONFUSION})",
        "",
        "## Training",
        "",
        f"![learning curves]({CURVES})",
        "",
        *([f"One encoder, trained for {', '.join(run['tasks'])} together.", ""]
          if len(run["tasks"]) > 1 else []),
        f"- {options['epochs']} epochs of {run['steps_per_epoch']:,} steps, "
        f"{options['batch_size']} rows each; AdamW, peak rate {options['learning_rate']:g}, "
        f"warm-up {options['warmup_ratio']:g}, weight decay {options['weight_decay']:g}, "
        f"seed {options['seed']}, at most {options['max_length']} tokens.",
        f"- {run['train_time_s']:.0f} s, {run['examples_per_s']:.1f} examples/s on "
        f"{'; '.join(run['devices'])} ({run['replicas']} replica(s), {run['dtype']}).",
        *(
            f"- {split}: {', '.join(found['files'])}, {found['rows']:,} rows"
            + (f" ({found['skipped']:,} left out)" if found["skipped"] else "")
            + f", sha256 `{found['sha256']}`"
            for split, found in run["data_files"][task.name].items()
        ),
        f"- TensorFlow {run['versions']['tensorflow']}, Keras {run['versions']['keras']}, "
        f"distilbert-tf {run['versions']['distilbert_tf']}.",
        "",
        "## Use",
        "",
        "```python",
        "from distilbert_tf import pipeline  # or transformers: the files are PyTorch's too",
        "",
        'classify = pipeline("text-classification", model="path/to/this/directory")',
        'classify({"text": "...", "text_pair": "..."})' if task.is_pair else 'classify("...")',
        "```",
        "",
    ]  # fmt: skip
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def write_record(
    output_dir: Path,
    directories: Mapping[str, Path],
    tasks: Sequence[Task],
    scores: Mapping[str, Mapping[str, Scores]],
    run: Mapping[str, Any],
    *,
    losses: Sequence[tuple[int, float]],
    evaluations: Sequence[Mapping[str, Any]],
    epochs: Sequence[Mapping[str, float]],
) -> None:
    """Writes all that a finished run leaves beside its checkpoints.

    Args:
        output_dir: The run's directory.
        directories: Where each task's classifier is.
        tasks: The tasks.
        scores: By task and split.
        run: The record of the run.
        losses: See `plot_curves`.
        evaluations: All of the run.
        epochs: What `fit` logged of each.
    """
    metrics = [log_prefix(task.name, len(tasks)) + name for task in tasks for name in task.metrics]
    for task in tasks:
        directory = directories[task.name]
        plot_curves(directory / CURVES, losses, evaluations, metrics, run["best"]["step"])
        for split, found in scores[task.name].items():
            name = CONFUSION if split == VALIDATION else CONFUSION.replace("matrix", split)
            plot_confusion(directory / name, found.confusion, task.labels, f"{task.name}, {split}")
        write_card(directory / CARD, task, scores[task.name], run)
    write_json(output_dir / RUN, run)
    content = {
        "scores": {
            task: {split: found.record() for split, found in by_split.items()}
            for task, by_split in scores.items()
        },
        "best": run["best"],
        "evaluations": list(evaluations),
        "epochs": list(epochs),
    }
    write_json(output_dir / METRICS, content)  # last: it says that the run is finished
