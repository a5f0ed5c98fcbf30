"""Times preparing a corpus: in one process, in two, and with Apache Beam; watches its memory.

    python -m benchmarks.corpus --corpus=wikipedia.txt.xz,novels.txt.xz
    .venv-beam/bin/python -m benchmarks.corpus ...     # with Beam: see `make beam`

Every turn is a process of its own, and the ways take turns, on a first part of the text and on all
of it. Memory is that of all processes together. The records of all ways are compared, in order.
"""

import importlib.util
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import tensorflow as tf
from absl import app, flags

from benchmarks import report
from benchmarks.harness import Progress, say, shuffled
from benchmarks.peers import CORPUS, Peer
from distilbert_tf import get_task, load_examples
from distilbert_tf.data.corpus import find_files, read_documents
from distilbert_tf.data.corpus_records import TRAIN, VALIDATION, Corpus, open_corpus

FLAGS = flags.FLAGS
flags.DEFINE_list("corpus", [], "text files; the sentences of the demo, in two files, if empty")
flags.DEFINE_float(
    "part_mb", 10.0, "size of the first part in MB of plain text; 0: none", lower_bound=0.0
)
flags.DEFINE_string("model", "demo", "checkpoint whose tokenizer is used")
flags.DEFINE_integer("max_length", 128, "longest row in tokens", lower_bound=3)
flags.DEFINE_integer("rounds", 3, "times that each way has a turn", lower_bound=1)
flags.DEFINE_string("output", str(report.RESULTS), "directory of the results")

SAMPLE_EVERY_S = 0.05


def write_demo(directory: Path) -> list[Path]:
    """Writes the demo's sentences, each a document, into two files."""
    sentences = load_examples(get_task("sst2"), "demo", "train").texts[0]
    paths = [directory / "first.txt", directory / "second.txt"]
    for number, path in enumerate(paths):
        path.write_text("\n\n".join(sentences[number::2]) + "\n", encoding="utf-8")
    return paths


def write_part(paths: Sequence[Path], directory: Path, size: float) -> list[Path]:
    """Writes the first documents of each file, so many bytes together."""
    parts = []
    for number, path in enumerate(paths):
        parts.append(directory / f"part-{number}.txt")
        with parts[-1].open("w", encoding="utf-8") as file:
            for document in read_documents(path):
                if file.tell() >= size / len(paths):
                    break
                file.write("\n".join(document) + "\n\n")
    return parts


def measure(way: Peer, files: Sequence[Path], directory: Path) -> dict[str, Any]:
    """Prepares a corpus in a process of its own.

    Returns:
        What the worker says, and `peak_mib`, the most memory of it and its children.

    Raises:
        RuntimeError: The worker failed.
    """
    arguments = {
        "files": [str(path) for path in files],
        "directory": str(directory),
        "model": FLAGS.model,
        "max_length": FLAGS.max_length,
        **way.options,
    }
    with tempfile.TemporaryFile("w+") as errors:
        process = psutil.Popen(
            [sys.executable, "-m", "benchmarks.workers.corpus", json.dumps(arguments)],
            stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        peak_mib = 0.0
        while process.poll() is None:
            peak_mib = max(peak_mib, _memory_mib(process))
            time.sleep(SAMPLE_EVERY_S)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"exit code {process.returncode}: {errors.read()[-800:]}")
    return {**json.loads(process.stdout.read()), "peak_mib": peak_mib}


def _memory_mib(process: psutil.Process) -> float:
    try:
        family = [process, *process.children(recursive=True)]
        return sum(one.memory_info().rss for one in family) / 2**20
    except psutil.NoSuchProcess:  # one has just ended
        return 0.0


def count_differences(first: Corpus, second: Corpus) -> int:
    """Counts the places at which the records of two corpora differ."""

    def records(corpus: Corpus) -> Iterator[bytes]:
        for split in (TRAIN, VALIDATION):
            yield from tf.data.TFRecordDataset(corpus.paths(split)).as_numpy_iterator()

    return sum(a != b for a, b in itertools.zip_longest(records(first), records(second)))


