"""The run loop of every training: resumes, fits, stops upon a signal, and writes the record."""

import abc
import dataclasses
import datetime
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.training.callbacks import (
    CountSteps,
    EvaluateWithin,
    LossCurve,
    ProgressLog,
    SaveBest,
)
from distilbert_tf.training.interruption import SaveState, meet_workers
from distilbert_tf.training.optimizer import NOT_FINITE, create_optimizer
from distilbert_tf.training.options import TrainingOptions
from distilbert_tf.training.report import describe_process, peak_memory_mib, write_json
from distilbert_tf.training.run_directory import RUN, TENSORBOARD, RunDirectory
from distilbert_tf.training.state import Progress, State, read_newest_state
from distilbert_tf.training.strategy import is_chief, make_strategy
from distilbert_tf.training.trainer_model import TrainerModel


class TrainingDivergedError(RuntimeError):
    """A run whose gradients became infinite or NaN."""


@dataclasses.dataclass
class Training(abc.ABC):
    """What a run trains, on which data, and by which score.

    Attributes:
        options: The settings.
        tokenizer: Saved with every model.
        model: The trainer, compiled by `compile_trainer`.
    """

    options: TrainingOptions
    tokenizer: DistilBertTokenizer
    model: TrainerModel

    @property
    @abc.abstractmethod
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""

    @abc.abstractmethod
    def training_batches(self, first_epoch: int = 0, first_step: int = 0) -> Any:
        """Makes the endless stream of batches from a step of an epoch on, both counted from 0."""

    @abc.abstractmethod
    def validation_batches(self) -> tuple[Any, int]:
        """Makes the batches of an evaluation; returns them and their number."""

    @abc.abstractmethod
    def score(self, logs: Mapping[str, float]) -> float:
        """Returns the score of an evaluation from its logs; higher is better."""

    @abc.abstractmethod
    def scores_before(self) -> dict[str, dict[str, float]]:
        """Evaluates the models before the training; returns figures by model."""

    def prepare(self, directory: RunDirectory) -> None:  # noqa: B027  (most have nothing to do)
        """Does what comes before the training, once the directory is the run's own."""

    def describe_batch(self, epoch: int, step: int) -> str:
        """Says what is in the batch of a step, both counted from 0."""
        return ""

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(int(np.prod(weight.shape)) for weight in self.model.trainable_variables)

    @property
    def width(self) -> int | None:
        """Tokens in a row of every batch, if all must have one width."""
        return None if self.model.skip_padding else self.options.max_length


def start_training(options: TrainingOptions) -> tf.distribute.Strategy:
    """Makes the strategy, and sets the process' seed; to be called before any weights are made.

    Raises:
        ValueError: The batch cannot be shared evenly; see also `make_strategy`.
    """
    strategy = make_strategy(options.strategy)
    replicas, accumulated = strategy.num_replicas_in_sync, options.gradient_accumulation_steps
    if options.batch_size % (replicas * accumulated):
        raise ValueError(
            f"batch_size is {options.batch_size}, which {replicas} replica(s) x {accumulated} "
            "gradient accumulation step(s) cannot share evenly: choose a multiple of "
            f"{replicas * accumulated}."
        )
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(options.seed)
    return strategy


def compile_trainer(
    model: TrainerModel,
    options: TrainingOptions,
    steps_per_epoch: int,
    rate_factors: Mapping[str, float] | None = None,
) -> None:
    """Compiles a trainer, in its strategy's scope, for a run with these settings.

    Args:
        model: The trainer.
        options: The settings.
        steps_per_epoch: Optimizer steps in an epoch.
        rate_factors: Factors of the learning rate: see `AdamW`.
    """
    with model.distribute_strategy.scope():
        model.compile(
            create_optimizer(
                options.learning_rate,
                total_steps=options.epochs * steps_per_epoch,
                warmup_ratio=options.warmup_ratio,
                lr_scheduler_type=options.lr_scheduler_type,
                weight_decay=options.weight_decay,
                max_gradient_norm=options.max_gradient_norm,
                rate_factors=rate_factors,
            ),
            jit_compile=options.jit_compile,
            gradient_accumulation_steps=options.gradient_accumulation_steps,
            steps_per_execution=options.steps_per_execution,
        )


