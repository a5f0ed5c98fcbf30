"""Fine-tunings made ready: tasks, data, teacher, strategy, classifiers and optimizer."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging

from distilbert_tf.checkpoints.problem_types import SINGLE_LABEL
from distilbert_tf.data.examples import Examples, find_labels
from distilbert_tf.data.sampler import EpochSampler
from distilbert_tf.data.splits import load_training_splits
from distilbert_tf.data.tasks import Task, get_task
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.training.batches import (
    TaskRows,
    collect_rows,
    evaluation_batches,
    training_batches,
)
from distilbert_tf.training.classifiers import freeze_layers, start_classifiers
from distilbert_tf.training.evaluation import Scores, score_tasks
from distilbert_tf.training.label_loss import BALANCED, LabelLoss, find_class_weights
from distilbert_tf.training.metrics import log_prefix
from distilbert_tf.training.multitask import MultiTaskModel
from distilbert_tf.training.optimizer import layer_rate_factors
from distilbert_tf.training.options import FinetuneOptions
from distilbert_tf.training.run import Training, compile_trainer, start_training
from distilbert_tf.training.run_directory import VALIDATION, RunDirectory
from distilbert_tf.training.soft_targets import SoftTargets
from distilbert_tf.training.teacher import Teacher, find_teacher

LOSS = "loss"
Splits = dict[str, dict[str, Examples]]  # by task and split


@dataclasses.dataclass
class Finetuning(Training):
    """Classifiers of several tasks, ready to be trained: see `set_up_finetuning`.

    Attributes:
        sampler: Which rows each step sees.
        tasks: The tasks.
        splits: All examples.
        rows: The training rows, tokenized.
        tokenize: The in-graph tokenizer.
        teacher: What the classifiers learn from beside the labels, if anything.
    """

    options: FinetuneOptions
    model: MultiTaskModel
    sampler: EpochSampler
    tasks: list[Task]
    splits: Splits
    rows: TaskRows
    tokenize: Callable[..., dict[str, tf.Tensor]]
    teacher: Teacher | None = None
    _evaluation_rows: dict[str, TaskRows] = dataclasses.field(default_factory=dict)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.sampler.steps_per_epoch

    def training_batches(self, first_epoch: int = 0, first_step: int = 0) -> Any:
        """Makes the endless stream of batches from a step of an epoch on, both counted from 0."""
        return training_batches(
            self.rows,
            self.sampler,
            self.model.distribute_strategy,
            width=self.width,
            first_epoch=first_epoch,
            first_step=first_step,
        )

    @property
    def evaluation_splits(self) -> list[str]:
        """The splits that are scored, of one task or several."""
        names = (split for found in self.splits.values() for split in found if split != "train")
        return list(dict.fromkeys(names))

    def evaluation_rows(self, split: str) -> TaskRows:
        """Tokenizes the rows of all tasks that have a split, once."""
        if split not in self._evaluation_rows:  # the validation split is scored several times
            # Rows stand in the order of the tasks; one without rows has none to be numbered.
            parts = [self.splits[task.name].get(split) for task in self.tasks]
            rows = collect_rows([part for part in parts if part is not None], self.tokenize)
            numbers = tf.constant([i for i, part in enumerate(parts) if part is not None])
            self._evaluation_rows[split] = rows._replace(tasks=tf.gather(numbers, rows.tasks))
        return self._evaluation_rows[split]

    def prepare(self, directory: RunDirectory) -> None:
        """Adds the teacher's logits to all rows, if there is a teacher."""
        if self.teacher is None:
            return
        rows = {split: self.evaluation_rows(split) for split in self.evaluation_splits}
        logits = self.teacher.find_logits(
            {"train": self.rows, **rows},
            directory.teacher_logits,
            self.model.distribute_strategy,
        )
        self.rows = self.rows._replace(teacher_logits=logits["train"])
        for split, found in rows.items():
            self._evaluation_rows[split] = found._replace(teacher_logits=logits[split])

    def split_batches(self, split: str) -> tuple[Any, int]:
        """Makes the batches of all tasks that have a split; returns them and their number."""
        return evaluation_batches(
            self.evaluation_rows(split),
            self.options.batch_size,
            self.model.distribute_strategy,
            width=self.width,
            step_multiple=self.options.steps_per_execution,
        )

    def validation_batches(self) -> tuple[Any, int]:
        """Makes the batches of the validation split; returns them and their number."""
        return self.split_batches(VALIDATION)

    def score(self, logs: Mapping[str, float]) -> float:
        """Returns the mean of the tasks' metrics that choose the checkpoint."""
        metric = self.options.metric_for_best_model
        if metric == LOSS:
            return -float(logs[LOSS])
        names = [
            log_prefix(task.name, len(self.tasks)) + (metric or task.metrics[0])
            for task in self.tasks
        ]
        return sum(float(logs[name]) for name in names) / len(names)

    def score_split(self, split: str) -> dict[str, Scores]:
        """Scores the classifiers on a split, for the tasks that have it."""
        scores = score_tasks(self.model, *self.split_batches(split))
        return {name: found for name, found in scores.items() if split in self.splits[name]}

    def scores_before(self) -> dict[str, dict[str, float]]:
        """Scores the classifiers on the validation split."""
        return {name: found.values for name, found in self.score_split(VALIDATION).items()}

    def describe_batch(self, epoch: int, step: int) -> str:
        """Says which of the tasks' training examples are in a batch."""
        rows = self.sampler.batches(epoch)[step].tolist()
        start, named = 0, []
        for task, size in zip(self.tasks, self.sampler.task_sizes, strict=True):
            own = sorted(row - start for row in rows if start <= row < start + size)
            if own:
                named.append(f"rows {', '.join(map(str, own))} of {task.name}'s training examples")
            start += size
        return " and ".join(named)


