"""Trainings on two logical CPU devices, next to the same on one; tests run this as a process.

TensorFlow's logical devices must be set before anything else, and for the whole process:

    python two_devices.py OUTPUT CASE...

writes the result of each of `CASES`, or what it raised, into the JSON file OUTPUT.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import processes
import pytest
import tensorflow as tf
from comparing import EPS, FEW, WITH_GRADIENTS, assert_close, largest, roundings
from interruptions import RECIPE, CrashError, CrashOnce, StopOnce
from transformers import DistilBertConfig

from distilbert_tf.data.corpus_records import TRAIN, Corpus, CorpusSettings, Shard
from distilbert_tf.data.examples import Examples
from distilbert_tf.data.masking import Masking
from distilbert_tf.data.sampler import EpochSampler
from distilbert_tf.distillation.batches import CorpusBatches
from distilbert_tf.distillation.distiller import Distiller
from distilbert_tf.distillation.student import make_student
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.training.batches import collect_rows, evaluation_batches, training_batches
from distilbert_tf.training.finetuning import finetune
from distilbert_tf.training.interruption import InterruptedRunError
from distilbert_tf.training.multitask import MultiTaskModel
from distilbert_tf.training.optimizer import (
    NOT_FINITE,
    AdamW,
    create_optimizer,
    layer_rate_factors,
)
from distilbert_tf.training.soft_targets import SoftTargets
from distilbert_tf.training.strategy import make_strategy

ROOT = Path(__file__).parents[1]  # where the benchmarks are
SIZES, DEV_SIZES, LABELS, WIDTH, BATCH, EPOCHS = (70, 45), (21, 13), (2, 3), 16, 8, 4


def run(output: Path, *cases: str) -> dict[str, Any]:
    """Runs cases in a process of their own, and returns their results."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(output), *cases],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    processes.finish(process, timeout_s=550.0)
    return json.loads(output.read_text())


