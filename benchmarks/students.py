"""What a student keeps of its teacher: scores of fine-tuned classifiers, size, and speed.

    python -m benchmarks.students --teacher=DIR --student=DIR --data=DIR --work=DIR

Fine-tunes by one recipe: the teacher; the distilled student; what the student began with, the
teacher's layers without any distillation; the same shape with random weights; and the distilled
student once more, taught by the fine-tuned teacher. Every run is resumed, or kept if it has ended,
when the script is started again with the same `--work`.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import report
from benchmarks.harness import Progress, say, shuffled
from benchmarks.timing import Timing
from distilbert_tf import (
    DistilBertTokenizer,
    TFDistilBertForMaskedLM,
    TFDistilBertForSequenceClassification,
    finetune,
    get_task,
    load_examples,
)
from distilbert_tf.distillation.student import make_student

FLAGS = flags.FLAGS
TEACHER, DISTILLED, LAYERS, RANDOM, TAUGHT = (
    "teacher",
    "distilled student",
    "the teacher's layers, not distilled",
    "random weights",
    "distilled student, taught by the fine-tuned teacher",
)
ORDER = (TEACHER, DISTILLED, LAYERS, RANDOM, TAUGHT)
BATCH = 32


def chosen() -> list[str]:
    """Returns the models to fine-tune, the teacher first."""
    return sorted(FLAGS.students, key=ORDER.index)


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of one task.

    Attributes:
        task: Its name.
        data: Directory with its files, or "demo".
        checkpoints: What each model starts from.
        work: Where the runs go.
        options: Those of `finetune`.
    """

    task: str
    data: str
    checkpoints: Mapping[str, Path]
    work: Path
    options: Mapping[str, Any]

    def output(self, name: str, seed: int) -> Path:
        """Returns the directory of a run."""
        return self.work / self.task / f"{ORDER.index(name)}-seed{seed}"

    def run(self, name: str, seed: int) -> dict[str, float]:
        """Returns a model's scores; fine-tunes it, unless an earlier start of this script has."""
        output = self.output(name, seed)
        taught: dict[str, Any] = {"teacher": self.output(TEACHER, seed)} if name == TAUGHT else {}
        start = self.checkpoints[DISTILLED if name == TAUGHT else name]
        if not (output / "metrics.json").is_file():
            finetune(self.task, start, self.data, output, seed=seed, **self.options, **taught)
            keras.backend.clear_session()
        scores = json.loads((output / "metrics.json").read_text(encoding="utf-8"))["scores"]
        found: dict[str, float] = scores[self.task]["validation"]
        return found


def write_starts(teacher: Path, work: Path) -> dict[str, Path]:
    """Writes what the students without distillation start from: every second layer, or noise."""
    loaded = TFDistilBertForMaskedLM.from_pretrained(teacher)
    found = {}
    for name, random in ((LAYERS, False), (RANDOM, True)):
        keras.utils.set_random_seed(1)
        found[name] = work / f"start-{ORDER.index(name)}"
        if not (found[name] / "vocab.txt").is_file():
            make_student(loaded, random_weights=random).save_pretrained(found[name])
            DistilBertTokenizer.from_pretrained(teacher).save_pretrained(found[name])
    return found


def count_parameters(checkpoint: Path) -> dict[str, int]:
    """Counts a classifier's numbers: all, and those that are no embeddings."""
    model = TFDistilBertForSequenceClassification.from_pretrained(checkpoint)
    every = sum(int(np.prod(weight.shape)) for weight in model.weights)
    embeddings = sum(int(np.prod(w.shape)) for w in model.distilbert.embeddings.weights)
    return {"all": every, "without_embeddings": every - embeddings}


def load_for_timing(checkpoint: Path) -> Callable[[list[tf.Tensor]], tf.Tensor]:
    """Loads a classifier as a function from columns of strings to logits."""
    model = TFDistilBertForSequenceClassification.from_pretrained(checkpoint)
    tokenize = DistilBertTokenizer.from_pretrained(checkpoint).as_layer()

    @tf.function(reduce_retracing=True)
    def classify(columns: list[tf.Tensor]) -> tf.Tensor:
        return model(tokenize(*columns), training=False)

    return classify


def time_models(checkpoints: Mapping[str, Path], columns: list[list[str]]) -> dict[str, Timing]:
    """Times a pass over the rows, from strings to logits; all models in turn, round after round.

    Args:
        checkpoints: The classifiers.
        columns: The texts of the rows, column by column.
    """
    models = {name: load_for_timing(path) for name, path in checkpoints.items()}
    batches = [
        [tf.constant(column[first : first + BATCH]) for column in columns]
        for first in range(0, len(columns[0]), BATCH)
    ]
    for classify in models.values():
        for batch in batches[:2]:
            classify(batch)
    times = {name: Timing.empty() for name in models}
    for number in range(FLAGS.rounds):
        for name in shuffled(list(models), number):
            start_s = time.perf_counter()
            for batch in batches:
                np.asarray(models[name](batch))
            times[name].add([time.perf_counter() - start_s])
    return times


def write(results: dict[str, Any], directory: Path) -> None:
    """Writes students.json, students.md and students.png."""
    report.write_json(results, directory / "students.json")
    parts = ["# Students and their teacher\n", report.describe(results)]
    for task, part in results["models"].items():
        parts += [f"## {task}: {part['metric']} on {part['rows']:,} rows\n", _table(part)]
    plot(results, directory / "students.png")
    parts.append("![scores and speeds](students.png)\n")
    (directory / "students.md").write_text("\n".join(parts), encoding="utf-8")


