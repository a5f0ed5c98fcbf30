"""Classifies SST-2's validation sentences with every peer: accuracy beside speed.

    python -m benchmarks.accuracy --data=DIR --classifiers=CHECKPOINT,...

`DIR` has the folder sst2 with GLUE's files; "demo" takes the package's own sentences. A
`CHECKPOINT` is a directory that `finetune --task=sst2` has written, and its name is its title.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import report
from benchmarks.cases import Case, validation_case
from benchmarks.checkpoints import NAMES, digest, make_checkpoint
from benchmarks.harness import Crew, Progress, WorkerError, shuffled
from benchmarks.logits import list_logits, run_once, score
from benchmarks.machine import threads_available
from benchmarks.peers import INFERENCE, PRECISIONS, Peer, choose
from benchmarks.timing import Timing

FLAGS = flags.FLAGS
flags.DEFINE_string("data", "demo", "directory with sst2/ in GLUE's layout, or 'demo'")
flags.DEFINE_list("classifiers", ["demo"], f"checkpoints: directories, or {', '.join(NAMES)}")
flags.DEFINE_integer("batch_size", 32, "rows of a batch", lower_bound=1)
flags.DEFINE_integer("rounds", 3, "times that everybody has a turn", lower_bound=1)
flags.DEFINE_list("peers", [], "names in peers.py; the default ones if empty")
flags.DEFINE_list("precisions", list(PRECISIONS), "of the default peers")
flags.DEFINE_integer("threads", None, "threads of each peer; the usable cores if not given")
flags.DEFINE_string("output", str(report.RESULTS), "directory of the results")


def measure(
    classifier: str, peers: dict[str, Peer], results: dict[str, Any], directory: Path
) -> None:
    """Classifies with everybody, then gives each its turns; `results` is written every round."""
    checkpoint = make_checkpoint(classifier) if classifier in NAMES else Path(classifier)
    case, labels = validation_case(checkpoint, FLAGS.data, FLAGS.batch_size)
    with (
        tempfile.TemporaryDirectory() as temporary,
        Crew(list(peers.values()), checkpoint, results["settings"]["threads"]) as crew,
    ):
        outputs = run_once(crew, case, case.write(Path(temporary)), peers)
        arrays = list_logits(outputs, peers)
        reference = next(iter(arrays.values()), np.zeros((0, 2)))
        part: dict[str, Any] = {
            "checkpoint_sha256": digest(checkpoint),
            "versions": crew.versions,
            "failures": crew.failures,
            "case": case.describe(),
            "scores": {},
            "times": {name: Timing.empty() for name in arrays},
        }
        results["models"][checkpoint.name] = part
        for name, logits in arrays.items():
            try:
                part["scores"][name] = score(logits, reference, labels)
            except ValueError as error:
                crew.fail(name, error)
        progress = Progress(FLAGS.rounds * len(crew.workers))
        for number in range(FLAGS.rounds):
            for name in shuffled(list(crew.workers), number):
                time_case(crew, name, case, part["times"][name])
                progress.step(f"round {number + 1}, {name}")
            write(results, directory)


def time_case(crew: Crew, name: str, case: Case, timing: Timing) -> None:
    """Gives a peer a turn."""
    try:
        timing.add(crew.workers[name].ask("time", name=case.key, min_time_s=0.0))
    except WorkerError as error:
        crew.fail(name, error)


def write(results: dict[str, Any], directory: Path) -> None:
    """Writes accuracy.json and accuracy.md."""
    report.write_json(results, directory / "accuracy.json")
    parts = ["# Accuracy beside speed\n", report.describe(results)]
    header = ["", "precision", "accuracy", "labels changed", "largest difference of a logit"]
    for model, part in results["models"].items():
        case = part["case"]
        parts.append(f"## {model}: {case['rows']} sentences of SST-2's validation split\n")
        parts += report.failures(part)
        rows = []
        for name, scores in part["scores"].items():
            timing = part["times"][name]
            rows.append(
                [
                    results["peers"][name]["label"],
                    results["peers"][name]["precision"],
                    f"{scores['accuracy']:.4f}",
                    str(scores["changed_labels"]),
                    f"{scores['max_abs_difference']:.1e}",
                    f"{case['rows'] / timing.median_s:.0f}" if timing.calls else "-",
                ]
            )
        parts.append(report.table([*header, "sentences/s"], rows))
    (directory / "accuracy.md").write_text("\n".join(parts), encoding="utf-8")


def main(argv: list[str]) -> int:
    """Measures and reports."""
    del argv
    chosen = choose(INFERENCE, FLAGS.peers, FLAGS.precisions)
    peers = {peer.name: peer for peer in chosen if not peer.yardstick}
    settings = {
        "data": "demo" if FLAGS.data == "demo" else "GLUE files",
        "batch_size": FLAGS.batch_size,
        "rounds": FLAGS.rounds,
        "threads": FLAGS.threads or threads_available(),
    }
    results = report.start(peers.values(), settings)
    for classifier in FLAGS.classifiers:
        measure(classifier, peers, results, Path(FLAGS.output))
    return report.finish(results, FLAGS.output)


if __name__ == "__main__":
    app.run(main)
