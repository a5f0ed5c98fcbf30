"""What a fine-tuning run is made of, before it starts: tasks, examples, model, rows, plan."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distilbert_tf.data.examples import Examples, load_examples
from distilbert_tf.data.sampler import EpochSampler
from distilbert_tf.data.tasks import Task, get_task
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.training.batches import TaskRows, collect_rows, evaluation_batches
from distilbert_tf.training.classifiers import start_classifiers
from distilbert_tf.training.evaluation import Scores, score_tasks
from distilbert_tf.training.multitask import MultiTaskModel
from distilbert_tf.training.optimizer import create_optimizer
from distilbert_tf.training.options import FinetuneOptions
from distilbert_tf.training.report import VALIDATION
from distilbert_tf.training.strategy import make_strategy

Splits = dict[str, dict[str, Examples]]  # by task and split


@dataclasses.dataclass
class PreparedRun:
    """A run on its way: all that `fit` needs.

    Attributes:
        tasks: What it trains for.
        options: Its settings.
        strategy: Its devices.
        tokenizer: The model's tokenizer.
        model: Encoder and classifiers, compiled.
        rows: The training rows.
        sampler: Which of them each step sees.
        splits: All examples.
        tokenize: The in-graph tokenizer.
    """

    tasks: list[Task]
    options: FinetuneOptions
    strategy: tf.distribute.Strategy
    tokenizer: DistilBertTokenizer
    model: MultiTaskModel
    rows: TaskRows
    sampler: EpochSampler
    splits: Splits
    tokenize: Callable[..., dict[str, tf.Tensor]]
    _evaluation_rows: dict[str, TaskRows] = dataclasses.field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(int(np.prod(weight.shape)) for weight in self.model.trainable_variables)

    @property
    def width(self) -> int | None:
        """T of all batches, if they must have one."""
        return None if self.model.skip_padding else self.options.max_length

    def evaluation(self, split: str) -> tuple[Any, int]:
        """Makes the batches of all tasks that have a split, and their number."""
        if split not in self._evaluation_rows:  # the validation split is scored several times
            # Rows stand in the order of the tasks; one without rows has none to be numbered.
            parts = [self.splits[task.name].get(split) for task in self.tasks]
            rows = collect_rows([part for part in parts if part is not None], self.tokenize)
            numbers = tf.constant([i for i, part in enumerate(parts) if part is not None])
            self._evaluation_rows[split] = rows._replace(tasks=tf.gather(numbers, rows.tasks))
        return evaluation_batches(
            self._evaluation_rows[split],
            self.options.batch_size,
            self.strategy,
            width=self.width,
            step_multiple=self.options.steps_per_execution,
        )

    def score(self, split: str) -> dict[str, Scores]:
        """Scores the model on a split, for the tasks that have it."""
        scores = score_tasks(self.model, *self.evaluation(split))
        return {name: found for name, found in scores.items() if split in self.splits[name]}


def parse_tasks(task: str | Task | Sequence[str | Task]) -> list[Task]:
    """Reads `"sst2"`, `"sst2,mnli"`, a task, or several of them.

    Raises:
        ValueError: An unknown task, or one twice.
    """
    if isinstance(task, str):
        task = task.split(",")
    tasks = [get_task(one) for one in ([task] if isinstance(task, Task) else task)]
    names = [one.name for one in tasks]
    if not tasks or len(set(names)) != len(names):
        raise ValueError(f"One or more different tasks are needed; got {', '.join(names) or None}.")
    return tasks


def load_splits(tasks: Sequence[Task], data: str | Path, options: FinetuneOptions) -> Splits:
    """Reads training and validation data, and whatever else of validation data is there."""
    splits: Splits = {}
    for task in tasks:
        found = {}
        for split in task.splits:
            if split != "train" and not split.startswith(VALIDATION):
                continue
            try:
                found[split] = load_examples(task, data, split, bad_rows=options.bad_rows)
            except FileNotFoundError:
                if split in ("train", VALIDATION):
                    raise
        if options.max_train_examples is not None:
            found["train"] = found["train"].take(options.max_train_examples)
        splits[task.name] = found
    return splits


def prepare(
    tasks: list[Task], model: str | Path, splits: Splits, options: FinetuneOptions
) -> PreparedRun:
    """Makes strategy, model, optimizer and rows.

    Args:
        tasks: What to train for.
        model: Checkpoint to start from.
        splits: The tasks' examples.
        options: The run's settings.

    Returns:
        All that `fit` needs.

    Raises:
        CheckpointError: The checkpoint has a head for other labels, or does not fit.
        FileNotFoundError: No such checkpoint.
        ValueError: The batch cannot be shared evenly, there are too few positions or examples.
    """
    strategy = make_strategy(options.strategy)
    parts = strategy.num_replicas_in_sync * options.micro_batches
    if options.batch_size % parts:
        raise ValueError(
            f"batch_size is {options.batch_size}, which {strategy.num_replicas_in_sync} replica(s) "
            f"x {options.micro_batches} micro-batch(es) cannot share evenly: choose a multiple of "
            f"{parts}."
        )
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(options.seed)
    tokenizer = DistilBertTokenizer.from_pretrained(model)
    tokenizer.model_max_length = options.max_length  # so that evaluation and export cut alike
    with strategy.scope():
        classifiers = start_classifiers(
            model, tasks, fresh_head=options.fresh_head, dtype=options.dtype
        )
        whole = MultiTaskModel(classifiers, {task.name: task.metrics for task in tasks})
    positions = whole.distilbert.config.max_position_embeddings
    if options.max_length > positions:
        raise ValueError(
            f"max_length is {options.max_length}, but {model} has {positions} positions."
        )
    tokenize = tokenizer.as_layer(max_length=options.max_length)
    rows = collect_rows([splits[task.name]["train"] for task in tasks], tokenize)
    sampler = EpochSampler(
        rows.lengths(),
        tuple(len(splits[task.name]["train"]) for task in tasks),
        options.batch_size,
        options.seed,
        options.temperature,
        step_multiple=options.steps_per_execution,
    )
    with strategy.scope():
        whole.compile(
            create_optimizer(
                options.learning_rate,
                total_steps=options.epochs * sampler.steps_per_epoch,
                warmup_ratio=options.warmup_ratio,
                weight_decay=options.weight_decay,
                max_gradient_norm=options.max_gradient_norm,
            ),
            jit_compile=options.jit_compile,
            micro_batches=options.micro_batches,
            steps_per_execution=options.steps_per_execution,
        )
    return PreparedRun(tasks, options, strategy, tokenizer, whole, rows, sampler, splits, tokenize)


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
    mean_tokens: float
    computed_tokens: float
    state_mib: float
    memory_mib: float

    def report(self) -> str:
        """Writes the plan as a few lines for people."""
        epochs, total = self.options.epochs, self.options.epochs * self.steps_per_epoch
        lines = [
            f"{task}: {', '.join(f'{split} {count:,} rows' for split, count in by_split.items())}; "
            f"{self.shares[task]:,} rows an epoch"
            for task, by_split in self.rows.items()
        ]
        return "\n".join(
            [
                *lines,
                f"{epochs} epochs of {self.steps_per_epoch:,} steps: {total:,} steps of "
                f"{self.options.batch_size} rows, shared by {self.replicas} replica(s)",
                f"{self.mean_tokens:.1f} tokens a row, {self.computed_tokens:.1f} computed",
                f"{self.parameters:,} parameters; a saved state has {self.state_mib:,.0f} MiB, "
                f"{self.options.keep_states} are kept",
                f"memory for a device: about {self.memory_mib:,.0f} MiB beside libraries and data",
            ]
        )


def plan_finetuning(
    task: str | Task | Sequence[str | Task] = "sst2",
    model: str | Path = "demo",
    data: str | Path = "demo",
    **options: Any,
) -> Plan:
    """Works out what `finetune` would do with the same arguments, without training.

    Args:
        task: See `finetune`, as for the others.
        model: Checkpoint to start from.
        data: Where the tasks' files are.
        **options: See `FinetuneOptions`.

    Returns:
        The plan.

    Raises:
        ValueError: And all else that `finetune` raises before it trains.
    """
    settings = FinetuneOptions(**options)
    tasks = parse_tasks(task)
    splits = load_splits(tasks, data, settings)
    run = prepare(tasks, model, splits, settings)
    lengths = run.rows.lengths()
    computed = lengths if run.width is None else np.full_like(lengths, run.width)
    variables = run.model.variables + run.model.optimizer.variables
    return Plan(
        rows={
            name: {split: len(examples) for split, examples in found.items()}
            for name, found in splits.items()
        },
        shares=dict(zip(splits, run.sampler.task_shares(), strict=True)),
        steps_per_epoch=run.sampler.steps_per_epoch,
        options=settings,
        parameters=run.parameters,
        replicas=run.strategy.num_replicas_in_sync,
        mean_tokens=float(lengths.mean()),
        computed_tokens=float(computed.mean()),
        state_mib=_mib(variables),
        memory_mib=2 * _mib(variables)  # once more while a state is saved
        + _mib(run.model.trainable_variables)  # their gradients
        + _activations_mib(run, computed),
    )


def _mib(variables: Sequence[keras.Variable]) -> float:
    return sum(int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size for v in variables) / 2**20


def _activations_mib(run: PreparedRun, lengths: np.ndarray) -> float:
    """Estimates what the longest batch keeps for the backward pass on one device."""
    config = run.model.distilbert.config
    parts = run.strategy.num_replicas_in_sync * run.options.micro_batches
    longest = max(run.sampler.batches(0), key=lambda rows: int(lengths[rows].sum()))
    tokens = lengths[longest].astype(np.float64)
    # A block keeps for each token some ten vectors (inputs of products, dropout and LayerNorm) and
    # four inner ones of the feed-forward, and for each pair of tokens scores, weights and a mask.
    kept = tokens.sum() * (10 * config.dim + 4 * config.hidden_dim)
    kept += (tokens**2).sum() * 3 * config.n_heads
    size = tf.as_dtype(run.model.compute_dtype).size
    return float(kept) * config.n_layers * size / parts / 2**20
