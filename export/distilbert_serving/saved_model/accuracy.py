"""What storing or computing with fewer bits does to the answers of a classifier, on labelled data.

Shapes: N rows, C classes.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from distilbert_serving import signatures as names
from distilbert_serving.saved_model.endpoints import Tokenization
from distilbert_serving.saved_model.verification import VerificationError
from distilbert_tf.checkpoints.problem_types import MULTI_LABEL, REGRESSION
from distilbert_tf.data.examples import Examples
from distilbert_tf.data.splits import load_split
from distilbert_tf.data.tasks import Task
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.pretrained import PreTrainedModel
from distilbert_tf.training.classifiers import configured_task, match_labels
from distilbert_tf.training.metrics import METRICS_OF

_BATCH = 32

Texts = tuple[tf.Tensor, ...]  # strings (B,), and as many second texts of pairs


class Limits(NamedTuple):
    """How far an export may be from the model it was made from; None for no limit.

    Attributes:
        changed_labels: The share of rows whose label is another, from 0 to 1.
        score_loss: By how much the task's first metric may be lower.
    """

    changed_labels: float | None = None
    score_loss: float | None = None

    def check(self) -> None:
        """Raises ValueError for a limit that makes no sense, such as a share in percent."""
        if self.changed_labels is not None and not 0 <= self.changed_labels <= 1:
            raise ValueError(
                "max_changed_labels is a share of the labels, from 0 to 1; got "
                f"{self.changed_labels}."
            )
        if self.score_loss is not None and not self.score_loss >= 0:
            raise ValueError(f"max_score_loss must be 0 or more; got {self.score_loss}.")


class Change(NamedTuple):
    """What an export answers otherwise than the model it was made from.

    Attributes:
        rows: N.
        changed_labels: How many rows have another label, or another set of them.
        before: The scores of the model by metric.
        after: Those of the export.
    """

    rows: int
    changed_labels: int
    before: dict[str, float]
    after: dict[str, float]

    def __str__(self) -> str:
        scores = ", ".join(
            f"{name} {self.before[name]:.4f} -> {self.after[name]:.4f}" for name in self.before
        )
        return f"{self.changed_labels} of {self.rows} labels changed; {scores}"


class Evaluation(NamedTuple):
    """What a classifier is evaluated on.

    Attributes:
        model: The classifier, as it was.
        task: Its task.
        examples: The validation split, N rows.
    """

    model: TFDistilBertForSequenceClassification
    task: Task
    examples: Examples


def find_evaluations(models: Mapping[str, PreTrainedModel], data: Any) -> dict[str, Evaluation]:
    """Reads the data of each model's task, before any work is done.

    Args:
        models: Classifiers by task; one alone under the name "".
        data: What `load_split` takes.

    Returns:
        What to evaluate, by the same names.

    Raises:
        TypeError: A model is no classifier.
        CheckpointError: A model's labels are not those of its task.
        ValueError: A model does not record its task.
        FileNotFoundError: There are no such data.
        DataError: The data do not fit the task.
    """
    evaluations = {}
    for name, model in models.items():
        if not isinstance(model, TFDistilBertForSequenceClassification):
            raise TypeError(f"evaluate_on is for classifiers; this is a {type(model).__name__}.")
        task = configured_task(model.config, "The model")
        match_labels(model.config.id2label, task, "The model")
        evaluations[name] = Evaluation(model, task, load_split(task, data, "validation"))
    return evaluations


def measure_changes(
    directory: Path,
    evaluations: Mapping[str, Evaluation],
    tokenization: Tokenization,
    limits: Limits,
) -> dict[str, Change]:
    """Compares the classifiers of a SavedModel with those it was made from.

    Args:
        directory: The SavedModel.
        evaluations: What `find_evaluations` returned.
        tokenization: The models' tokenizer.
        limits: What is allowed.

    Returns:
        The changes by the same names.

    Raises:
        VerificationError: A change is beyond the limits.
    """
    signatures = tf.saved_model.load(os.fspath(directory)).signatures
    changes = {}
    for name, (model, task, examples) in evaluations.items():
        before = _run(_trace(model, tokenization), examples)
        after = _run(_ask(signatures[name or names.SERVING_DEFAULT]), examples)
        changes[name] = _compare(task, examples.labels, before, after)
        logging.info("%s: %s.", task.name, changes[name])
        _check(task, changes[name], limits)
    return changes


def _ask(signature: Any) -> Callable[[Texts], tf.Tensor]:
    def compute(texts: Texts) -> tf.Tensor:
        inputs = names.INPUTS["pairs" if len(texts) > 1 else "texts"]
        return signature(**dict(zip(inputs, texts, strict=True)))[names.LOGITS]

    return compute


def _trace(
    model: TFDistilBertForSequenceClassification, tokenization: Tokenization
) -> Callable[[Texts], tf.Tensor]:
    def compute(texts: Texts) -> tf.Tensor:
        ids, mask, _ = tokenization.trace(texts)
        return model({"input_ids": ids, "attention_mask": mask}, training=False)

    return tf.function(compute, reduce_retracing=True, autograph=False)


def _run(compute: Callable[[Texts], tf.Tensor], examples: Examples) -> np.ndarray:
    """Returns the logits of all rows, float32 (N, C)."""
    return np.concatenate([np.asarray(compute(texts)) for texts in _batches(examples)])


def _batches(examples: Examples) -> Iterator[Texts]:
    for first in range(0, len(examples), _BATCH):
        yield tuple(tf.constant(column[first : first + _BATCH]) for column in examples.texts)


def _compare(task: Task, labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> Change:
    scores = []
    for logits in (before, after):
        metric = METRICS_OF[task.problem_type](len(task.labels), task.metrics)
        ones = np.ones(len(labels), np.float32)
        metric.update_state(labels, logits, 0 * ones, ones)
        found = metric.result()
        scores.append({name: float(found[name]) for name in metric.metric_names})
    decided = [_decide(task.problem_type, logits) for logits in (before, after)]
    changed = int((decided[0] != decided[1]).any(axis=1).sum())
    return Change(len(labels), changed, *scores)


def _decide(problem_type: str | None, logits: np.ndarray) -> np.ndarray:
    """Returns what is answered to each row, (N, any); a row without logits has a label of its own.

    A regression decides nothing.
    """
    if problem_type == REGRESSION:
        return np.zeros((len(logits), 0))
    if problem_type == MULTI_LABEL:
        return np.where(np.isnan(logits), -1, logits > 0)
    return np.where(np.isnan(logits).any(axis=1), -1, logits.argmax(axis=1))[:, np.newaxis]


def _check(task: Task, change: Change, limits: Limits) -> None:
    share = change.changed_labels / change.rows
    if limits.changed_labels is not None and share > limits.changed_labels:
        raise VerificationError(
            f"Not exported: {task.name}: {change}. That is {share:.2%} of the labels; "
            f"max_changed_labels allows {limits.changed_labels:.2%}."
        )
    metric = next(iter(change.before))
    loss = change.before[metric] - change.after[metric]
    if limits.score_loss is not None and loss > limits.score_loss:
        raise VerificationError(
            f"Not exported: {task.name}: {change}. {metric} is lower by {loss:.4f}; "
            f"max_score_loss allows {limits.score_loss:.4f}."
        )
