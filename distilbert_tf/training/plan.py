"""What a fine-tuning run would do."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distilbert_tf.data.tasks import Task
from distilbert_tf.training.classifier_training import (
    Finetuning,
    choose_teacher,
    load_splits,
    parse_tasks,
    set_up_finetuning,
)
from distilbert_tf.training.options import FinetuneOptions, read_finetune_options


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        rows: By task and split.
        shares: Of each task, how many rows an epoch has.
        steps_per_epoch: Optimizer steps.
        options: The settings.
        parameters: How many numbers are trained.
        replicas: How many devices share a batch.
        teacher: The checkpoint of the teacher, if there is one.
        mean_tokens: Tokens of a row, on average.
        computed_tokens: Tokens of a row that are computed: more, if padding is.
        state_mib: Size of a saved state.
        memory_mib: Estimate of what each device needs, beside libraries and data.
    """

    rows: dict[str, dict[str, int]]
    shares: dict[str, int]
    steps_per_epoch: int
    options: FinetuneOptions
    parameters: int
    replicas: int
    teacher: str | None
    mean_tokens: float
    computed_tokens: float
    state_mib: float
    memory_mib: float

    def report(self) -> str:
        """Returns the plan as a few lines for people."""
        epochs, total = self.options.epochs, self.options.epochs * self.steps_per_epoch
        lines = [
            f"{task}: {', '.join(f'{split} {count:,} rows' for split, count in by_split.items())}; "
            f"{self.shares[task]:,} rows an epoch"
            for task, by_split in self.rows.items()
        ]
        step_rows = self.steps_per_epoch * self.options.batch_size
        left_out = max(0, sum(self.shares.values()) - step_rows)
        if self.teacher is not None:
            lines.append(f"teacher: {self.teacher}, which computes its logits of every row once")
        return "\n".join(
            [
                *lines,
                f"{epochs} epochs of {self.steps_per_epoch:,} steps: {total:,} steps of "
                f"{self.options.batch_size} rows, shared by {self.replicas} replica(s)"
                + (
                    f"; {left_out:,} rows an epoch are left over, others each time" * (left_out > 0)
                ),
                f"{self.mean_tokens:.1f} tokens a row, {self.computed_tokens:.1f} computed",
                f"{self.parameters:,} parameters; a saved state has {self.state_mib:,.0f} MiB, "
                f"{self.options.keep_states} are kept",
                f"memory for a device: about {self.memory_mib:,.0f} MiB beside libraries and data",
            ]
        )


def plan_finetuning(
    task: str | Task | Sequence[str | Task] = "sst2",
    model: str | Path = "demo",
    data: Any = "demo",
    *,
    teacher: str | Path | None = None,
    **options: Any,
) -> Plan:
    """Works out what `finetune` would do with the same arguments, without training.

    Args:
        task: See `finetune`, as for the others.
        model: Checkpoint to start from.
        data: Where the tasks' files are.
        teacher: A fine-tuned classifier to learn from.
        **options: See `FinetuneOptions`.

    Returns:
        The plan.

    Raises:
        ValueError: And all else that `finetune` raises before it trains.
    """
    settings = read_finetune_options(options)
    tasks = parse_tasks(task)
    tasks, splits = load_splits(tasks, data, settings)
    found_teacher = choose_teacher(teacher, tasks, settings)
    training = set_up_finetuning(tasks, model, splits, settings, found_teacher)
    lengths = training.rows.lengths()
    computed = lengths if training.width is None else np.full_like(lengths, training.width)
    variables = training.model.variables + training.model.optimizer.variables
    return Plan(
        rows={
            name: {split: len(examples) for split, examples in found.items()}
            for name, found in splits.items()
        },
        shares=dict(zip(splits, training.sampler.task_shares(), strict=True)),
        steps_per_epoch=training.sampler.steps_per_epoch,
        options=settings,
        parameters=training.parameters,
        replicas=training.model.distribute_strategy.num_replicas_in_sync,
        teacher=None if found_teacher is None else found_teacher.name,
        mean_tokens=float(lengths.mean()),
        computed_tokens=float(computed.mean()),
        state_mib=_mib(variables),
        memory_mib=2 * _mib(variables)  # once more while a state is saved
        + _mib(training.model.trainable_variables)  # their gradients
        + _activations_mib(training, computed),
    )


def _mib(variables: Sequence[keras.Variable]) -> float:
    return sum(int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size for v in variables) / 2**20


def _activations_mib(training: Finetuning, lengths: np.ndarray) -> float:
    """Estimates what the longest batch keeps for the backward pass on one device."""
    config = training.model.distilbert.config
    parts = (
        training.model.distribute_strategy.num_replicas_in_sync
        * training.options.gradient_accumulation_steps
    )
    longest = max(training.sampler.batches(0), key=lambda rows: int(lengths[rows].sum()))
    tokens = lengths[longest].astype(np.float64)
    # A block keeps for each token some ten vectors (inputs of products, dropout and LayerNorm) and
    # four inner ones of the feed-forward, and for each pair of tokens scores, weights and a mask.
    kept = tokens.sum() * (10 * config.dim + 4 * config.hidden_dim)
    kept += (tokens**2).sum() * 3 * config.n_heads
    size = tf.as_dtype(training.model.compute_dtype).size
    return float(kept) * config.n_layers * size / parts / 2**20