def find_state(
    directory: RunDirectory,
    identity: Mapping[str, Any],
    options: TrainingOptions,
    *,
    overwrite: bool,
) -> State | None:
    """Reads the state of this very run, if it was interrupted.

    Args:
        directory: The run's directory.
        identity: What tells this run from others; JSON, with the recipe as `options`.
        options: Its settings.
        overwrite: Whether to ignore the state of another run.

    Returns:
        The newest state that is whole; None if there is none.

    Raises:
        CheckpointError: All states are damaged.
        FileExistsError: The state is another run's, and `overwrite` is false.
    """
    if directory.is_finished:
        return None  # and to be replaced
    state = read_newest_state(directory.states)
    if state is None:
        return None
    differences = _differences(state.record.get("run", {}), identity, options)
    if not differences:
        return state
    if overwrite:
        logging.warning("The interrupted run in %s was another one; replacing it.", directory.path)
        return None
    raise FileExistsError(
        f"{directory.path} holds the state of another run that was interrupted: "
        f"{'; '.join(differences)}. Resume with the same settings, choose another output_dir, or "
        "pass overwrite=True (--overwrite) to replace it."
    )


def _differences(
    before: Mapping[str, Any], identity: Mapping[str, Any], options: TrainingOptions
) -> list[str]:
    """Lists how a run differs from this one."""
    found = []
    for name, value in identity.items():
        if name == "options":
            found += options.differences(before.get(name, {}))
        elif before.get(name) != value:
            values = f"{name} was {before.get(name)}, now {value}"
            found.append("the data files have changed" if name == "data_files" else values)
    return found


def _has_begun(
    directory: RunDirectory, identity: Mapping[str, Any], options: TrainingOptions
) -> bool:
    """Whether this very run ended before its first state was saved."""
    before = directory.read_run()
    return before.get("status") == "running" and not _differences(before, identity, options)


