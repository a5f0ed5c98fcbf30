"""Compares exports whose weights are stored as fp32, fp16 and int8.

    python -m benchmarks.weight_quantization --data=DIR --models=CHECKPOINT,base

Each load is that of a fresh process; all kinds have a turn in every round. A model is a checkpoint
of an SST-2 classifier, or `base` or `demo` of checkpoints.py, whose accuracy means nothing.
"""

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from absl import app, flags
from distilbert_serving.saved_model.exporter import export_pretrained
from distilbert_serving.saved_model.weight_quantization import WEIGHTS

from benchmarks import report
from benchmarks.checkpoints import NAMES, make_checkpoint
from benchmarks.harness import ROOT, Progress, say, shuffled
from benchmarks.peers import INFERENCE, choose
from distilbert_tf import get_task, load_examples

LOADERS = ("tf2", "session")
FLAGS = flags.FLAGS
flags.DEFINE_string("data", "demo", "directory with sst2/ in GLUE's layout, or 'demo'")
flags.DEFINE_list("models", ["demo"], f"checkpoints: directories, {', '.join(NAMES)}")
flags.DEFINE_integer("rounds", 5, "loads of each kind", lower_bound=1)
flags.DEFINE_list("weights", list(WEIGHTS), "kinds; the first one is what others are compared with")
flags.DEFINE_list("loaders", list(LOADERS), "what loads them")
flags.DEFINE_string("output", str(report.RESULTS), "directory of the results")

NUMBERS = {
    "load_s": "load, s",
    "load_cpu_s": "load, CPU s",
    "load_mib": "resident after the load, MiB",
    "served_mib": "after all calls, MiB",
    "call_1_ms": "1 sentence, ms",
    "call_8_ms": "8 sentences, ms",
}


def measure(model: str, texts: list[str], labels: np.ndarray) -> list[dict[str, Any]]:
    """Exports a model in each kind, and loads them in turn.

    Args:
        model: A checkpoint.
        texts: SST-2's validation sentences.
        labels: Their labels, integers (R,).

    Returns:
        For each kind and loader its figures: medians of the rounds, `call_*` their minima.
    """
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        kinds = {}
        for weights in FLAGS.weights:
            say(f"exporting {model} as {weights}")
            base = Path(directory) / weights
            source = make_checkpoint(model) if model in NAMES else model
            kinds[weights] = export_pretrained(source, base, weights=weights, verify=False)
        turns = [(weights, loader) for weights in FLAGS.weights for loader in FLAGS.loaders]
        loads: dict[tuple[str, str], list[dict[str, Any]]] = {turn: [] for turn in turns}
        progress = Progress(FLAGS.rounds * len(turns))
        for number in range(FLAGS.rounds):
            for weights, loader in shuffled(turns, number):
                loads[weights, loader].append(_load(kinds[weights], loader, texts))
                progress.step(f"{weights}, {loader} loader")
        for (weights, loader), results in loads.items():
            logits = np.array(results[0]["logits"])
            exact = np.array(loads[FLAGS.weights[0], loader][0]["logits"])
            row: dict[str, Any] = {
                "weights": weights,
                "loader": loader,
                "mb": _size_mb(kinds[weights]),
                "accuracy": float((logits.argmax(axis=1) == labels).mean()),
                "changed_labels": int((logits.argmax(axis=1) != exact.argmax(axis=1)).sum()),
                "largest_difference": float(np.abs(logits - exact).max()),
            }
            for name in NUMBERS:
                pick = min if name.startswith("call") else median
                row[name] = pick(result[name] for result in results)
            rows.append(row)
    return rows


def write(results: dict[str, Any], directory: Path) -> None:
    """Writes weight_quantization.json and weight_quantization.md."""
    report.write_json(results, directory / "weight_quantization.json")
    parts = ["# Exports with quantized weights\n", report.describe(results)]
    for model, part in results["models"].items():
        parts += [f"## {model}\n", *(_quality(part["rows"]), _costs(part["rows"]))]
    (directory / "weight_quantization.md").write_text("\n".join(parts), encoding="utf-8")


def _quality(rows: list[dict[str, Any]]) -> str:
    header = ["", "version directory, MB", "accuracy", "labels changed", "largest logit difference"]
    return report.table(
        header,
        [
            [
                row["weights"],
                f"{row['mb']:.1f}",
                f"{row['accuracy']:.4f}",
                str(row["changed_labels"]),
                f"{row['largest_difference']:.1e}",
            ]
            for row in rows
            if row["loader"] == rows[0]["loader"]
        ],
    )


def _costs(rows: list[dict[str, Any]]) -> str:
    return report.table(
        ["", *NUMBERS.values()],
        [
            [f"{row['weights']}, {row['loader']}", *(f"{row[name]:.2f}" for name in NUMBERS)]
            for row in rows
        ],
    )


def _load(directory: Path, loader: str, texts: list[str]) -> dict[str, Any]:
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.workers.weight_quantization", str(directory), loader],
        cwd=ROOT,
        input=json.dumps(texts),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    loaded: dict[str, Any] = json.loads(process.stdout)
    return loaded


def _size_mb(directory: Path) -> float:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6


def main(argv: list[str]) -> int:
    """Measures and reports."""
    del argv
    directory = FLAGS.data if FLAGS.data == "demo" else Path(FLAGS.data).expanduser() / "sst2"
    examples = load_examples(get_task("sst2"), directory, "validation")
    texts = list(examples.texts[0])
    peers = choose(INFERENCE, [report.OURS])
    results = report.start(peers, {"rounds": FLAGS.rounds, "sentences": len(texts)})
    versions = {report.OURS: {name: version(name) for name in ("tensorflow", "numpy")}}
    for model in FLAGS.models:
        rows = measure(model, texts, np.array(examples.labels))
        results["models"][Path(model).name] = {"rows": rows, "versions": versions}
        write(results, Path(FLAGS.output))
    return report.finish(results, FLAGS.output)


if __name__ == "__main__":
    app.run(main)
