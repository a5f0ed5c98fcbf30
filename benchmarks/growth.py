"""Times how our costs grow: with rows, with tokens, with one long row, with the training data.

    python -m benchmarks.growth --data=DIR

Inference runs in the SavedModel of inference.py, all sizes in turn within each round. The memory
of each training is that of a process of its own.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import report
from benchmarks.cases import Case, random_ids
from benchmarks.checkpoints import NAMES, make_checkpoint
from benchmarks.harness import Crew, Progress, say, shuffled
from benchmarks.machine import threads_available
from benchmarks.peers import INFERENCE, TRAINING, choose
from benchmarks.timing import Timing
from benchmarks.workers.training import TrainingData, make_recipe
from distilbert_tf import get_task, load_examples

FLAGS = flags.FLAGS
flags.DEFINE_string("data", "demo", "directory with sst2/ in GLUE's layout, or 'demo'")
flags.DEFINE_integer("rounds", 3, "times that each size has a turn", lower_bound=1)
flags.DEFINE_float("min_time_s", 0.3, "time that a turn fills at least", lower_bound=0.0)
flags.DEFINE_enum("model", "demo", NAMES, "checkpoint")
flags.DEFINE_integer("examples", 2000, "training rows, and ten times as many", lower_bound=32)
flags.DEFINE_integer("steps", 20, "training steps until memory is read", lower_bound=1)
flags.DEFINE_integer("threads", None, "threads; the usable cores if not given")
flags.DEFINE_string("output", str(report.RESULTS), "directory of the results")

ROWS = (10, 100, 1000)
ROW_TOKENS = 16
TOKENS = (8, 80, 512)
TOKEN_ROWS = 8
SHORT, LONG, MIXED_ROWS = 10, 512, 32
FACTOR = 10


def make_case(name: str, lengths: Sequence[int]) -> Case:
    """Makes one batch of random ids with rows of these lengths, padded to the longest."""
    longest = max(lengths)
    ids, mask = np.zeros((2, len(lengths), longest), np.int32)
    for row, length in enumerate(lengths):
        ids[row, :length] = random_ids(1, length)[0][0]
        mask[row, :length] = 1
    batch = {"ids": ids.tolist(), "mask": mask.tolist()}
    return Case(name, "ids", name, [batch], len(lengths), sum(lengths), ids.size)


def make_cases() -> list[Case]:
    """Makes all sizes."""
    return [
        *(make_case(f"{rows} rows x {ROW_TOKENS}", [ROW_TOKENS] * rows) for rows in ROWS),
        *(make_case(f"{TOKEN_ROWS} rows x {tokens}", [tokens] * TOKEN_ROWS) for tokens in TOKENS),
        make_case(f"{MIXED_ROWS - 1} rows x {SHORT}", [SHORT] * (MIXED_ROWS - 1)),
        make_case(f"1 row x {LONG}", [LONG]),
        make_case(
            f"{MIXED_ROWS - 1} rows x {SHORT} and 1 x {LONG}",
            [*[SHORT] * (MIXED_ROWS - 1), LONG],
        ),
    ]


def time_inference(threads: int, part: dict[str, Any]) -> None:
    """Times all sizes in turn; the part of the results gets `versions`, `failures` and `cases`."""
    checkpoint, cases = make_checkpoint(FLAGS.model), make_cases()
    peers = choose(INFERENCE, [report.OURS])
    timings = {case.key: Timing.empty() for case in cases}
    with tempfile.TemporaryDirectory() as directory, Crew(peers, checkpoint, threads) as crew:
        part |= {"versions": crew.versions, "failures": crew.failures}
        for case in cases:
            crew.ask_each("case", name=case.key, path=case.write(Path(directory)))
        progress = Progress(FLAGS.rounds)
        for number in range(FLAGS.rounds):
            for case in shuffled(cases, number):
                asked = crew.ask_each("time", name=case.key, min_time_s=FLAGS.min_time_s)
                for times_s in asked.values():
                    timings[case.key].add(times_s)
            progress.step(f"round {number + 1}")
    part["cases"] = {
        case.key: {**case.describe(), **timings[case.key].as_dict()}
        for case in cases
        if timings[case.key].medians_s
    }


def measure_memory(threads: int, part: dict[str, Any]) -> None:
    """Reads the peak memory of a training on so many rows, and on ten times as many."""
    checkpoint = make_checkpoint(FLAGS.model)
    directory = FLAGS.data if FLAGS.data == "demo" else Path(FLAGS.data).expanduser() / "sst2"
    examples = load_examples(get_task("sst2"), directory, "train")
    for count in (FLAGS.examples, FACTOR * FLAGS.examples):
        repeats = -(-count // len(examples))  # the demo has too few
        texts = (list(examples.texts[0]) * repeats)[:count]
        labels = [int(label) for label in list(examples.labels) * repeats][:count]
        recipe = make_recipe(FLAGS.steps)
        with (
            tempfile.TemporaryDirectory() as temporary,
            Crew(choose(TRAINING, [report.OURS]), checkpoint, threads) as crew,
        ):
            path = Path(temporary) / "data.json"
            path.write_text(json.dumps(asdict(TrainingData([texts], labels))), encoding="utf-8")
            crew.ask_each("start", path=str(path), recipe=asdict(recipe))
            crew.ask_each("block", steps=FLAGS.steps)
            peak_mib = crew.ask_each("memory").get(report.OURS)
            part["failures"] |= crew.failures
        part["memory"].append({"examples": count, "peak_mib": peak_mib})
        say(f"{count} examples: peak {peak_mib} MiB")


def write(results: dict[str, Any], directory: Path) -> None:
    """Writes growth.json and growth.md."""
    report.write_json(results, directory / "growth.json")
    ((model, part),) = results["models"].items()
    cases = list(part["cases"].values())
    rows = [
        [
            case["label"],
            str(case["true_tokens"]),
            f"{1000 * case['median_s']:.2f}",
            f"{1000 * case['min_s']:.2f}",
            f"{1e6 * case['median_s'] / case['true_tokens']:.1f}",
        ]
        for case in cases
    ]
    memory = [
        [str(m["examples"]), f"{m['peak_mib']:.0f}" if m["peak_mib"] else "-"]
        for m in part["memory"]
    ]
    parts = [
        f"# How costs grow ({model})\n",
        report.describe(results),
        "## Inference\n",
        *report.failures(part),
        report.table(
            ["batch", "true tokens", "median, ms", "minimum, ms", "microseconds a true token"], rows
        ),
        *_judge_long_row(cases),
        "## Peak memory of a training\n",
        report.table(["examples", "peak memory, MiB"], memory),
    ]
    (directory / "growth.md").write_text("\n".join(parts), encoding="utf-8")


def _judge_long_row(cases: Sequence[dict[str, Any]]) -> list[str]:
    """Compares short rows and a long one together with the two apart."""
    if len(cases) < 3:
        return []
    short, long, mixed = (case["median_s"] for case in cases[-3:])
    return [
        f"Short rows and a long one take {mixed / (short + long):.2f} times as long together as "
        "the two batches apart.\n"
    ]


def main(argv: list[str]) -> int:
    """Measures and reports."""
    del argv
    threads = FLAGS.threads or threads_available()
    peer = choose(INFERENCE, [report.OURS])[0]
    results = report.start([peer], {"rounds": FLAGS.rounds, "threads": threads})
    part: dict[str, Any] = {"memory": []}
    results["models"][FLAGS.model] = part
    time_inference(threads, part)
    write(results, Path(FLAGS.output))
    measure_memory(threads, part)
    write(results, Path(FLAGS.output))
    return report.finish(results, FLAGS.output)


if __name__ == "__main__":
    app.run(main)