def spell(text: tf.Tensor, text_pair: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
    """Stands in for the tokenizer: a token for each letter."""
    letters = tf.strings.unicode_decode(text, "UTF-8")
    mask = tf.ones_like(letters).to_tensor()
    return {"input_ids": letters.to_tensor(), "attention_mask": mask}


def make_examples(count: int, labels: int, random: np.random.Generator) -> Examples:
    texts = [
        "".join(chr(code) for code in random.integers(97, 123, random.integers(2, WIDTH)))
        for _ in range(count)
    ]
    ids = [(ord(text[0]) + len(text)) % labels for text in texts]
    return Examples((tuple(texts),), np.array(ids, "int32"))


def make_classifier(
    labels: int, dropout: float, encoder: Any = None, **options: Any
) -> TFDistilBertForSequenceClassification:
    config = DistilBertConfig(
        vocab_size=128, dim=16, n_layers=1, n_heads=2, hidden_dim=32, num_labels=labels,
        max_position_embeddings=WIDTH, dropout=dropout, attention_dropout=dropout,
        seq_classif_dropout=dropout, initializer_range=0.1,
    )  # fmt: skip
    return TFDistilBertForSequenceClassification(config, encoder=encoder, **options)


def train_tasks(
    strategy: tf.distribute.Strategy,
    *,
    dropout: float = 0.0,
    dtype: str | None = None,
    soft_targets: SoftTargets | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Trains two tasks for 56 steps of AdamW whose gradients are clipped at each."""
    random = np.random.default_rng(0)
    train = [make_examples(*pair, random) for pair in zip(SIZES, LABELS, strict=True)]
    dev = [make_examples(*pair, random) for pair in zip(DEV_SIZES, LABELS, strict=True)]
    rows, dev_rows = collect_rows(train, spell), collect_rows(dev, spell)
    if soft_targets is not None:
        rows, dev_rows = (
            part._replace(
                teacher_logits=tf.constant(
                    random.normal(0, 2, (len(part.lengths()), max(LABELS))), tf.float32
                )
            )
            for part in (rows, dev_rows)
        )
    multiple = options.get("steps_per_execution", 1)
    sampler = EpochSampler(rows.lengths(), SIZES, BATCH, seed=5, step_multiple=multiple)
    keras.utils.set_random_seed(3)
    with strategy.scope():
        first = make_classifier(LABELS[0], dropout, dtype=dtype)
        second = make_classifier(LABELS[1], dropout, first.distilbert, dtype=dtype)
        classifiers = {"a": first, "b": second}
        model = MultiTaskModel(classifiers, {"a": ("accuracy", "f1")}, soft_targets)
        total_steps = EPOCHS * sampler.steps_per_epoch
        optimizer = create_optimizer(
            5e-3,
            total_steps=total_steps,
            max_gradient_norm=0.1,
            rate_factors=layer_rate_factors(0.9, 1),
        )
        model.compile(optimizer, **options)
    width = WIDTH if options.get("jit_compile") else None
    start = read_weights(model)
    validation, steps = evaluation_batches(
        dev_rows, BATCH, strategy, width=width, step_multiple=multiple
    )
    history = model.fit(
        training_batches(rows, sampler, strategy, width=width),
        epochs=EPOCHS,
        steps_per_epoch=sampler.steps_per_epoch,
        validation_data=validation,
        validation_steps=steps,
        shuffle=False,
        verbose=0,
    )
    return {"model": model, "history": history.history, "start": start}


def train_plainly(strategy: tf.distribute.Strategy, **options: Any) -> dict[str, Any]:
    """As users do: `compile` with Keras' loss and metrics, `fit` a dataset of uneven batches."""
    random = np.random.default_rng(1)
    ids = random.integers(1, 128, (43, WIDTH))
    mask = (np.arange(WIDTH) < random.integers(2, WIDTH, (43, 1))).astype("int32")
    inputs = {"input_ids": ids.astype("int32"), "attention_mask": mask}
    labels = (ids[:, 0] % 3).astype("int32")
    dataset = tf.data.Dataset.from_tensor_slices((inputs, labels))
    keras.utils.set_random_seed(4)
    with strategy.scope():
        model = make_classifier(3, 0.0, skip_padding=not options.get("jit_compile", False))
        model.compile(
            create_optimizer(5e-3, total_steps=40, max_gradient_norm=0.1),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            **options,
        )
    start = read_weights(model)
    history = model.fit(
        dataset.batch(BATCH, drop_remainder=True).repeat(),
        epochs=4,
        steps_per_epoch=6,
        validation_data=dataset.batch(BATCH),
        shuffle=False,
        verbose=0,
    )
    return {"model": model, "history": history.history, "start": start}


def distil(strategy: tf.distribute.Strategy, **options: Any) -> dict[str, Any]:
    """Distils a student of a random teacher from random rows of many lengths."""
    random = np.random.default_rng(2)
    with tempfile.TemporaryDirectory() as directory:
        with tf.io.TFRecordWriter(f"{directory}/rows") as writer:
            for length in random.integers(4, WIDTH + 1, 43):
                writer.write(random.integers(3, 60, length).astype("<u2").tobytes())
        shards = (Shard("rows", TRAIN, 43, 0, 0),)
        corpus = Corpus(Path(directory), CorpusSettings(WIDTH), (), shards, "<u2", "")
        batches = CorpusBatches(corpus, TRAIN, Masking(2, (0, 1, 2), 60), BATCH, seed=6)
        keras.utils.set_random_seed(5)
        with strategy.scope():
            teacher = TFDistilBertForMaskedLM(
                DistilBertConfig(
                    vocab_size=60, dim=16, n_layers=2, n_heads=2, hidden_dim=32, dropout=0.0,
                    attention_dropout=0.0, max_position_embeddings=WIDTH, initializer_range=0.2,
                )
            )  # fmt: skip
            distiller = Distiller(make_student(teacher, [1]), teacher, chunk_size=16)
            distiller.compile(
                create_optimizer(5e-3, total_steps=20, max_gradient_norm=5.0), **options
            )
        start = read_weights(distiller)
        history = distiller.fit(
            batches.training(strategy), epochs=4, steps_per_epoch=5, shuffle=False, verbose=0
        )
    return {"model": distiller, "history": history.history, "start": start}


def read_weights(model: keras.Model) -> np.ndarray:
    """Joins all weights but the biases of keys.

    The gradient of these is 0 but for rounding, which Adam blows up to whole steps.
    """
    parts = []
    for weight in model.trainable_weights:
        array = weight.numpy()
        if weight.path.endswith("qkv_lin/bias"):
            array = array.reshape(3, -1)[[0, 2]]
        parts.append(array.ravel())
    return np.concatenate(parts).astype("float64")


def compare(train: Callable[..., dict[str, Any]], **options: Any) -> dict[str, float]:
    """Trains on one device and on two.

    Returns:
        weights: How far the results are apart, as a share of the way from the start.
        history: The largest difference of a loss or metric, relative to it if it is above 1.
        learnt: How far the loss has fallen.
        bound: Of the first two: the roundings of a step, times the root of the number of steps,
            whose errors are independent of each other.
    """
    runs = [train(make_strategy(name), **options) for name in ("none", "mirrored")]
    start, (first, second) = runs[0]["start"], [read_weights(run["model"]) for run in runs]
    histories = [run["history"] for run in runs]
    assert histories[0].keys() == histories[1].keys()
    model, steps = runs[0]["model"], int(runs[0]["model"].optimizer.iterations)
    encoder = getattr(model, "student", model).distilbert
    return {
        "weights": float(np.linalg.norm(second - first) / np.linalg.norm(first - start)),
        "history": max(
            largest(np.subtract(histories[0][name], numbers)) / max(1.0, largest(numbers))
            for name, numbers in histories[1].items()
        ),
        "learnt": histories[0]["loss"][0] - histories[0]["loss"][-1],
        "bound": roundings(encoder, WITH_GRADIENTS) * steps**0.5 * EPS,
    }


def update_replicas(**clipping: float) -> None:
    """Updates a weight on two replicas from the sum of their gradients, which is then clipped."""
    strategy = make_strategy("mirrored")
    start = np.array([1.0, -2.0], "float32")
    # With a large epsilon, a step's length depends on how long the gradient was after clipping.
    options: dict[str, Any] = {"weight_decay": 0.5, "epsilon": 0.1, **clipping}
    with strategy.scope():
        weight = keras.Variable(start, name="kernel")
        optimizer = AdamW(0.1, **options)
        optimizer.build([weight])
    alone, expected = keras.Variable(start, name="kernel"), AdamW(0.1, **options)

    @tf.function
    def step(scale: float) -> None:
        def on_a_replica() -> None:
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            gradient = tf.constant([0.2, 0.1]) * (1.0 + tf.cast(number, tf.float32))
            optimizer.apply([scale * gradient], [weight])

        strategy.run(on_a_replica)

    def check() -> None:
        copies = strategy.experimental_local_results(weight.value)
        assert len(copies) == 2
        for copy in copies:
            assert_close(copy.numpy(), alone.numpy(), 3 * FEW)

    for _ in range(3):
        step(1.0)
        expected.apply([tf.constant([0.6, 0.3])], [alone])  # the sum over the replicas
    check()
    assert np.abs(alone.numpy() - start).min() > 0.1
    if "global_clipnorm" in clipping:
        with pytest.raises(tf.errors.InvalidArgumentError, match=NOT_FINITE):
            step(float("inf"))
        check()


def interrupt(encoder: Path, data: Path, teacher: Path, root: Path) -> None:
    """Fine-tunes without interruption, through a crash, and through SIGTERM."""
    arguments: dict[str, Any] = {
        "model": encoder, "data": data, "teacher": teacher, "strategy": "mirrored", **RECIPE
    }  # fmt: skip
    finetune(**arguments, output_dir=root / "whole")
    crash, stop = CrashOnce(17), StopOnce(14, signal.SIGTERM)
    for name, callback in (("crashed", crash), ("stopped", stop)):
        with pytest.raises((CrashError, InterruptedRunError)):
            finetune(**arguments, output_dir=root / name, callbacks=[callback])
        finetune(**arguments, output_dir=root / name)


XLA = {"jit_compile": True}
CASES: dict[str, Callable[..., Any]] = {
    "tasks": lambda: compare(train_tasks),
    "tasks in parts": lambda: compare(
        train_tasks,
        steps_per_execution=2,
        gradient_accumulation_steps=2,
        soft_targets=SoftTargets(alpha=0.25),
        **XLA,
    ),
    "bfloat16": lambda: compare(
        train_tasks, dtype="mixed_bfloat16", dropout=0.1, gradient_accumulation_steps=4, **XLA
    ),
    "distillation": lambda: compare(distil, gradient_accumulation_steps=2),
    "plain": lambda: compare(train_plainly),
    "plain executions": lambda: compare(train_plainly, steps_per_execution=4),
    "plain XLA": lambda: train_plainly(make_strategy("mirrored"), **XLA),
    "unclipped": update_replicas,
    "clipped by value": lambda: update_replicas(clipvalue=0.25),
    "clipped by norm": lambda: update_replicas(clipnorm=0.3),
    "clipped by global norm": lambda: update_replicas(global_clipnorm=0.5),  # last: it fails once
}


def main() -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    assert make_strategy("mirrored").num_replicas_in_sync == 2
    output, *arguments = sys.argv[1:]
    results: dict[str, Any] = {}
    if arguments[0] == "interrupt":
        interrupt(*map(Path, arguments[1:]))
        arguments = []
    for name in arguments:
        try:
            results[name] = CASES[name]()
        except Exception:
            results[name] = {"error": traceback.format_exc()}
    Path(output).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
