"""Times training, ours and the peers', in interleaved blocks of steps.

    python -m benchmarks.training --data=DIR

`DIR` has the folders sst2 and mnli with GLUE's files; "demo" takes the package's own sentences.
"""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import report
from benchmarks.checkpoints import MODELS, NAMES, digest, make_checkpoint
from benchmarks.harness import Crew, Progress, WorkerError, say, shuffled
from benchmarks.machine import threads_available
from benchmarks.peers import PRECISIONS, TRAINING, Peer, choose
from benchmarks.training_report import write_training
from benchmarks.workers.text import load_encoder
from benchmarks.workers.training import TrainingData, make_recipe
from distilbert_tf import get_task, load_examples

FLAGS = flags.FLAGS
flags.DEFINE_string("data", "demo", "directory with sst2/ and mnli/ in GLUE's layout, or 'demo'")
flags.DEFINE_integer("steps", 60, "timed steps of each peer", lower_bound=1)
flags.DEFINE_integer("block", 20, "steps of a turn", lower_bound=1)
flags.DEFINE_integer("warmup", 5, "untimed steps at the start", lower_bound=1)
flags.DEFINE_list("peers", [], "names in peers.py; the default ones if empty")
flags.DEFINE_list("precisions", ["float32"], f"of the default peers: {PRECISIONS}")
flags.DEFINE_list("tasks", ["sst2", "mnli"], "whose training rows are taken")
flags.DEFINE_list("models", list(MODELS), f"checkpoints: {', '.join(NAMES)}")
flags.DEFINE_integer("max_examples", 20000, "training rows that are read at most", lower_bound=32)
flags.DEFINE_integer("batch_size", 32, "rows per step", lower_bound=1)
flags.DEFINE_integer("max_length", 128, "longest row in tokens", lower_bound=3)
flags.DEFINE_integer("threads", None, "threads of each peer; the usable cores if not given")
flags.DEFINE_string("output", str(report.RESULTS), "directory of the results")


def read_data(task_name: str) -> TrainingData:
    """Reads a task's training rows, a whole number of batches.

    The checkpoints have two classes, so MNLI's labels are reduced to entailment or not: the
    speed is the same.
    """
    directory = FLAGS.data if FLAGS.data == "demo" else Path(FLAGS.data).expanduser() / task_name
    examples = load_examples(get_task(task_name), directory, "train")
    count = min(len(examples), FLAGS.max_examples)
    examples = examples.take(count // FLAGS.batch_size * FLAGS.batch_size)
    return TrainingData(
        [list(column) for column in examples.texts], [min(int(i), 1) for i in examples.labels]
    )


def true_tokens_per_example(checkpoint: Path, data: TrainingData) -> float:
    """Counts tokens without padding, the mean of the examples."""
    _, mask = load_encoder(str(checkpoint), FLAGS.max_length)(data.texts)
    return float(mask.sum() / len(mask))


def run_case(model: str, task: str, peers: dict[str, Peer], results: dict[str, Any]) -> None:
    """Measures one checkpoint on one task; results are written after every round."""
    checkpoint, data = make_checkpoint(model), read_data(task)
    recipe = make_recipe(FLAGS.warmup + FLAGS.steps, FLAGS.batch_size, FLAGS.max_length)
    with (
        tempfile.TemporaryDirectory() as directory,
        Crew(list(peers.values()), checkpoint, results["settings"]["threads"]) as crew,
    ):
        path = Path(directory) / "data.json"
        path.write_text(json.dumps(asdict(data)), encoding="utf-8")
        padded = crew.ask_each("start", path=str(path), recipe=asdict(recipe))
        say(f"{model}, {task}: warming up")
        crew.ask_each("block", steps=FLAGS.warmup)
        part = {
            "model": model,
            "task": task,
            "checkpoint_sha256": digest(checkpoint),
            "examples": len(data.labels),
            "true_tokens_per_example": true_tokens_per_example(checkpoint, data),
            "versions": crew.versions,
            "failures": crew.failures,
            "padded_tokens_per_example": padded,
            "examples_per_s": {name: [] for name in crew.workers},
            "mean_loss": {},
            "peak_memory_mib": {},
        }
        results["models"][f"{model}, {task}"] = part
        rounds = -(-FLAGS.steps // FLAGS.block)
        progress = Progress(rounds * len(crew.workers))
        for number in range(rounds):
            for name in shuffled(list(crew.workers), model, task, number):
                run_block(crew, name, part)
                progress.step(f"round {number + 1}, {name}")
            part["peak_memory_mib"] = crew.ask_each("memory")
            write_training(results, Path(FLAGS.output))


def run_block(crew: Crew, name: str, part: dict[str, Any]) -> None:
    """Returns one worker its turn."""
    try:
        block = crew.workers[name].ask("block", steps=FLAGS.block)
    except WorkerError as error:
        crew.fail(name, error)
        return
    part["examples_per_s"][name].append(FLAGS.block * FLAGS.batch_size / block["time_s"])
    part["mean_loss"][name] = block["loss"]


def main(argv: list[str]) -> int:
    """Measures and reports."""
    del argv
    peers = {peer.name: peer for peer in choose(TRAINING, FLAGS.peers, FLAGS.precisions)}
    settings = {
        "data": "demo" if FLAGS.data == "demo" else "GLUE files",
        "timed steps": FLAGS.steps,
        "steps of a turn": FLAGS.block,
        "batch size": FLAGS.batch_size,
        "max length": FLAGS.max_length,
        "threads": FLAGS.threads or threads_available(),
    }
    results = report.start(peers.values(), settings)
    for model in FLAGS.models:
        for task in FLAGS.tasks:
            run_case(model, task, peers, results)
    return report.finish(results, FLAGS.output)


if __name__ == "__main__":
    app.run(main)
