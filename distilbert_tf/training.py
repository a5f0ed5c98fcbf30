"""Fine-tuning a classifier, from files to a saved checkpoint and a report."""

import dataclasses
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from distilbert_tf.callbacks import ProgressLog, SaveBest
from distilbert_tf.checkpoint_files import CheckpointError, replacing
from distilbert_tf.configuration import load_config
from distilbert_tf.data import make_dataset
from distilbert_tf.heads import TFDistilBertForSequenceClassification
from distilbert_tf.hub import WEIGHTS, find_checkpoint
from distilbert_tf.optimization import create_optimizer
from distilbert_tf.readers import load_examples
from distilbert_tf.tasks import Task, get_task
from distilbert_tf.tokenizer import DistilBertTokenizer

METRICS = "metrics.json"


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """What a run gave.

    Attributes:
        model: The classifier with the best epoch's weights.
        tokenizer: Its tokenizer.
        output_dir: Where both are saved, with `metrics.json` and TensorBoard's logs.
        metrics: The scores and the run's figures, as in `metrics.json`.
        history: Keras' history: lists by metric, an item an epoch.
    """

    model: TFDistilBertForSequenceClassification
    tokenizer: DistilBertTokenizer
    output_dir: Path
    metrics: dict[str, Any]
    history: dict[str, list[float]]

    def report(self) -> str:
        """Writes the figures as a few lines for people."""
        m = self.metrics
        return "\n".join(
            [
                f"{m['task']}: {m['train_examples']} training and {m['validation_examples']} "
                "validation examples",
                f"accuracy before {m['accuracy_before']:.4f}, after {m['accuracy']:.4f} "
                f"(best of {m['epochs']} epochs: number {m['best_epoch']})",
                f"loss {m['loss']:.4f} on the validation examples",
                f"{m['train_time_s']:.0f} s, {m['examples_per_s']:.1f} examples/s, "
                f"peak memory {m['peak_memory_mib']:.0f} MiB",
                f"saved in {self.output_dir}",
            ]
        )


def compile_classifier(
    model: TFDistilBertForSequenceClassification,
    optimizer: Any = "adam",
    *,
    jit_compile: bool = False,
) -> None:
    """Compiles a classifier with its loss and metric: cross-entropy of logits, accuracy.

    Args:
        model: The classifier.
        optimizer: What Keras' `compile` takes.
        jit_compile: Whether to compile with XLA; the model then computes padding too, and wants
            batches of one width.
    """
    model.skip_padding = not jit_compile
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=jit_compile,
    )


def evaluate(
    model: TFDistilBertForSequenceClassification, dataset: tf.data.Dataset
) -> dict[str, float]:
    """Scores a classifier on every row of a dataset.

    Args:
        model: A classifier; compiled here if it is not yet.
        dataset: Batches of inputs and label ids, as `make_dataset` gives.

    Returns:
        `loss` and `accuracy`.
    """
    if not model.compiled:
        compile_classifier(model)
    return {
        name: float(value)
        for name, value in model.evaluate(dataset, verbose=0, return_dict=True).items()
    }


def evaluate_pretrained(
    model: str | Path,
    task: str | Task = "sst2",
    data: str | Path = "demo",
    *,
    split: str = "validation",
    batch_size: int = 32,
    max_length: int | None = None,
) -> dict[str, float]:
    """Scores a saved classifier on a split of a task.

    Args:
        model: Directory or hub name of a classifier.
        task: A task or its name.
        data: Directory with the task's files, or `"demo"`.
        split: Name of the split.
        batch_size: Rows per step.
        max_length: Longest row in tokens; the tokenizer's `model_max_length`, which is that of
            the fine-tuning, if not given.

    Returns:
        `loss` and `accuracy`.

    Raises:
        CheckpointError: The checkpoint has no classifier, or one for other labels.
    """
    task = get_task(task)
    classifier = TFDistilBertForSequenceClassification.from_pretrained(model, fresh_head=False)
    labels = tuple(classifier.config.id2label.values())
    if [label.casefold() for label in labels] != [label.casefold() for label in task.labels]:
        raise CheckpointError(
            f"{model} has the labels {', '.join(labels)}; the task {task.name!r} has "
            f"{', '.join(task.labels)}."
        )
    tokenizer = DistilBertTokenizer.from_pretrained(model)
    examples = load_examples(task, data, split)
    dataset = make_dataset(examples, tokenizer.as_layer(max_length=max_length), batch_size)
    return evaluate(classifier, dataset)


def _load_classifier(
    model: str | Path, task: Task, dtype: str | None
) -> TFDistilBertForSequenceClassification:
    """Loads what to start from; a head for other labels than the task's gives way to a new one."""
    config, _ = load_config(find_checkpoint(model).config)
    has_same_labels = tuple(config.id2label.values()) == task.labels
    return TFDistilBertForSequenceClassification.from_pretrained(
        model,
        id2label=task.id2label,
        dtype=dtype,
        fresh_head=None if has_same_labels else True,
    )


