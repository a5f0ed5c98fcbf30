"""Times inference, ours and the peers', in interleaved rounds.

    python -m benchmarks.inference --data=DIR

`DIR` has the folders sst2 and mnli with GLUE's files; "demo" takes the package's own sentences.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import report
from benchmarks.cases import Case, build_cases
from benchmarks.checkpoints import MODELS, NAMES, digest, make_checkpoint
from benchmarks.harness import Crew, Progress, WorkerError, say, shuffled
from benchmarks.machine import threads_available
from benchmarks.peers import INFERENCE, PRECISIONS, Peer, choose
from benchmarks.timing import Timing

FLAGS = flags.FLAGS
flags.DEFINE_string("data", "demo", "directory with sst2/ and mnli/ in GLUE's layout, or 'demo'")
flags.DEFINE_integer("rounds", 5, "times that everybody has a turn", lower_bound=1)
flags.DEFINE_list("peers", [], "names in peers.py; the default ones if empty")
flags.DEFINE_list("precisions", ["float32", "int8"], f"of the default peers: {PRECISIONS}")
flags.DEFINE_list("cases", [], "names in cases.py; all if empty")
flags.DEFINE_list("modes", ["ids", "text"], "from token ids, end to end from strings, or both")
flags.DEFINE_list("models", list(MODELS), f"checkpoints: {', '.join(NAMES)}")
flags.DEFINE_float("min_time_s", 0.5, "time that a turn fills at least", lower_bound=0.0)
flags.DEFINE_integer(
    "batches", 3, "batches of 32 in a case with real sentences; of 256 there is one", lower_bound=1
)
flags.DEFINE_integer("threads", None, "threads of each peer; the usable cores if not given")
flags.DEFINE_string("output", str(report.RESULTS), "directory of the results")

# Of the largest logit of all cases, by precision. A token of padding too many changes ten times as
# much as the first; bfloat16 has 8 bits, and int8 is as its tool makes it.
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2, "int8": float("inf")}
SGEMM = "sgemm"


def list_logits(outputs: dict[str, Any], peers: dict[str, Peer]) -> dict[str, np.ndarray]:
    """Lists the logits of each peer in the table's order, the reference first: ours as a rule."""
    return {
        name: np.array(outputs[name], np.float64)
        for name, peer in peers.items()
        if name in outputs and not peer.yardstick
    }


def largest_logit(cases: Iterable[dict[str, Any]], peers: dict[str, Peer]) -> float:
    """Returns the largest logit of the references of all cases, 0 without any.

    That of a case is no measure: the logits of its only row may be nearly 0.
    """
    listed = [list(list_logits(outputs, peers).values()) for outputs in cases]
    found = (np.abs(arrays[0][np.isfinite(arrays[0])]) for arrays in listed if arrays)
    return max((float(logits.max(initial=0.0)) for logits in found), default=0.0)


def compare(
    outputs: dict[str, Any], peers: dict[str, Peer], largest: float
) -> tuple[dict[str, float], dict[str, str]]:
    """Compares the peers' logits with the reference's.

    Args:
        outputs: Logits of each peer, (rows, classes).
        peers: The peers by name.
        largest: What `TOLERANCES` are shares of: see `largest_logit`.

    Returns:
        Largest absolute difference of each peer, and a message for each that computes something
        else: further away than `TOLERANCES` allows.
    """
    arrays = list_logits(outputs, peers)
    if not arrays:
        return {}, {}
    reference_name, reference = next(iter(arrays.items()))
    differences, errors = {}, {}
    for name, array in arrays.items():
        if array.shape != reference.shape or not np.isfinite(array).all():
            errors[name] = f"gives logits {array.shape} that are not finite, or of another shape"
            continue
        differences[name] = float(np.abs(array - reference).max())
        if differences[name] > TOLERANCES[peers[name].precision] * largest:
            errors[name] = f"logits are {differences[name]:.1e} from those of {reference_name}"
    return differences, errors


def takes_part(peer: Peer, case: Case) -> bool:
    """Whether a peer has a turn at a case: yardsticks multiply matrices, not strings."""
    return case.mode == "ids" or not peer.yardstick


def run_once(crew: Crew, case: Case, path: str, peers: dict[str, Peer]) -> dict[str, Any]:
    """Runs a case once with everybody, which also warms up.

    Returns:
        What each computed.
    """
    outputs: dict[str, Any] = {}
    for name, worker in list(crew.workers.items()):
        if not takes_part(peers[name], case):
            continue
        try:
            outputs[name] = worker.ask("case", name=case.key, path=path)
        except WorkerError as error:
            crew.fail(name, error)
    return outputs


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