def run_training(
    training: Training,
    directory: RunDirectory,
    identity: Mapping[str, Any],
    state: State | None,
    *,
    overwrite: bool = False,
    about: Mapping[str, Any] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> tuple[Progress, dict[str, Any]]:
    """Trains from the start or from a state, until the end or a signal to stop.

    Args:
        training: What to train.
        directory: Gets the best models, the states, `run.json` and TensorBoard's logs.
        identity: See `find_state`.
        state: What that returned.
        overwrite: Whether another run's result may be replaced.
        about: More for `run.json`.
        callbacks: More Keras callbacks.

    Returns:
        How the run went, and the record for `run.json`. The model has the best weights.

    Raises:
        FileExistsError: The directory holds a checkpoint and `overwrite` is false.
        InterruptedRunError: SIGTERM or SIGINT came; the state is saved.
        TrainingDivergedError: The gradients became infinite or NaN.
    """
    options, model = training.options, training.model
    strategy = model.distribute_strategy
    chief = is_chief(strategy)
    if state is None and chief:
        directory.clear(overwrite=overwrite or _has_begun(directory, identity, options))
    training.prepare(directory)
    if state is None:
        progress = Progress(training.steps_per_epoch)
        before = training.scores_before()
        for name, values in before.items():
            shown = ", ".join(f"{key} {value:.4f}" for key, value in values.items())
            logging.info("%s before: %s.", name, shown)
    else:
        progress = Progress(**state.record["progress"])
        before = state.record["run"]["scores_before"]
        logging.info("Resuming %s after step %d.", directory.path, progress.step)
    record = {
        "status": "running",
        **identity,
        "options": dataclasses.asdict(options),
        **describe_process(),
        **(about or {}),
        "strategy": type(strategy).__name__,
        "replicas": strategy.num_replicas_in_sync,
        "dtype": model.dtype_policy.name,
        "parameters": training.parameters,
        "steps_per_epoch": progress.steps_per_epoch,
        "total_steps": options.epochs * progress.steps_per_epoch,
        "scores_before": before,
        "resumed_at_step": progress.step,
        "started_at": _now(),
    }
    if chief:
        write_json(directory.path / RUN, record)
    saver = SaveState(
        directory.states,
        progress,
        {**identity, "scores_before": before},
        every=options.save_steps,
        keep=options.keep_states,
        tensors=None if state is None else state.tensors,
    )
    _fit(training, directory, progress, saver, callbacks)
    record |= {
        "status": "finished",
        "finished_at": _now(),
        "steps": progress.step,
        "best": progress.best,
        "train_time_s": progress.train_time_s,
        "examples_per_s": progress.step * options.batch_size / progress.train_time_s,
        "peak_memory_mib": peak_memory_mib(),
    }
    return progress, record


def _fit(
    training: Training,
    directory: RunDirectory,
    progress: Progress,
    saver: SaveState,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    options, model = training.options, training.model
    validation, validation_steps = training.validation_batches()
    first_epoch, first_step = divmod(progress.step, progress.steps_per_epoch)
    chief, patience = is_chief(model.distribute_strategy), options.early_stopping_patience
    best = SaveBest(directory.models, training.tokenizer, training.score, progress, patience)
    own: list[keras.callbacks.Callback] = [
        CountSteps(progress),
        LossCurve(progress, options.epochs),
    ]
    if chief:
        if not sys.stdout.isatty():
            own.append(ProgressLog(progress, options.batch_size))
        own.append(
            keras.callbacks.TensorBoard(
                directory.path / TENSORBOARD, write_graph=False, update_freq=50, profile_batch=0
            )
        )
    if options.eval_steps is not None:

        def evaluate() -> dict[str, float]:
            return model.evaluate(validation, steps=validation_steps, verbose=0, return_dict=True)

        own.append(EvaluateWithin(options.eval_steps, evaluate, best))
    with saver.watching_signals():
        try:
            model.fit(
                training.training_batches(first_epoch, first_step),
                validation_data=validation,
                validation_steps=validation_steps,
                epochs=first_epoch if progress.is_out_of_patience(patience) else options.epochs,
                initial_epoch=first_epoch,
                steps_per_epoch=progress.steps_per_epoch,
                # The best weights are put back last, whatever another callback does to them.
                callbacks=[*own, *callbacks, best, saver],
                shuffle=False,  # the sampler does
                verbose=0 if not chief else 1 if sys.stdout.isatty() else 2,
            )
        except tf.errors.InvalidArgumentError as error:
            if NOT_FINITE not in str(error):
                raise
            raise TrainingDivergedError(_describe_divergence(training, progress)) from error


def _describe_divergence(training: Training, progress: Progress) -> str:
    epoch, step = divmod(progress.step, progress.steps_per_epoch)
    first, last = progress.step + 1, progress.step + training.options.steps_per_execution
    batch = training.describe_batch(epoch, step)
    kept = progress.best
    return (
        f"The gradients of step {first}{f' to {last}' if last > first else ''} (epoch {epoch + 1}, "
        f"batch {step + 1}{f': {batch}, counted from 0' if batch else ''}) are not finite: the "
        "training diverged. Try a lower learning rate. "
        + (f"The checkpoint of step {kept['step']} is kept." if kept else "Nothing was saved.")
    )


def end_run(directory: RunDirectory, strategy: tf.distribute.Strategy) -> None:
    """Removes what only an unfinished run needs, and waits for all workers."""
    if is_chief(strategy):
        for path in (directory.states, directory.teacher_logits):
            shutil.rmtree(path, ignore_errors=True)
    meet_workers(strategy)  # a worker that leaves early takes the others with it


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