def parse_tasks(task: str | Task | Sequence[str | Task]) -> list[Task]:
    """Reads `"sst2"`, `"sst2,mnli"`, a task, or several of them.

    Raises:
        TypeError: Something that is no task.
        ValueError: An unknown task, or one twice.
    """
    if isinstance(task, str):
        task = task.split(",")
    several: Sequence[Any] = task if isinstance(task, list | tuple) else [task]
    tasks = [get_task(one) for one in several]
    names = [one.name for one in tasks]
    if not tasks or len(set(names)) != len(names):
        raise ValueError(f"One or more different tasks are needed; got {', '.join(names) or None}.")
    return tasks


def load_splits(
    tasks: Sequence[Task], data: Any, options: FinetuneOptions
) -> tuple[list[Task], Splits]:
    """Reads training and validation data, and what else there is that has labels.

    Args:
        tasks: The tasks.
        data: See `load_examples`; for several tasks, it may be a dict of such by task.
        options: The run's settings.

    Returns:
        The tasks, with the labels that were found, and their examples.
    """
    splits: Splits = {}
    completed = []
    for task in tasks:
        is_by_task = len(tasks) > 1 and isinstance(data, Mapping) and task.name in data
        own = data[task.name] if is_by_task else data
        completed.append(find_labels(task, own))
        if not task.labels:
            logging.info("The labels of %s: %s.", task.name, ", ".join(completed[-1].labels))
        found = load_training_splits(completed[-1], own, bad_rows=options.bad_rows)
        if options.max_train_examples is not None:
            found["train"] = found["train"].take(options.max_train_examples)
        splits[task.name] = found
    return completed, splits


def choose_teacher(
    checkpoint: str | Path | None, tasks: Sequence[Task], options: FinetuneOptions
) -> Teacher | None:
    """Finds the teacher of a run, if it has one.

    Raises:
        ValueError: A setting is for a teacher, and there is none; see also `find_teacher`.
    """
    if checkpoint is not None:
        for task in tasks:
            if task.problem_type != SINGLE_LABEL:
                raise ValueError(
                    f"{task.name} is a {task.problem_type}; a teacher is for tasks with one label "
                    "a row."
                )
        return find_teacher(checkpoint, tasks)
    for name in ("distill_alpha", "distill_temperature"):
        if (value := getattr(options, name)) != getattr(FinetuneOptions, name):
            raise ValueError(
                f"{name} is {value}, but there is no teacher: pass teacher (--teacher) as well."
            )
    return None


