"""Fine-tuning classifiers, from files to saved checkpoints and their record."""

import dataclasses
import datetime
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from distilbert_tf.data.tasks import Task
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.shared_encoder import RUN
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.training.batches import training_batches
from distilbert_tf.training.callbacks import (
    EvaluateWithin,
    LossCurve,
    ProgressLog,
    SaveBest,
    StepCounter,
    TrainingDivergedError,
    format_duration,
)
from distilbert_tf.training.evaluation import Scores
from distilbert_tf.training.interruption import SaveState, meet_workers
from distilbert_tf.training.metrics import log_prefix
from distilbert_tf.training.optimizer import NOT_FINITE
from distilbert_tf.training.options import FinetuneOptions, default_output_dir
from distilbert_tf.training.plan import PreparedRun, load_splits, parse_tasks, prepare
from distilbert_tf.training.report import (
    METRICS,
    VALIDATION,
    describe_data,
    describe_process,
    peak_memory_mib,
    write_json,
    write_record,
)
from distilbert_tf.training.run_directory import clear, find_state, has_begun, task_directories
from distilbert_tf.training.state import CHECKPOINTS
from distilbert_tf.training.strategy import is_chief


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """What a run gave.

    Attributes:
        classifiers: The classifier of each task, with the best evaluation's weights.
        tokenizer: Their tokenizer.
        output_dir: Where all is saved.
        scores: By task and split.
        run: The run's record, as in `run.json`.
        history: For each metric of an epoch its values, epoch by epoch.
    """

    classifiers: dict[str, TFDistilBertForSequenceClassification]
    tokenizer: DistilBertTokenizer
    output_dir: Path
    scores: dict[str, dict[str, Scores]]
    run: dict[str, Any]
    history: dict[str, list[float]]

    @property
    def model(self) -> TFDistilBertForSequenceClassification:
        """The classifier of a run on one task; of several, that of the first."""
        return next(iter(self.classifiers.values()))

    @property
    def metrics(self) -> dict[str, float]:
        """Loss and metrics on the validation split, of the first task."""
        return next(iter(self.scores.values()))[VALIDATION].values

    def report(self) -> str:
        """Writes the figures as a few lines for people."""
        run, lines = self.run, []
        for task, by_split in self.scores.items():
            before = run["scores_before"][task]
            for split, found in by_split.items():
                shown = ", ".join(
                    f"{name} {value:.4f}"
                    + (f" (before: {before[name]:.4f})" if split == VALIDATION else "")
                    for name, value in found.values.items()
                )
                lines.append(f"{task}, {split}, {found.rows:,} rows: {shown}")
        best = run["best"]
        return "\n".join(
            [
                *lines,
                f"kept: epoch {best['epoch']} of {run['options']['epochs']}, step "
                f"{best['step']:,} of {run['total_steps']:,}",
                f"{format_duration(run['train_time_s'])}, {run['examples_per_s']:.1f} examples/s, "
                f"peak memory {run['peak_memory_mib']:.0f} MiB",
                f"saved in {self.output_dir}",
            ]
        )


