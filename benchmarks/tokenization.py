"""Times tokenization, ours and the peers', in interleaved rounds.

    python -m benchmarks.tokenization --data=DIR

`DIR` has the folders sst2 and mnli with GLUE's files; "demo" takes the package's own sentences.
Where the output directory holds the results of benchmarks.training, ours is compared with them.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from absl import app, flags

from benchmarks import report
from benchmarks.checkpoints import make_checkpoint
from benchmarks.harness import Crew, Progress, shuffled
from benchmarks.machine import threads_available
from benchmarks.peers import TOKENIZATION, Peer, choose
from distilbert_tf import get_task, load_examples

FLAGS = flags.FLAGS
flags.DEFINE_string("data", "demo", "directory with sst2/ and mnli/ in GLUE's layout, or 'demo'")
flags.DEFINE_integer("rounds", 5, "times that everybody has a turn", lower_bound=1)
flags.DEFINE_list("peers", [], "names in peers.py; the default ones if empty")
flags.DEFINE_list("tasks", ["sst2", "mnli"], "whose training rows are taken")
flags.DEFINE_integer("max_examples", 10000, "training rows of an epoch at most", lower_bound=1)
flags.DEFINE_integer("batch_size", 32, "rows of a batch", lower_bound=1)
flags.DEFINE_integer("max_length", 128, "longest row in tokens", lower_bound=3)
flags.DEFINE_float("min_time_s", 0.5, "time that single texts fill at least", lower_bound=0.0)
flags.DEFINE_integer("threads", None, "threads of each peer; the usable cores if not given")
flags.DEFINE_string("output", str(report.RESULTS), "directory of the results")

EPOCHS = 2  # the first one cold, the second with whatever a pipeline has cached


def count_differences(ids: Mapping[str, list[list[int]]]) -> dict[str, int]:
    """Counts the texts whose ids are not transformers', of the first hundreds."""
    reference = ids.get("transformers")
    if reference is None:
        return {}
    return {
        name: sum(a != b for a, b in zip(rows, reference, strict=True))
        for name, rows in ids.items()
    }


def run_task(task: str, peers: dict[str, Peer], results: dict[str, Any]) -> None:
    """Measures one task's texts; results are written after every round."""
    directory = FLAGS.data if FLAGS.data == "demo" else Path(FLAGS.data).expanduser() / task
    examples = load_examples(get_task(task), directory, "train").take(FLAGS.max_examples)
    checkpoint = make_checkpoint("demo")
    with (
        tempfile.TemporaryDirectory() as temporary,
        Crew(list(peers.values()), checkpoint, results["settings"]["threads"]) as crew,
    ):
        path = Path(temporary) / "texts.json"
        path.write_text(json.dumps({"columns": examples.texts}), encoding="utf-8")
        ids = crew.ask_each(
            "start", path=str(path), batch_size=FLAGS.batch_size, max_length=FLAGS.max_length
        )
        part: dict[str, Any] = {
            "examples": len(examples),
            "versions": crew.versions,
            "failures": crew.failures,
            "texts_with_other_ids": count_differences(ids),
            "texts_compared": len(next(iter(ids.values()), [])),
            "first_epoch_examples_per_s": {name: [] for name in ids},
            "later_epoch_examples_per_s": {name: [] for name in ids},
            "single_s": {name: [] for name in ids},
        }
        results["models"][task] = part
        progress = Progress(FLAGS.rounds * 2)
        for number in range(FLAGS.rounds):
            seed = (task, number)
            crew.workers = {name: crew.workers[name] for name in shuffled(list(crew.workers), seed)}
            for name, (first_s, later_s) in crew.ask_each("epochs", count=EPOCHS).items():
                part["first_epoch_examples_per_s"][name].append(len(examples) / first_s)
                part["later_epoch_examples_per_s"][name].append(len(examples) / later_s)
            progress.step(f"{task}, round {number + 1}, epochs")
            for name, times_s in crew.ask_each("single", min_time_s=FLAGS.min_time_s).items():
                part["single_s"][name].append(median(times_s))
            progress.step(f"{task}, round {number + 1}, single texts")
            write(results, Path(FLAGS.output))


def write(results: dict[str, Any], directory: Path) -> None:
    """Writes tokenization.json and tokenization.md."""
    report.write_json(results, directory / "tokenization.json")
    parts = ["# Tokenization\n", report.describe(results)]
    for task, part in results["models"].items():
        parts.append(f"## {task}, {part['examples']} examples\n")
        parts += report.failures(part)
        rows = []
        for name, single_s in part["single_s"].items():
            if not single_s:
                continue
            rows.append(
                [
                    results["peers"][name]["label"],
                    f"{median(part['first_epoch_examples_per_s'][name]):.0f}",
                    f"{median(part['later_epoch_examples_per_s'][name]):.0f}",
                    f"{1000 * median(single_s):.3f}",
                    f"{part['texts_with_other_ids'].get(name, '-')} of {part['texts_compared']}",
                ]
            )
        header = [
            "",
            "examples/s, first epoch",
            "examples/s, later epochs",
            "one text, ms",
            "texts with other ids than transformers'",
        ]
        parts.append(report.table(header, rows))
        parts += _compare_with_training(task, part, directory / "training.json")
    (directory / "tokenization.md").write_text("\n".join(parts), encoding="utf-8")


def _compare_with_training(task: str, part: Mapping[str, Any], path: Path) -> list[str]:
    """Says what share of a training's time our tokenization would take on its own."""
    found = part["first_epoch_examples_per_s"].get(report.OURS)
    if not found or not path.is_file():
        return []
    lines = []
    for training in json.loads(path.read_text(encoding="utf-8"))["models"].values():
        speeds = training["examples_per_s"].get(report.OURS)
        if training["task"] == task and speeds:
            lines.append(
                f"Training {training['model']} takes {median(speeds):.1f} examples/s, "
                f"{median(speeds) / median(found):.1%} of what our first epoch tokenizes.\n"
            )
    return lines


def main(argv: list[str]) -> int:
    """Measures and reports."""
    del argv
    peers = {peer.name: peer for peer in choose(TOKENIZATION, FLAGS.peers)}
    settings = {
        "data": "demo" if FLAGS.data == "demo" else "GLUE files",
        "rounds": FLAGS.rounds,
        "batch size": FLAGS.batch_size,
        "max length": FLAGS.max_length,
        "threads": FLAGS.threads or threads_available(),
    }
    results = report.start(peers.values(), settings)
    for task in FLAGS.tasks:
        run_task(task, peers, results)
    return report.finish(results, FLAGS.output)


if __name__ == "__main__":
    app.run(main)