def run_size(
    title: str, files: Sequence[Path], ways: Sequence[Peer], results: dict[str, Any]
) -> None:
    """Measures all ways on some files; results are written after every round."""
    part: dict[str, Any] = {
        "bytes": sum(path.stat().st_size for path in files),
        "versions": {},
        "failures": {},
        "ways": {},
    }
    results["models"][title] = part
    corpora: dict[str, Corpus] = {}
    progress = Progress(FLAGS.rounds * len(ways))
    with tempfile.TemporaryDirectory() as name:
        for number in range(FLAGS.rounds):
            for way in shuffled(ways, title, number):
                directory = Path(name) / f"{way.name}-{number}"
                try:
                    found = measure(way, files, directory)
                except RuntimeError as error:
                    part["failures"][way.name] = str(error)
                    continue
                corpora[way.name] = corpus = open_corpus(directory)
                tokens = corpus.tokens(TRAIN) + corpus.tokens(VALIDATION)
                part["versions"][way.name] = found["versions"]
                row = part["ways"].setdefault(
                    way.name,
                    {"tokens": tokens, "tokens_per_s": [], "peak_mib": [], "start_mib": []},
                )
                row["tokens_per_s"].append(tokens / found["seconds"])
                row["peak_mib"].append(found["peak_mib"])
                row["start_mib"].append(found["start_mib"])
                progress.step(f"{title}, round {number + 1}, {way.label}")
            write(results, Path(FLAGS.output))
        for other, corpus in corpora.items():
            part["ways"][other]["records_that_differ"] = count_differences(
                next(iter(corpora.values())), corpus
            )
    write(results, Path(FLAGS.output))


def write(results: dict[str, Any], directory: Path) -> None:
    """Writes corpus.json and corpus.md."""
    report.write_json(results, directory / "corpus.json")
    parts, order = ["# Preparing a corpus\n", report.describe(results)], list(results["peers"])
    for title, part in results["models"].items():
        parts += [f"## {title}\n", *report.failures(part)]
        rows = [
            [
                results["peers"][name]["label"],
                f"{way['tokens']:,}",
                f"{median(way['tokens_per_s']):,.0f}",
                f"{max(way['tokens_per_s']):,.0f}",
                f"{max(way['peak_mib']):.0f}",
                f"{max(way['start_mib']):.0f}",
                str(way.get("records_that_differ", "-")),
            ]
            for name, way in sorted(part["ways"].items(), key=lambda item: order.index(item[0]))
        ]
        header = ["", "tokens", "tokens/s, median", "tokens/s, best", "peak memory, MiB"]
        header += ["imports of one process, MiB", "records that differ"]
        parts.append(report.table(header, rows))
    (directory / "corpus.md").write_text("\n".join(parts), encoding="utf-8")


def main(argv: list[str]) -> int:
    """Measures and reports."""
    del argv
    ways = list(CORPUS)
    if importlib.util.find_spec("apache_beam") is None:
        say("Apache Beam is not installed, and left out: see `make beam`.")
        ways = [way for way in ways if "options" not in way.options]
    settings = {"rounds": FLAGS.rounds, "max length": FLAGS.max_length, "part, MB": FLAGS.part_mb}
    results = report.start(ways, settings)
    with tempfile.TemporaryDirectory() as name:
        files = find_files(FLAGS.corpus) if FLAGS.corpus else write_demo(Path(name))
        if FLAGS.part_mb:
            part = write_part(files, Path(name), FLAGS.part_mb * 1e6)
            run_size("the first part", part, ways, results)
        run_size("all text", files, ways, results)
    code = report.finish(results, FLAGS.output)
    differ = [
        way["records_that_differ"]
        for size in results["models"].values()
        for way in size["ways"].values()
    ]
    return code or int(any(differ))


if __name__ == "__main__":
    app.run(main)
