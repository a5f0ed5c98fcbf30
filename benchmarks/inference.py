"""Times inference, ours and the peers', in interleaved rounds.

    python -m benchmarks.inference --data=DIR

`DIR` has the folders sst2 and mnli with GLUE's files; "demo" takes the package's own sentences.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import report
from benchmarks.cases import Case, build_cases
from benchmarks.checkpoints import MODELS, NAMES, digest, make_checkpoint
from benchmarks.harness import Crew, Progress, WorkerError, say, shuffled
from benchmarks.logits import TOLERANCES, compare, largest_logit, run_once
from benchmarks.machine import threads_available
from benchmarks.peers import INFERENCE, PRECISIONS, Peer, choose
from benchmarks.timing import Timing

FLAGS = flags.FLAGS
flags.DEFINE_string("data", "demo", "directory with sst2/ and mnli/ in GLUE's layout, or 'demo'")
flags.DEFINE_integer("rounds", 5, "times that everybody has a turn", lower_bound=1)
flags.DEFINE_list("peers", [], "names in peers.py; the default ones if empty")
flags.DEFINE_list("precisions", list(PRECISIONS), f"of the default peers: {PRECISIONS}")
flags.DEFINE_list("cases", [], "names in cases.py; all if empty")
flags.DEFINE_list("modes", ["ids", "text"], "from token ids, end to end from strings, or both")
flags.DEFINE_list("models", list(MODELS), f"checkpoints: {', '.join(NAMES)}")
flags.DEFINE_float("min_time_s", 0.5, "time that a turn fills at least", lower_bound=0.0)
flags.DEFINE_integer(
    "batches", 3, "batches of 32 in a case with real sentences; of 256 there is one", lower_bound=1
)
flags.DEFINE_integer("threads", None, "threads of each peer; the usable cores if not given")
flags.DEFINE_string("output", str(report.RESULTS), "directory of the results")

SGEMM = "sgemm"


def check_case(
    case: Case, outputs: dict[str, Any], peers: dict[str, Peer], largest: float
) -> dict[str, Any]:
    """Compares the logits of a case.

    Returns:
        The case's part of the results, still without times.
    """
    differences, errors = compare(outputs, peers, largest)
    for name, reason in errors.items():
        say(f"WRONG {name} at {case.key}: {reason}")
    bounds = {name: value for name, value in outputs.items() if peers[name].yardstick}
    logits = next((value for name, value in outputs.items() if name not in bounds), [[0.0]])
    return {
        **case.describe(),
        "logit_spread": float(np.ptp(logits, axis=0).max()),  # between rows
        "max_abs_difference": differences,
        "errors": errors,
        "flops": {name: value[0] for name, value in bounds.items()},
        "times": {name: Timing.empty() for name in outputs if name not in errors},
    }


def run_round(
    crew: Crew,
    number: int,
    results: dict[str, Any],
    model: str,
    peers: dict[str, Peer],
    progress: Progress,
) -> list[float]:
    """Returns everybody a turn at every case, in an order that changes from case to case.

    The figures are saved after each case; tables and plots follow at the round's end.

    Returns:
        GFLOP/s of this machine's sgemm, if a yardstick takes part.
    """
    for key, case in results["models"][model]["cases"].items():
        for name in shuffled([n for n in case["times"] if n in crew.workers], number, key):
            try:
                times_s = crew.workers[name].ask("time", name=key, min_time_s=FLAGS.min_time_s)
                case["times"][name].add(times_s)
            except WorkerError as error:
                crew.fail(name, error)
        report.write_json(results, Path(FLAGS.output) / "inference.json")
        progress.step(f"round {number + 1}, {key}")
    for name in [name for name in crew.workers if peers[name].yardstick]:
        try:
            return crew.workers[name].ask("time", name=SGEMM, min_time_s=0.0)
        except WorkerError as error:
            crew.fail(name, error)
    return []


def run_model(model: str, peers: dict[str, Peer], results: dict[str, Any]) -> None:
    """Measures one checkpoint; `results` is written after every round."""
    checkpoint = make_checkpoint(model)
    threads = results["settings"]["threads"]
    built = build_cases(checkpoint, FLAGS.data, FLAGS.cases, FLAGS.modes, FLAGS.batches)
    with (
        tempfile.TemporaryDirectory() as directory,
        Crew(list(peers.values()), checkpoint, threads) as crew,
    ):
        outputs = {}
        for case in built:
            say(f"{model}: checking {case.key}")
            outputs[case.key] = run_once(crew, case, case.write(Path(directory)), peers)
        largest = largest_logit(outputs.values(), peers)
        cases = {case.key: check_case(case, outputs[case.key], peers, largest) for case in built}
        part: dict[str, Any] = {
            "checkpoint_sha256": digest(checkpoint),
            "versions": crew.versions,
            "failures": crew.failures,
            "sgemm_gflops": [],
            "cases": cases,
        }
        results["models"][model] = part
        progress = Progress(FLAGS.rounds * len(cases))
        for number in range(FLAGS.rounds):
            part["rounds"] = number
            part["sgemm_gflops"] += run_round(crew, number, results, model, peers, progress)
            part["rounds"] = number + 1
            report.write_inference(results, Path(FLAGS.output))
        part["peak_memory_mib"] = crew.ask_each("memory")
    report.write_inference(results, Path(FLAGS.output))


def main(argv: list[str]) -> int:
    """Measures and reports."""
    del argv
    peers = {peer.name: peer for peer in choose(INFERENCE, FLAGS.peers, FLAGS.precisions)}
    settings = {
        "data": "demo" if FLAGS.data == "demo" else "GLUE files",
        "rounds": FLAGS.rounds,
        "min_time_s": FLAGS.min_time_s,
        "threads": FLAGS.threads or threads_available(),
        "tolerance": TOLERANCES["float32"],
    }
    results = report.start(peers.values(), settings)
    for model in FLAGS.models:
        run_model(model, peers, results)
    return report.finish(results, FLAGS.output)


if __name__ == "__main__":
    app.run(main)
