"""Times steps of a distillation, ours and that of PyTorch transformers, in interleaved turns.

    python -m benchmarks.distillation --corpus_dir=DIR

`DIR` is a prepared corpus (`distilbert-tf prepare-corpus`), whose rows are full but for the ends of
documents. The second case are the sentences that come with the package, short and uneven. Both
sides open the same checkpoints, a random teacher and the student of every second layer, and get the
same masked batches, padded to the longest row. Before any timing each computes the losses of the
first batch without dropout, and must agree.
"""

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import report
from benchmarks.harness import Crew, Progress, WorkerError, say, shuffled
from benchmarks.machine import threads_available
from benchmarks.peers import DISTILLATION, choose
from benchmarks.workers.distillation import STUDENT, TEACHER, Arrays
from distilbert_tf import (
    DistilBertConfig,
    DistilBertTokenizer,
    TFDistilBertForMaskedLM,
    get_task,
    load_examples,
)
from distilbert_tf.data.corpus_records import TRAIN, open_corpus
from distilbert_tf.data.masking import Masking
from distilbert_tf.distillation.batches import LABELS, CorpusBatches
from distilbert_tf.distillation.student import make_student

FLAGS = flags.FLAGS
flags.DEFINE_string("corpus_dir", None, "a prepared corpus; without it, sentences alone")
flags.DEFINE_string(
    "teacher", None, "masked-LM checkpoint; random weights of the sizes below if not given"
)
flags.DEFINE_string("tokenizer", "demo", "checkpoint of the corpus' tokenizer")
flags.DEFINE_integer("layers", 12, "of the random teacher", lower_bound=2)
flags.DEFINE_integer("dim", 384, "width of the random teacher", lower_bound=1)
flags.DEFINE_integer("heads", 12, "of the random teacher", lower_bound=1)
flags.DEFINE_multi_enum(
    "soft_targets_at", ["masked", "all"], ["masked", "all"], "where the teacher is asked"
)
flags.DEFINE_list("peers", [], "names in peers.py; the default ones if empty")
flags.DEFINE_integer("batch_size", 32, "rows per step", lower_bound=1)
flags.DEFINE_integer("max_length", 128, "longest row in tokens", lower_bound=3)
flags.DEFINE_integer("batches", 8, "different batches", lower_bound=1)
flags.DEFINE_integer("rounds", 5, "turns of each peer", lower_bound=1)
flags.DEFINE_integer("steps", 8, "steps of a turn", lower_bound=1)
flags.DEFINE_integer("warmup", 3, "untimed steps at the start", lower_bound=1)
flags.DEFINE_integer("threads", None, "threads of each peer; the usable cores if not given")
flags.DEFINE_string("output", str(report.RESULTS), "directory of the results")

SEED = 11
# How far a loss may be from ours, as a share of what it is computed from: logarithms of
# probabilities as large as the masked-LM loss, or a cosine. float32 rounds 16 times a layer.
TOLERANCES = {"float32": 16 * 13 * float(np.finfo(np.float32).eps), "bfloat16": 0.03}


def make_models(directory: Path) -> None:
    """Writes teacher and student."""
    keras.utils.set_random_seed(SEED)
    if FLAGS.teacher:
        teacher = TFDistilBertForMaskedLM.from_pretrained(FLAGS.teacher)
    else:
        teacher = TFDistilBertForMaskedLM(
            DistilBertConfig(
                n_layers=FLAGS.layers,
                dim=FLAGS.dim,
                n_heads=FLAGS.heads,
                hidden_dim=4 * FLAGS.dim,
                initializer_range=0.05,  # wider than new ones, so that rows and words differ
            )
        )
    teacher.save_pretrained(directory / TEACHER)
    make_student(teacher).save_pretrained(directory / STUDENT)


def make_masking(tokenizer: DistilBertTokenizer) -> Masking:
    """Masks as `distill` does by default."""
    special = tokenizer.all_special_ids
    return Masking(tokenizer.mask_token_id, special, tokenizer.vocab_size)


def corpus_batches(tokenizer: DistilBertTokenizer) -> Iterator[Arrays]:
    """Yields the batches of a run on the corpus."""
    batches = CorpusBatches(
        open_corpus(FLAGS.corpus_dir), TRAIN, make_masking(tokenizer), FLAGS.batch_size, SEED
    )
    for inputs, targets in batches.training(tf.distribute.get_strategy()):
        yield {**inputs, "labels": targets[LABELS]}


def sentence_batches(tokenizer: DistilBertTokenizer) -> Iterator[Arrays]:
    """Yields batches of single sentences, in random order."""
    (texts,) = load_examples(get_task("sst2"), "demo", "train").texts
    masking, random = make_masking(tokenizer), np.random.default_rng(SEED)
    for number in itertools.count():
        rows = random.choice(len(texts), FLAGS.batch_size)
        encoded = tokenizer(
            [texts[row] for row in rows],
            truncation=True,
            max_length=FLAGS.max_length,
            padding=True,
            return_tensors="tf",
        )
        mask = tf.cast(encoded["attention_mask"], tf.int32)
        ids, labels = masking.apply(tf.cast(encoded["input_ids"], tf.int32), mask, [SEED, number])
        yield {"input_ids": ids, "attention_mask": mask, "labels": labels}


