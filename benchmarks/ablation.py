"""What each part of distillation adds: the same run with one of them left out, step for step.

    python -m benchmarks.ablation --teacher=DIR --corpus=DIR --work=DIR --steps=1000

As table 4 of the paper (arXiv 1910.01108), but judged on held-out text: masked-LM perplexity and
agreement with the teacher. Soft targets at all tokens instead of the masked ones are run twice, for
as many steps and for as long. Every run is resumed, or kept if it has ended, when the script is
started again with the same `--work`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
from absl import app, flags

from benchmarks import report
from benchmarks.harness import Progress, say
from distilbert_tf import distill

FLAGS = flags.FLAGS
ALL_LOSSES, EQUAL_STEPS, EQUAL_TIME = (
    "all three losses",
    "soft targets at all tokens, as many steps",
    "soft targets at all tokens, as long",
)
VARIANTS: dict[str, dict[str, Any]] = {
    ALL_LOSSES: {},
    "without cosine": {"cosine_weight": 0.0},
    "without soft targets": {"soft_targets_weight": 0.0},
    "without masked LM": {"masked_lm_weight": 0.0},
    "random start": {"random_student": True},
    EQUAL_STEPS: {"soft_targets_at": "all"},
    EQUAL_TIME: {"soft_targets_at": "all"},
}
FIGURES = {
    "perplexity": "perplexity",
    "masked_lm": "masked LM",
    "soft_targets": "soft targets",
    "cosine": "1 - cosine",
    "agreement": "agreement",
}


def run(output: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Distills, unless an earlier start of this script has, and returns record and evaluations."""
    if not (output / "metrics.json").is_file():
        distill(FLAGS.teacher, FLAGS.corpus, output, **options)
        keras.backend.clear_session()
    return {
        name: json.loads((output / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("run", "metrics")
    }


def summarize(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is reported of a run: all evaluations, steps, time and rate."""
    record = found["run"]
    names = ("steps", "train_time_s", "tokens_per_s", "scores_before")
    return {
        **{name: record[name] for name in names},
        "evaluations": found["metrics"]["evaluations"],
    }


def write(results: dict[str, Any], directory: Path) -> None:
    """Writes ablation.json, ablation.md and ablation.png."""
    report.write_json(results, directory / "ablation.json")
    variants = results["variants"]
    rows = []
    for name, found in variants.items():
        last = found["evaluations"][-1]
        figures = [f"{last[key]:.4g}" for key in FIGURES]
        rows.append([name, f"{found['steps']:,}", f"{found['train_time_s'] / 60:.1f}", *figures])
    parts = [
        "# Distillation with a part left out\n",
        report.describe(results),
        "At the last step, on text held out; losses of weight 0 are computed here too.\n",
        report.table(["", "steps", "min", *FIGURES.values()], rows),
        "![curves](ablation.png)\n",
    ]
    plot(variants, directory / "ablation.png")
    (directory / "ablation.md").write_text("\n".join(parts), encoding="utf-8")


def plot(variants: Mapping[str, Any], path: Path) -> None:
    """Draws perplexity and agreement over the steps, a line for each variant."""
    figure, grid = report.plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for axes, key in zip(grid, ("perplexity", "agreement"), strict=True):
        for number, (name, found) in enumerate(variants.items()):
            shown = found["evaluations"]
            axes.plot(
                [evaluation["step"] for evaluation in shown],
                [evaluation[key] for evaluation in shown],
                label=name, marker=report.MARKERS[number], markersize=4,
            )  # fmt: skip
        axes.set(title=f"{FIGURES[key]}, held out", xlabel="step")
        axes.grid(alpha=0.3)
    grid[0].set_yscale("log")
    grid[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    report.plt.close(figure)


def main(argv: list[str]) -> int:
    """Runs all variants that are not there yet, and reports."""
    del argv
    work = Path(FLAGS.work).expanduser()
    variants = sorted(FLAGS.variants, key=list(VARIANTS).index)
    if EQUAL_TIME in variants and not {ALL_LOSSES, EQUAL_STEPS} <= set(variants):
        raise app.UsageError(f"{EQUAL_TIME!r} needs {ALL_LOSSES!r} and {EQUAL_STEPS!r} as well.")
    common = {
        "max_length": FLAGS.max_length,
        "batch_size": FLAGS.batch_size,
        "learning_rate": FLAGS.learning_rate,
        "eval_steps": max(1, FLAGS.steps // FLAGS.evaluations),
        "max_validation_rows": FLAGS.max_validation_rows,
        "dtype": FLAGS.dtype,
    }
    results = report.start([], {"steps": FLAGS.steps, **common})
    results["variants"] = {}
    progress = Progress(len(variants))
    for name in variants:
        steps = FLAGS.steps
        if name == EQUAL_TIME:
            times = [
                results["variants"][other]["train_time_s"] for other in (ALL_LOSSES, EQUAL_STEPS)
            ]
            steps = max(1, round(steps * times[0] / times[1]))
        output = work / f"{list(VARIANTS).index(name)}"
        found = run(output, {**common, "max_steps": steps, **VARIANTS[name]})
        results["variants"][name] = summarize(found)
        write(results, Path(FLAGS.output))
        progress.step(name)
    say(f"Written to {FLAGS.output}.")
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("teacher", None, "masked-LM checkpoint of the teacher", required=True)
    flags.DEFINE_list("corpus", None, "text files, or a prepared corpus", required=True)
    flags.DEFINE_string("work", None, "directory of the runs", required=True)
    flags.DEFINE_multi_enum("variants", list(VARIANTS), list(VARIANTS), "which runs")
    flags.DEFINE_integer("steps", 1000, "optimizer steps of a run", lower_bound=1)
    flags.DEFINE_integer("evaluations", 10, "evaluations in a run", lower_bound=1)
    flags.DEFINE_integer("batch_size", 32, "rows of a step")
    flags.DEFINE_integer("max_length", 128, "longest row in tokens")
    flags.DEFINE_float("learning_rate", 5e-4, "peak learning rate")
    flags.DEFINE_integer("max_validation_rows", 256, "rows of an evaluation")
    flags.DEFINE_string("dtype", "float32", "what to compute in")
    flags.DEFINE_string("output", str(report.RESULTS), "directory of the results")
    app.run(main)
