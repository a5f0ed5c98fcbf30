"""Classifiers for tasks, from checkpoints whose labels fit."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging
from transformers import DistilBertConfig

from distilbert_tf.checkpoints.config import load_config
from distilbert_tf.checkpoints.hub import CONFIG, find_checkpoint
from distilbert_tf.checkpoints.problem_types import SINGLE_LABEL
from distilbert_tf.checkpoints.tensor_files import CheckpointError, read_tensors
from distilbert_tf.data.tasks import TASKS, Task, get_task, read_task
from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.weight_names import load_tensors, to_distilbert
from distilbert_tf.training.options import FinetuneOptions
from distilbert_tf.training.run_directory import find_task_directories


def task_checkpoint(model: str | Path, task: Task) -> str | Path:
    """Finds the checkpoint for a task: the one named, or, of a run on several tasks, the task's."""
    parent = Path(model).expanduser()
    if not (parent / CONFIG).exists() and (parent / task.name / CONFIG).exists():
        return parent / task.name
    return model


def recorded_task(model: str | Path, name: str | None = None) -> Task:
    """Returns the task that a checkpoint was fine-tuned for, as its configuration records it.

    Args:
        model: Directory or hub name of a classifier, or the directory of a run on several tasks.
        name: Which of these tasks.

    Raises:
        FileNotFoundError: No such checkpoint.
        ValueError: It records no task, or another one, or there are several.
    """
    parent = Path(model).expanduser()
    if not (parent / CONFIG).exists() and (several := find_task_directories(parent)):
        names = [path.name for path in several]
        if name not in names:
            raise ValueError(
                f"{model} holds several tasks; name one of {', '.join(names)} (--task)."
            )
        model = parent / name
    config, _ = load_config(find_checkpoint(model).config)
    task = configured_task(config, model)
    if name not in (None, task.name):
        raise ValueError(
            f"There is no task {name!r}; known are {', '.join(TASKS)}, and {model} is for "
            f"{task.name!r}."
        )
    return task


def configured_task(config: DistilBertConfig, where: object) -> Task:
    """Returns the task that a configuration records.

    Raises:
        ValueError: It records none; names `where` it should.
    """
    if record := getattr(config, "task", None):
        return read_task(record, f"The task in the configuration of {where}")
    if (name := getattr(config, "task_name", None)) in TASKS:
        return TASKS[name]
    raise ValueError(
        f"{where} does not record which task it is for: name the task (--task), or its columns "
        "(--text_columns and --label_column)."
    )


def choose_task(task: str | Task | None, model: str | Path) -> Task:
    """Returns the task that is named, or else the checkpoint's own, with labels.

    Args:
        task: A task, the name of one or of its file, or None.
        model: Directory or hub name of a classifier, or the directory of a run on several tasks.

    Raises:
        FileNotFoundError: No such checkpoint or file.
        ValueError: There is no such task, or the checkpoint records none.
    """
    if task is None or (isinstance(task, str) and task not in TASKS and task[-5:] != ".json"):
        return recorded_task(model, task)
    found = get_task(task)
    if not found.labels:
        config, _ = load_config(find_checkpoint(task_checkpoint(model, found)).config)
        labels = tuple(config.id2label[number] for number in sorted(config.id2label))
        return dataclasses.replace(found, labels=labels)
    return found


def load_classifier(model: str | Path, task: Task) -> TFDistilBertForSequenceClassification:
    """Loads a trained classifier for a task.

    Args:
        model: Directory or hub name of a classifier, or the directory of a run on several tasks.
        task: The task, whose labels the classifier must have.

    Returns:
        The classifier.

    Raises:
        CheckpointError: The checkpoint has no classifier, or one for other labels.
        FileNotFoundError: No such checkpoint.
    """
    source = task_checkpoint(model, task)
    classifier = TFDistilBertForSequenceClassification.from_pretrained(source, fresh_head=False)
    match_labels(classifier.config.id2label, task, source)
    return classifier