def find_wrong(
    losses: Mapping[str, Mapping[str, float]], peers: Mapping[str, Any]
) -> dict[str, str]:
    """Returns which peers' losses of the first batch are not ours, and by how much."""
    expected, wrong = losses.get(report.OURS, {}), {}
    for name, found in losses.items():
        for loss, value in expected.items():
            size = 1.0 if loss == "cosine" else max(value, expected["masked_lm"])
            if not abs(found[loss] - value) <= TOLERANCES[peers[name]["precision"]] * size:
                wrong[name] = f"WRONG: its {loss} is {found[loss]}, ours {value}"
    return wrong


def run_case(title: str, at: str, path: Path, crew: Crew, results: dict[str, Any]) -> None:
    """Measures one case; results are written after every round."""
    with np.load(path) as file:
        masks = [array for name, array in file.items() if name.startswith("attention_mask.")]
    positions, tokens = (sum(int(f(mask)) for mask in masks) for f in (np.size, np.sum))
    losses = crew.ask_each("start", path=str(path), soft_targets_at=at)
    part: dict[str, Any] = {
        "versions": crew.versions,
        "failures": crew.failures,
        "tokens_per_step": tokens / len(masks),
        "padding": 1 - tokens / positions,
        "losses": losses,
        "times_s": {name: [] for name in losses},
        "mean_loss": {},
        "peak_memory_mib": {},
    }
    results["models"][f"{title}, soft targets at {at} tokens"] = part
    for name, error in find_wrong(losses, results["peers"]).items():
        crew.fail(name, WorkerError(error))
    crew.ask_each("block", steps=FLAGS.warmup)
    progress = Progress(FLAGS.rounds * len(crew.workers))
    for number in range(FLAGS.rounds):
        for name in shuffled(list(crew.workers), title, at, number):
            try:
                block = crew.workers[name].ask("block", steps=FLAGS.steps)
            except WorkerError as error:
                crew.fail(name, error)
                continue
            part["times_s"][name].append(block["times_s"])
            part["mean_loss"][name] = block["losses"][-1]
            progress.step(f"{title}, {at}, round {number + 1}, {name}")
        part["peak_memory_mib"] = crew.ask_each("memory")
        write(results, Path(FLAGS.output))


def write(results: dict[str, Any], directory: Path) -> None:
    """Writes distillation.json and distillation.md."""
    report.write_json(results, directory / "distillation.json")
    parts = [
        "# Steps of a distillation\n",
        "Teacher's and student's forward pass, three losses, backward pass, clipping and AdamW, "
        "dropout on. Tokens are true ones; a ratio is that of the medians to PyTorch's in the same "
        "precision.\n",
        report.describe(results),
    ]
    for title, part in results["models"].items():
        parts.append(
            f"## {title}: {part['tokens_per_step']:.0f} tokens a step, "
            f"{part['padding']:.1%} of all positions are padding\n"
        )
        parts += report.failures(part)
        parts.append(_table(results, part))
    (directory / "distillation.md").write_text("\n".join(parts), encoding="utf-8")


def _table(results: dict[str, Any], part: dict[str, Any]) -> str:
    peers, rows = results["peers"], []
    typical = {
        name: median(map(median, rounds)) for name, rounds in part["times_s"].items() if rounds
    }
    for name, time_s in typical.items():
        rival = next(
            (
                typical[other]
                for other in typical
                if not peers[other]["is_ours"]
                and peers[other]["precision"] == peers[name]["precision"]
            ),
            None,
        )
        rows.append(
            [
                peers[name]["label"],
                f"{time_s:.3f}",
                f"{min(map(min, part['times_s'][name])):.3f}",
                f"{part['tokens_per_step'] / time_s:.0f}",
                f"{rival / time_s:.2f}" if rival else "-",
                *(f"{part['losses'][name][loss]:.5f}" for loss in part["losses"][name]),
                f"{part['mean_loss'][name]:.3f}",
                f"{part['peak_memory_mib'].get(name, float('nan')):.0f}",
            ]
        )
    header = ["", "s a step, median", "shortest", "tokens/s", "speed / PyTorch's"]
    header += ["soft targets, first batch", "masked LM", "cosine", "mean loss", "peak memory, MiB"]
    return report.table(header, rows)


def main(argv: list[str]) -> int:
    """Measures and reports."""
    del argv
    peers = choose(DISTILLATION, FLAGS.peers)
    threads = FLAGS.threads or threads_available()
    settings = {
        "teacher": "given" if FLAGS.teacher else f"{FLAGS.layers} x {FLAGS.dim}, random weights",
        "batch size": FLAGS.batch_size,
        "max length": FLAGS.max_length,
        "different batches": FLAGS.batches,
        "rounds": FLAGS.rounds,
        "steps of a turn": FLAGS.steps,
        "threads": threads,
    }
    results = report.start(peers, settings)
    tokenizer = DistilBertTokenizer.from_pretrained(FLAGS.tokenizer)
    cases = {"sentences": sentence_batches(tokenizer)}
    if FLAGS.corpus_dir:
        cases = {"corpus": corpus_batches(tokenizer), **cases}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        say("writing teacher, student and batches")
        make_models(directory)
        for title, batches in cases.items():
            arrays: dict[str, Any] = {
                f"{key}.{number}": np.array(array, np.int32)
                for number, batch in enumerate(itertools.islice(batches, FLAGS.batches))
                for key, array in batch.items()
            }
            np.savez(directory / f"{title}.npz", **arrays)
        with Crew(peers, directory, threads) as crew:
            for title, at in itertools.product(cases, FLAGS.soft_targets_at):
                run_case(title, at, directory / f"{title}.npz", crew, results)
    return report.finish(results, FLAGS.output)


if __name__ == "__main__":
    app.run(main)