def finetune(
    task: str | Task | Sequence[str | Task] = "sst2",
    model: str | Path = "demo",
    data: str | Path = "demo",
    output_dir: str | Path | None = None,
    *,
    overwrite: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **options: Any,
) -> FinetuneResult:
    """Fine-tunes a classifier for each task on one encoder, and keeps the best evaluation's.

    Called again with the same arguments after it was interrupted, in whatever way, the run goes on
    from its last saved state, and ends with the same weights as if nothing had happened.

    Args:
        task: A task or its name; or several of them, which are then trained together.
        model: Checkpoint to start from: directory, hub name or `"demo"`. Of a classifier for the
            task's labels the head is kept.
        data: Directory with the tasks' files, `"hub"` or `"demo"`.
        output_dir: Where the result goes; `runs/<task>` if not given. Of several tasks, each has a
            directory of its own in it. There are the checkpoint and its tokenizer, `run.json`,
            `metrics.json`, learning curves, confusion matrices and a model card; TensorBoard's
            logs; and, until the run ends, its state.
        overwrite: Whether `output_dir` may hold another result already. An interrupted run with
            the same arguments is gone on from all the same.
        callbacks: More Keras callbacks. When a run goes on, they are called for the steps of the
            epoch that were taken before, too, with empty logs.
        **options: See `FinetuneOptions`.

    Returns:
        The tuned classifiers and the figures of the run. Under a multi-worker strategy, all workers
        get it, and the chief writes the files.

    Raises:
        CheckpointError: The checkpoint has a head for other labels, or all states are damaged.
        DataError: A file is not as a task needs it.
        FileExistsError: `output_dir` holds another result and `overwrite` is false.
        FileNotFoundError: No such checkpoint or data.
        InterruptedRunError: SIGTERM or SIGINT came; the state is saved.
        TrainingDivergedError: The gradients became infinite or NaN.
        ValueError: A bad argument, file or checkpoint.
    """
    settings = FinetuneOptions(**options)
    tasks = parse_tasks(task)
    names = [one.name for one in tasks]
    output_dir = default_output_dir(",".join(names)) if output_dir is None else Path(output_dir)
    if output_dir.exists() and output_dir.resolve() == Path(model).expanduser().resolve():
        raise ValueError(
            f"model and output_dir are both {output_dir}: a run that fails would lose the model. "
            "Choose another output_dir."
        )
    if (output_dir / METRICS).exists() and not overwrite:
        raise FileExistsError(
            f"{output_dir} already holds a finished run ({METRICS}). Choose another output_dir, or "
            "pass overwrite=True (--overwrite) to replace it."
        )
    splits = load_splits(tasks, data, settings)
    identity = {
        "tasks": names,
        "model": str(model),
        "options": settings.recipe(),
        "data_files": describe_data(splits),
    }
    restored = find_state(output_dir, identity, settings, overwrite)
    run = prepare(tasks, model, splits, settings)
    chief = is_chief(run.strategy)
    if chief and restored is None:
        replaces = overwrite or has_begun(output_dir, identity, settings)
        clear(output_dir, names, replaces)
    directories = task_directories(output_dir, names)

    counter = StepCounter(run.sampler.steps_per_epoch)
    best = SaveBest(
        directories, run.tokenizer, _scorer(tasks), counter, settings.early_stopping_patience
    )
    curve = LossCurve(counter, settings.epochs)
    saver = SaveState(
        output_dir / CHECKPOINTS,
        counter,
        best,
        curve,
        every=settings.save_steps,
        keep=settings.keep_states,
        run=identity,
        restored=restored,
    )
    if restored is None:
        before = {name: found.values for name, found in run.score(VALIDATION).items()}
    else:
        logging.info("Going on after step %d of %s.", counter.step, output_dir)
        before = restored[1]["run"]["scores_before"]
    saver.run["scores_before"] = before
    for name, values in before.items():
        logging.info("%s before: %s.", name, ", ".join(f"{k} {v:.4f}" for k, v in values.items()))
    record = {
        "status": "running",
        **identity,
        "options": dataclasses.asdict(settings),
        **describe_process(),
        "data": str(data),
        "strategy": type(run.strategy).__name__,
        "replicas": run.strategy.num_replicas_in_sync,
        "dtype": run.model.dtype_policy.name,
        "parameters": run.parameters,
        "steps_per_epoch": counter.steps_per_epoch,
        "total_steps": settings.epochs * counter.steps_per_epoch,
        "scores_before": before,
        "resumed_at_step": counter.step,
        "started_at": _now(),
    }
    if chief:
        write_json(output_dir / RUN, record)
    _fit(run, counter, best, curve, saver, callbacks, output_dir if chief else None)

    scores: dict[str, dict[str, Scores]] = {name: {} for name in names}
    for split in dict.fromkeys(key for found in splits.values() for key in found if key != "train"):
        for name, found in run.score(split).items():
            scores[name][split] = found
    steps = counter.step
    record |= {
        "status": "finished",
        "finished_at": _now(),
        "steps": steps,
        "best": best.best,
        "train_time_s": saver.train_time_s,
        "examples_per_s": steps * settings.batch_size / saver.train_time_s,
        "peak_memory_mib": peak_memory_mib(),
    }
    if chief:
        write_record(
            output_dir,
            directories,
            tasks,
            scores,
            record,
            losses=curve.points,
            evaluations=best.evaluations,
            epochs=saver.epochs,
        )
        shutil.rmtree(output_dir / CHECKPOINTS, ignore_errors=True)
    meet_workers(run.strategy)  # a worker that leaves early takes the others with it
    history = {
        key: [epoch[key] for epoch in saver.epochs if key in epoch]
        for key in dict.fromkeys(key for epoch in saver.epochs for key in epoch)
    }
    return FinetuneResult(run.model.classifiers, run.tokenizer, output_dir, scores, record, history)