def start_classifiers(
    model: str | Path, tasks: Sequence[Task], *, fresh_head: bool = False, dtype: Any = None
) -> dict[str, TFDistilBertForSequenceClassification]:
    """Makes the classifiers that a training starts with, all on one encoder.

    Args:
        model: A checkpoint. The head of a classifier is kept if there is one task only, and no
            `fresh_head`.
        tasks: What to train for.
        fresh_head: Whether to leave out the checkpoint's head.
        dtype: Keras dtype or policy.

    Returns:
        Classifiers by task. Their configurations have `task_name`, `text_pair` and `task`, which
        `recorded_task` reads.

    Raises:
        CheckpointError: The checkpoint has a classifier for other labels.
        FileNotFoundError: No such checkpoint.
    """
    files = find_checkpoint(model)
    tensors = read_tensors(files.weights)
    config, family = load_config(files.config)
    has_head = "classifier.weight" in to_distilbert(tensors, family)
    keeps_head = has_head and not fresh_head and len(tasks) == 1
    if keeps_head:
        match_labels(
            config.id2label, tasks[0], model, "fresh_head (--fresh_head) starts with a new head."
        )
    classifiers: dict[str, TFDistilBertForSequenceClassification] = {}
    encoder = None
    for task in tasks:
        config, _ = load_config(files.config, id2label=task.id2label)
        config.task_name, config.text_pair = task.name, task.is_pair
        config.task = task.record()
        if task.problem_type != SINGLE_LABEL:
            config.problem_type = task.problem_type
        classifier = TFDistilBertForSequenceClassification(config, encoder=encoder, dtype=dtype)
        if encoder is None:
            encoder = classifier.distilbert
            load_tensors(
                classifier,
                tensors,
                family=family,
                fresh_head=not keeps_head,
                where=str(files.weights),
            )
        classifiers[task.name] = classifier
    return classifiers


def freeze_layers(encoder: TFDistilBertModel, options: FinetuneOptions) -> None:
    """Freezes the embeddings and the first layers, as many as the settings say.

    Dropout acts in frozen layers as in the others.

    Raises:
        ValueError: There are fewer layers; or two settings say how many.
    """
    count, n_layers = options.frozen_layers, encoder.config.n_layers
    if options.freeze_encoder:
        if count is not None:
            raise ValueError(
                f"freeze_encoder freezes all layers, and frozen_layers={count} some: pass one."
            )
        count = n_layers
    if count is None:
        return
    if count > n_layers:
        raise ValueError(f"frozen_layers is {count}, but the encoder has {n_layers} layers.")
    encoder.embeddings.trainable = False
    for layer in encoder.transformer.layer[:count]:
        layer.trainable = False


def match_labels(
    id2label: dict[int, str],
    task: Task,
    where: Any,
    hint: str = "",
    *,
    any_order: bool = False,
) -> list[int]:
    """Finds the labels of a task among those of a checkpoint, by their names.

    Capitals make no difference. Labels without names (`LABEL_0`, ...) are taken for the task's, in
    its order, with a warning.

    Args:
        id2label: The checkpoint's labels.
        task: The task.
        where: The checkpoint, for messages.
        hint: What to do, for the error.
        any_order: Whether the checkpoint's labels may be in another order than the task's.

    Returns:
        For each label of the task, in its order, the checkpoint's number.

    Raises:
        CheckpointError: The checkpoint has other labels.
    """
    labels = [id2label[number] for number in sorted(id2label)]
    numbers = list(range(len(task.labels)))
    if labels == [f"LABEL_{i}" for i in numbers]:
        logging.warning(
            "%s does not name its labels; they are taken for %s.", where, ", ".join(task.labels)
        )
        return numbers
    theirs, ours = ([label.casefold() for label in names] for names in (labels, task.labels))
    if theirs == ours:
        return numbers
    if any_order and sorted(theirs) == sorted(ours) and len(set(ours)) == len(ours):
        return [theirs.index(label) for label in ours]
    raise CheckpointError(
        f"{where} has the labels {', '.join(labels)}; the task {task.name!r} has "
        f"{', '.join(task.labels)}. {hint}".rstrip()
    )
