"""Shows where the time of one call goes, op by op, in the SavedModel of inference.py.

    python -m benchmarks.ops

The session traces itself, which costs some time: shares matter, not sums.
"""

import tempfile
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import report
from benchmarks.cases import build_cases
from benchmarks.checkpoints import NAMES, make_checkpoint
from benchmarks.harness import Crew
from benchmarks.machine import threads_available
from benchmarks.peers import INFERENCE, Peer, choose

FLAGS = flags.FLAGS
# What is traced, by precision: names in peers.py.
OURS = {"float32": "ours", "bfloat16": "ours_bfloat16"}
flags.DEFINE_list("cases", ["b1_t8", "b1_t32", "b1_t128", "b32_t128", "b4_t512"], "cases of ids")
flags.DEFINE_list("models", ["base"], f"checkpoints: {', '.join(NAMES)}")
flags.DEFINE_string("data", "demo", "directory with sst2/ and mnli/ in GLUE's layout, or 'demo'")
flags.DEFINE_list("precisions", list(OURS), f"what to compute in: {', '.join(OURS)}")
flags.DEFINE_integer("calls", 15, "calls of each case, whose median counts", lower_bound=1)
flags.DEFINE_string("output", str(report.RESULTS), "directory of the results")

LEAST_SHARE = 0.004  # kinds of op below it are summed up


def trace(model: str, results: dict[str, Any]) -> None:
    """Traces one checkpoint."""
    checkpoint = make_checkpoint(model)
    peers = choose_ours()
    part: dict[str, Any] = {"cases": {}, "versions": {}}
    with (
        tempfile.TemporaryDirectory() as directory,
        Crew(peers, checkpoint, threads_available()) as crew,
    ):
        part["versions"] = crew.versions
        part["failures"] = crew.failures
        cases = build_cases(checkpoint, FLAGS.data, FLAGS.cases, ["ids"], 1)
        for case in cases:
            crew.ask_each("case", name=case.key, path=case.write(Path(directory)))
        for case in cases:
            found = crew.ask_each("ops", name=case.key, calls=FLAGS.calls)
            for peer in peers:
                ops = sorted(found.get(peer.name, []), key=lambda op: -op[2])
                label = f"{case.label}, {peer.precision}"
                part["cases"][f"{case.key}, {peer.precision}"] = {"label": label, "ops": ops}
    results["models"][model] = part


def choose_ours() -> list[Peer]:
    """Returns what is traced."""
    return choose(INFERENCE, [OURS.get(name, name) for name in FLAGS.precisions])


def write(results: dict[str, Any], directory: Path) -> None:
    """Writes ops.json and ops.md."""
    report.write_json(results, directory / "ops.json")
    parts = ["# Where the time goes, op by op\n", report.describe(results)]
    for model, part in results["models"].items():
        for case in part["cases"].values():
            total_s = sum(time_s for _, _, time_s in case["ops"])
            parts.append(f"## {model}, {case['label']}: {1e3 * total_s:.2f} ms in ops\n")
            rows = [
                [kind, str(count), f"{1e3 * time_s:.2f}", f"{time_s / total_s:.1%}"]
                for kind, count, time_s in case["ops"]
                if time_s >= LEAST_SHARE * total_s
            ]
            rest = [op for op in case["ops"] if op[2] < LEAST_SHARE * total_s]
            rest_s = sum(op[2] for op in rest)
            count = str(sum(op[1] for op in rest))
            rows.append([f"{len(rest)} more kinds", count, f"{1e3 * rest_s:.2f}"])
            rows[-1].append(f"{rest_s / total_s:.1%}")
            parts.append(report.table(["op", "number", "ms", "share"], rows))
    (directory / "ops.md").write_text("\n".join(parts), encoding="utf-8")


def main(argv: list[str]) -> int:
    """Traces and reports."""
    del argv
    results = report.start(choose_ours(), {"calls": FLAGS.calls})
    for model in FLAGS.models:
        trace(model, results)
    write(results, Path(FLAGS.output))
    return report.finish(results, FLAGS.output)


if __name__ == "__main__":
    app.run(main)