def _table(part: Mapping[str, Any]) -> str:
    teacher, rows = part["students"].get(TEACHER), []
    for name, found in part["students"].items():
        scores = found["scores"]
        spread = f" ± {stdev(scores):.4f}" if scores[1:] else ""
        share = mean(scores) / mean(teacher["scores"]) if teacher else float("nan")
        speed = part["speed"].get(name)
        rows.append(
            [
                name,
                f"{mean(scores):.4f}{spread}",
                f"{share:.1%}",
                f"{found['parameters']['all'] / 1e6:.1f}",
                f"{found['parameters']['without_embeddings'] / 1e6:.1f}",
                f"{speed['median_ratio']:.2f} ({speed['min_ratio']:.2f})" if speed else "-",
            ]
        )
    header = ["", "score", "of the teacher's", "parameters, M", "without embeddings, M"]
    return report.table([*header, "speed, medians (minima)"], rows)


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Draws scores over speeds, a point for each model and task."""
    figure, grid = report.plt.subplots(
        1, len(results["models"]), squeeze=False, layout="constrained",
        figsize=(6 * len(results["models"]), 4.2),
    )  # fmt: skip
    for axes, (task, part) in zip(grid[0], results["models"].items(), strict=True):
        for number, (name, found) in enumerate(part["students"].items()):
            speed = part["speed"].get(name, part["speed"].get(DISTILLED, {}))
            axes.scatter(
                speed.get("median_ratio", float("nan")), mean(found["scores"]),
                s=8 * found["parameters"]["without_embeddings"] / 1e6 + 20,
                label=name, marker=report.MARKERS[number],
            )  # fmt: skip
        axes.set(title=task, xlabel="speed, teacher = 1", ylabel=part["metric"])
        axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    report.plt.close(figure)


def measure(runs: Runs, progress: Progress) -> dict[str, Any]:
    """Runs all of a task that is not there yet; returns scores, sizes and speeds."""
    task = get_task(runs.task)
    students: dict[str, Any] = {}
    for name in chosen():
        scores = []
        for seed in range(1, FLAGS.seeds + 1):
            found = runs.run(name, seed)
            scores.append(found[task.metrics[0]])
            progress.step(f"{runs.task}, {name}: {task.metrics[0]} {scores[-1]:.4f}")
        students[name] = {
            "scores": scores,
            "parameters": count_parameters(runs.output(name, 1)),
        }
    validation = load_examples(task, runs.data, "validation")
    timed = {name: runs.output(name, 1) for name in chosen() if name in (TEACHER, DISTILLED)}
    times = time_models(timed, [list(column) for column in validation.texts])
    teacher = times.get(TEACHER)
    speed = {
        name: {
            **timing.as_dict(),
            "median_ratio": teacher.median_s / timing.median_s,
            "min_ratio": teacher.min_s / timing.min_s,
        }
        for name, timing in times.items()
        if teacher
    }
    return {
        "metric": task.metrics[0],
        "rows": len(validation),
        "students": students,
        "speed": speed,
        "versions": {},
    }


def main(argv: list[str]) -> int:
    """Measures and reports."""
    del argv
    if TAUGHT in chosen() and TEACHER not in chosen():
        raise app.UsageError(f"{TAUGHT!r} needs {TEACHER!r} as well.")
    work = Path(FLAGS.work).expanduser()
    teacher = Path(FLAGS.teacher).expanduser()
    checkpoints = {
        TEACHER: teacher,
        DISTILLED: Path(FLAGS.student).expanduser(),
        **write_starts(teacher, work),
    }
    options = {
        name: getattr(FLAGS, name)
        for name in ("epochs", "learning_rate", "max_length", "max_train_examples", "dtype")
        if getattr(FLAGS, name) is not None
    }
    results = report.start([], {**options, "batch_size": BATCH, "seeds": FLAGS.seeds})
    progress = Progress(len(FLAGS.tasks) * len(chosen()) * FLAGS.seeds)
    for task in FLAGS.tasks:
        data = FLAGS.data if FLAGS.data == "demo" else str(Path(FLAGS.data).expanduser() / task)
        runs = Runs(task, data, checkpoints, work, {**options, "batch_size": BATCH})
        results["models"][task] = measure(runs, progress)
        write(results, Path(FLAGS.output))
    say(f"Written to {FLAGS.output}.")
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("teacher", None, "masked-LM checkpoint of the teacher", required=True)
    flags.DEFINE_string("student", None, "what `distill` wrote", required=True)
    flags.DEFINE_string("data", "demo", "directory with sst2/, qqp/ in GLUE's layout, or 'demo'")
    flags.DEFINE_string("work", None, "directory of the runs", required=True)
    flags.DEFINE_list("tasks", ["sst2", "qqp"], "what to fine-tune for")
    flags.DEFINE_multi_enum("students", list(ORDER), list(ORDER), "which models")
    flags.DEFINE_integer("seeds", 1, "runs of each model", lower_bound=1)
    flags.DEFINE_integer("epochs", 2, "passes over the data")
    flags.DEFINE_float("learning_rate", 1e-4, "peak learning rate")
    flags.DEFINE_integer("max_length", 128, "longest row in tokens")
    flags.DEFINE_integer("max_train_examples", None, "use only the first so many")
    flags.DEFINE_string("dtype", "float32", "what to compute in")
    flags.DEFINE_integer("rounds", 5, "times that each model's speed is measured", lower_bound=1)
    flags.DEFINE_string("output", str(report.RESULTS), "directory of the results")
    app.run(main)