def check_metric(tasks: Sequence[Task], options: FinetuneOptions) -> None:
    """Checks that all tasks have the metric that is to choose the checkpoint.

    Raises:
        ValueError: One does not.
    """
    metric = options.metric_for_best_model
    for task in tasks:
        if metric not in (None, LOSS, *task.metrics):
            raise ValueError(
                f"metric_for_best_model is {metric!r}, which {task.name} does not have: choose one "
                f"of {', '.join((*task.metrics, LOSS))}."
            )


def choose_label_losses(
    tasks: Sequence[Task], splits: Splits, options: FinetuneOptions
) -> dict[str, LabelLoss]:
    """Makes the loss of each task.

    Raises:
        ValueError: See `find_class_weights`; or there are weights by label for several tasks.
    """
    setting, smoothing = options.class_weight, options.label_smoothing_factor
    for task in tasks:
        if task.problem_type != SINGLE_LABEL and (setting is not None or smoothing):
            name = "label_smoothing_factor" if setting is None else "class_weight"
            raise ValueError(
                f"{task.name} is a {task.problem_type}; {name} is for tasks with one label a row."
            )
    if len(tasks) > 1 and setting not in (None, BALANCED):
        raise ValueError(f"For several tasks, class_weight can only be {BALANCED}.")
    return {
        task.name: LabelLoss(
            smoothing,
            find_class_weights(setting, task.labels, splits[task.name]["train"].labels, task.name),
        )
        for task in tasks
    }


def set_up_finetuning(
    tasks: list[Task],
    model: str | Path,
    splits: Splits,
    options: FinetuneOptions,
    teacher: Teacher | None = None,
) -> Finetuning:
    """Makes strategy, tokenizer, classifiers and optimizer, and tokenizes the training rows.

    Args:
        tasks: What to train for.
        model: Checkpoint to start from.
        splits: The tasks' examples.
        options: The run's settings.
        teacher: What `choose_teacher` returned.

    Returns:
        All that `fit` needs.

    Raises:
        CheckpointError: The checkpoint has a head for other labels, or does not fit; the teacher
            has no head.
        FileNotFoundError: No such checkpoint.
        ValueError: The batch cannot be shared evenly, there are too few positions or examples, or
            not as many layers as are to be frozen; the teacher has another tokenizer; a setting
            names a metric or label that a task does not have.
    """
    check_metric(tasks, options)
    label_losses = choose_label_losses(tasks, splits, options)
    strategy = start_training(options)
    tokenizer = DistilBertTokenizer.from_pretrained(model)
    tokenizer.model_max_length = options.max_length  # evaluation and export truncate alike
    soft_targets = None
    if teacher is not None:
        soft_targets = SoftTargets(options.distill_alpha, options.distill_temperature)
    with strategy.scope():
        classifiers = start_classifiers(
            model, tasks, fresh_head=options.fresh_head, dtype=options.dtype
        )
        freeze_layers(next(iter(classifiers.values())).distilbert, options)
        metrics = {task.name: task.metrics for task in tasks}
        trainer = MultiTaskModel(classifiers, metrics, soft_targets, label_losses)
    positions = trainer.distilbert.config.max_position_embeddings
    if options.max_length > positions:
        raise ValueError(
            f"max_length is {options.max_length}, but {model} has {positions} positions."
        )
    if teacher is not None:  # loaded after the classifiers, whose seeds are then the usual ones
        teacher.check(tokenizer, options.max_length)
    tokenize = tokenizer.as_layer(max_length=options.max_length)
    rows = collect_rows([splits[task.name]["train"] for task in tasks], tokenize)
    sampler = EpochSampler(
        rows.lengths(),
        tuple(len(splits[task.name]["train"]) for task in tasks),
        options.batch_size,
        options.seed,
        options.sampling_temperature,
        step_multiple=options.steps_per_execution,
    )
    rate_factors = None
    if options.layerwise_lr_decay < 1:
        n_layers = trainer.distilbert.config.n_layers
        rate_factors = layer_rate_factors(options.layerwise_lr_decay, n_layers)
    compile_trainer(trainer, options, sampler.steps_per_epoch, rate_factors)
    return Finetuning(options, tokenizer, trainer, sampler, tasks, splits, rows, tokenize, teacher)