def finetune(
    task: str | Task = "sst2",
    model: str | Path = "demo",
    data: str | Path = "demo",
    output_dir: str | Path | None = None,
    *,
    epochs: int = 3,
    batch_size: int = 32,
    learning_rate: float = 5e-5,
    warmup_ratio: float = 0.1,
    weight_decay: float = 0.01,
    max_length: int = 128,
    max_train_examples: int | None = None,
    seed: int = 42,
    dtype: str | None = None,
    jit_compile: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> FinetuneResult:
    """Fine-tunes a classifier, and keeps the epoch with the best validation accuracy.

    Args:
        task: A task or its name.
        model: Checkpoint to start from: directory, hub name or `"demo"`. The head of a classifier
            for the same labels is kept, any other is new.
        data: Directory with the task's files, or `"demo"`.
        output_dir: Where checkpoint, tokenizer, `metrics.json` and TensorBoard's logs go;
            `runs/<task>` if not given.
        epochs: Passes over the training examples.
        batch_size: Rows per step.
        learning_rate: Peak of the linear warm-up and decay.
        warmup_ratio: Share of the steps in which the rate rises.
        weight_decay: Decoupled weight decay, none on LayerNorm and biases.
        max_length: Longest row in tokens; longer text is cut.
        max_train_examples: Use only the first so many training examples.
        seed: Seed of the new head, the shuffles and the dropout.
        dtype: Keras dtype policy, such as `"mixed_bfloat16"`.
        jit_compile: Whether to compile with XLA, all rows padded to `max_length`: for GPUs and
            TPUs. Without it, padding costs nothing.
        overwrite: Whether `output_dir` may hold a checkpoint already.
        callbacks: More Keras callbacks.

    Returns:
        The tuned model and the figures of the run.

    Raises:
        FileExistsError: `output_dir` holds a checkpoint and `overwrite` is false.
        FileNotFoundError: No such checkpoint or data.
        TrainingDivergedError: The loss became infinite or NaN.
        ValueError: A bad argument, file or checkpoint.
    """
    task = get_task(task)
    output_dir = Path("runs", task.name) if output_dir is None else Path(output_dir)
    if epochs < 1 or batch_size < 1:
        raise ValueError(
            f"epochs ({epochs}) and batch_size ({batch_size}) must each be at least 1."
        )
    earlier = [output_dir / name for name in (*WEIGHTS, METRICS) if (output_dir / name).exists()]
    if earlier and not overwrite:
        raise FileExistsError(
            f"{output_dir} already holds a checkpoint ({earlier[0].name}). Choose another "
            "output_dir, or pass overwrite=True (--overwrite) to replace it."
        )
    if output_dir.exists() and output_dir.resolve() == Path(model).expanduser().resolve():
        raise ValueError(
            f"model and output_dir are both {output_dir}: a run that fails would lose the model. "
            "Choose another output_dir."
        )
    keras.utils.set_random_seed(seed)
    train = load_examples(task, data, "train")
    validation = load_examples(task, data, "validation")
    if max_train_examples is not None:
        train = train.take(max_train_examples)
    tokenizer = DistilBertTokenizer.from_pretrained(model)
    tokenizer.model_max_length = max_length  # so that evaluation and export cut alike
    classifier = _load_classifier(model, task, dtype)
    if max_length > classifier.config.max_position_embeddings:
        raise ValueError(
            f"max_length is {max_length}, but {model} has "
            f"{classifier.config.max_position_embeddings} positions."
        )
    tokenize = tokenizer.as_layer(max_length=max_length)
    width = max_length if jit_compile else None
    train_data = make_dataset(train, tokenize, batch_size, shuffle_seed=seed, width=width)
    validation_data = make_dataset(validation, tokenize, batch_size, width=width)
    optimizer = create_optimizer(
        learning_rate,
        total_steps=epochs * len(train_data),
        warmup_ratio=warmup_ratio,
        weight_decay=weight_decay,
    )
    compile_classifier(classifier, optimizer, jit_compile=jit_compile)
    before = evaluate(classifier, validation_data)
    logging.info("Accuracy before fine-tuning: %.4f.", before["accuracy"])

    output_dir.mkdir(parents=True, exist_ok=True)
    for path in earlier:
        path.unlink()  # or an interrupted run would leave it beside another run's files
    best = SaveBest(output_dir, tokenizer)
    own_callbacks = [
        keras.callbacks.TensorBoard(
            output_dir / "tensorboard", write_graph=False, update_freq=50, profile_batch=0
        ),
        *([] if sys.stdout.isatty() else [ProgressLog()]),
    ]
    started_s = time.monotonic()
    history = classifier.fit(
        train_data,
        validation_data=validation_data,
        epochs=epochs,
        # The best epoch is put back last, whatever another callback does to the weights.
        callbacks=[*own_callbacks, *callbacks, best],
        shuffle=False,  # the dataset shuffles itself
        verbose=1 if sys.stdout.isatty() else 2,
    )
    train_time_s = time.monotonic() - started_s
    after = evaluate(classifier, validation_data)
    metrics = {
        "task": task.name,
        "model": str(model),
        "accuracy_before": before["accuracy"],
        "accuracy": after["accuracy"],
        "loss": after["loss"],
        "best_epoch": best.best_epoch,
        "epochs": len(history.epoch),
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup_ratio": warmup_ratio,
        "weight_decay": weight_decay,
        "max_length": max_length,
        "seed": seed,
        "dtype": classifier.dtype_policy.name,
        "jit_compile": jit_compile,
        "train_examples": len(train),
        "validation_examples": len(validation),
        "train_time_s": train_time_s,
        "examples_per_s": len(history.epoch) * len(train) / train_time_s,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "history": {
            name: [float(value) for value in values] for name, values in history.history.items()
        },
    }
    with replacing(output_dir / METRICS) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return FinetuneResult(classifier, tokenizer, output_dir, metrics, history.history)