def _fit(
    run: PreparedRun,
    counter: StepCounter,
    best: SaveBest,
    curve: LossCurve,
    saver: SaveState,
    callbacks: Sequence[keras.callbacks.Callback],
    log_dir: Path | None,
) -> None:
    settings = run.options
    validation, validation_steps = run.evaluation(VALIDATION)
    first_epoch, first_step = divmod(counter.step, counter.steps_per_epoch)
    own: list[keras.callbacks.Callback] = [counter]
    if log_dir is not None:
        if not sys.stdout.isatty():
            own.append(ProgressLog(counter, settings.batch_size))
        own.append(
            keras.callbacks.TensorBoard(
                log_dir / "tensorboard", write_graph=False, update_freq=50, profile_batch=0
            )
        )
    own.append(curve)
    if settings.eval_steps is not None:

        def evaluate() -> dict[str, float]:
            return run.model.evaluate(
                validation, steps=validation_steps, verbose=0, return_dict=True
            )

        own.append(EvaluateWithin(settings.eval_steps, evaluate, counter, best))
    data = training_batches(
        run.rows,
        run.sampler,
        run.strategy,
        width=run.width,
        first_epoch=first_epoch,
        first_step=first_step,
    )
    with saver.watching_signals():
        try:
            run.model.fit(
                data,
                validation_data=validation,
                validation_steps=validation_steps,
                epochs=first_epoch if best.is_over else settings.epochs,
                initial_epoch=first_epoch,
                steps_per_epoch=counter.steps_per_epoch,
                # The best weights are put back last, whatever another callback does to them.
                callbacks=[*own, *callbacks, best, saver],
                shuffle=False,  # the sampler does
                verbose=0 if log_dir is None else 1 if sys.stdout.isatty() else 2,
            )
        except tf.errors.InvalidArgumentError as error:
            if NOT_FINITE not in str(error):
                raise
            raise TrainingDivergedError(_describe_divergence(run, counter, best)) from error


def _describe_divergence(run: PreparedRun, counter: StepCounter, best: SaveBest) -> str:
    epoch, step = divmod(counter.current - 1, counter.steps_per_epoch)
    rows = run.sampler.batches(epoch)[step]
    starts, named = 0, []
    for task, size in zip(run.tasks, run.sampler.task_sizes, strict=True):
        own = sorted(int(row - starts) for row in rows if starts <= row < starts + size)
        if own:
            named.append(f"rows {', '.join(map(str, own))} of {task.name}'s training examples")
        starts += size
    last = counter.current + run.options.steps_per_execution - 1
    steps = f"step {counter.current}" + (f" to {last}" if last > counter.current else "")
    kept = (
        f"The checkpoint of step {best.best['step']} is kept."
        if best.best
        else "Nothing was saved."
    )
    return (
        f"The gradients of {steps} (epoch {epoch + 1}, batch {step + 1}: {' and '.join(named)}, "
        f"counted from 0) are not finite: the training diverged. Try a lower learning rate. {kept}"
    )


def _scorer(tasks: Sequence[Task]) -> Callable[[Mapping[str, float]], float]:
    """Gives the function that judges an evaluation: the mean of the tasks' main metrics."""
    names = [log_prefix(task.name, len(tasks)) + task.metrics[0] for task in tasks]
    return lambda logs: sum(float(logs[name]) for name in names) / len(names)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
