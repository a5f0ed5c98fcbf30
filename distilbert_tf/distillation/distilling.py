"""Distilling students and training masked LM, from text files to saved checkpoints."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from absl import logging

from distilbert_tf.data.corpus_records import TRAIN
from distilbert_tf.distillation.distiller import STUDENT
from distilbert_tf.distillation.masked_lm_training import needs_head, set_up
from distilbert_tf.distillation.options import (
    CorpusFiles,
    DistillOptions,
    MaskedLMOptions,
    make_options,
)
from distilbert_tf.distillation.report import write_results
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.training.callbacks import format_duration
from distilbert_tf.training.run import end_run, find_state, run_training
from distilbert_tf.training.run_directory import RunDirectory
from distilbert_tf.training.strategy import is_chief


@dataclasses.dataclass(frozen=True)
class DistillResult:
    """The result of `distill` or `train_masked_lm`.

    Attributes:
        model: The model, with the best evaluation's weights.
        tokenizer: Its tokenizer.
        output_dir: Where both are saved.
        metrics: The best evaluation: `masked_lm`, `perplexity`, and, with a teacher,
            `soft_targets`, `cosine` and `agreement`.
        run: The record, as in `run.json`.
        evaluations: All evaluations, in order.
    """

    model: TFDistilBertForMaskedLM
    tokenizer: DistilBertTokenizer
    output_dir: Path
    metrics: dict[str, float]
    run: dict[str, Any]
    evaluations: list[dict[str, Any]]

    def report(self) -> str:
        """Returns the figures as a few lines for people."""
        run, before = self.run, self.run["scores_before"][STUDENT]
        shown = ", ".join(
            f"{name} {value:.4f} (before: {before[name]:.4f})"
            for name, value in self.metrics.items()
        )
        return "\n".join(
            [
                f"held out, {run['corpus']['validation_rows']:,} rows: {shown}",
                f"kept: step {run['best']['step']:,} of {run['total_steps']:,}",
                f"{format_duration(run['train_time_s'])}, {run['tokens_per_s']:,.0f} tokens/s, "
                f"peak memory {run['peak_memory_mib']:.0f} MiB",
                f"saved in {self.output_dir}",
            ]
        )


TEACHER = "teacher"  # the directory of the demo teacher, in that of the run


def distill(
    teacher: str | Path,
    corpus: CorpusFiles,
    output_dir: str | Path,
    *,
    overwrite: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **options: Any,
) -> DistillResult:
    """Distils a student from a teacher, on text without labels.

    Called again with the same arguments after an interruption of any kind, it resumes the run from
    its last saved state, and ends with the same weights as if nothing had happened.

    Args:
        teacher: A masked-LM checkpoint of BERT or DistilBERT: directory or hub name; or `"demo"`,
            the demo encoder, which `train_masked_lm` gives a head first, in `teacher` in
            `output_dir`.
        corpus: Text files (see `read_documents`), the directory of a prepared corpus, or `"demo"`,
            the sentences of the demo data, for which other settings are the default
            (`DEMO_SETTINGS`).
        output_dir: Where the result goes: checkpoint and tokenizer, `run.json`, `metrics.json`,
            learning curves, a model card, TensorBoard's logs and, until the run ends, its state.
        overwrite: Whether `output_dir` may hold another result already.
        callbacks: More Keras callbacks.
        **options: See `DistillOptions`.

    Returns:
        The student and the figures of the run.

    Raises:
        CheckpointError: The teacher has no masked-LM head, but a loss needs it; or all states are
            damaged.
        DataError: A text file cannot be read, or the corpus has changed.
        FileExistsError: `output_dir` holds another result and `overwrite` is false.
        FileNotFoundError: There is no such teacher or corpus.
        InterruptedRunError: SIGTERM or SIGINT came; the state is saved.
        TrainingDivergedError: The gradients became infinite or NaN.
        ValueError: A bad argument.

    Reference:
        Sanh et al., "DistilBERT, a distilled version of BERT" (arXiv 1910.01108).

    Example:
        result = distill("demo", "demo", "OUT")
        result.metrics["agreement"]  # how often the student fills a mask as its teacher does
    """
    settings = make_options(DistillOptions, corpus, options)
    return _run(teacher, corpus, output_dir, settings, overwrite, callbacks)


def train_masked_lm(
    model: str | Path,
    corpus: CorpusFiles,
    output_dir: str | Path,
    *,
    overwrite: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **options: Any,
) -> DistillResult:
    """Continues the pre-training of an encoder on text of one's own; new heads are made if needed.

    Args:
        model: A checkpoint, with or without a masked-LM head: directory, hub name or `"demo"`.
        corpus: See `distill`, as for all other arguments and errors.
        output_dir: Where the result goes.
        overwrite: Whether `output_dir` may hold another result already.
        callbacks: More Keras callbacks.
        **options: See `MaskedLMOptions`.

    Returns:
        The model and the figures of the run.

    Example:
        train_masked_lm("distilbert-base-uncased", "tickets.jsonl", "OUT", max_steps=5000).metrics
    """
    settings = make_options(MaskedLMOptions, corpus, options)
    return _run(model, corpus, output_dir, settings, overwrite, callbacks)


def _run(
    checkpoint: str | Path,
    corpus: CorpusFiles,
    output_dir: str | Path,
    options: MaskedLMOptions,
    overwrite: bool,
    callbacks: Sequence[keras.callbacks.Callback],
) -> DistillResult:
    directory = RunDirectory(Path(output_dir), (STUDENT,))
    directory.check(checkpoint, overwrite=overwrite)
    source = checkpoint
    if needs_head(checkpoint, options):
        source = _train_head(checkpoint, corpus, directory.path, options, overwrite)
    training = set_up(source, corpus, output_dir, options)
    text, strategy = training.train.corpus, training.model.distribute_strategy
    identity = {
        "teacher" if isinstance(options, DistillOptions) else "model": str(checkpoint),
        "options": options.recipe(),
        "data_files": list(text.sources),
    }
    about: dict[str, Any] = {
        "corpus": {
            "directory": str(text.directory),
            "train_rows": text.rows(TRAIN),
            "train_tokens": text.tokens(TRAIN),
            "validation_rows": training.validation.rows,
        }
    }
    if source is not checkpoint:
        about["head_trained_in"] = str(source)
    progress, record = run_training(
        training,
        directory,
        identity,
        find_state(directory, identity, options, overwrite=overwrite),
        overwrite=overwrite,
        about=about,
        callbacks=callbacks,
    )
    record["tokens_per_s"] = record["examples_per_s"] * text.tokens(TRAIN) / text.rows(TRAIN)
    metrics = {name: record["best"][name] for name in ("loss", *training.model.means, "perplexity")}
    if is_chief(strategy):
        write_results(directory, progress, record, metrics)
    end_run(directory, strategy)
    return DistillResult(
        training.model.student,
        training.tokenizer,
        directory.path,
        metrics,
        record,
        progress.evaluations,
    )


def _train_head(
    encoder: str | Path,
    corpus: CorpusFiles,
    output_dir: Path,
    options: MaskedLMOptions,
    overwrite: bool,
) -> Path:
    """Makes a teacher of an encoder, with the settings of its student, unless there is one."""
    directory = output_dir / TEACHER
    corpus_dir = options.corpus_dir or output_dir / "corpus"  # the student's
    shared = {
        field.name: getattr(options, field.name) for field in dataclasses.fields(MaskedLMOptions)
    }
    settings = MaskedLMOptions(**(shared | {"corpus_dir": corpus_dir}))
    found = RunDirectory(directory, (STUDENT,))
    if found.is_finished and not settings.differences(found.read_run().get("options", {})):
        logging.info("Step 1 of 2: the teacher in %s is there already.", directory)
    else:
        logging.info("Step 1 of 2: giving the encoder a masked-LM head, in %s.", directory)
        result = _run(encoder, corpus, directory, settings, overwrite, ())
        logging.info("The teacher:\n%s", result.report())
    logging.info("Step 2 of 2: distilling a student from it, in %s.", output_dir)
    return directory


def plan_distillation(
    checkpoint: str | Path,
    corpus: CorpusFiles,
    output_dir: str | Path,
    options: MaskedLMOptions,
) -> str:
    """Prepares the corpus, makes the models, and says in a few lines what a run would do."""
    training = set_up(checkpoint, corpus, output_dir, options)
    text, steps = training.train.corpus, options.epochs * training.steps_per_epoch
    config, teacher = training.model.student.config, training.model.teacher
    lines = [
        f"corpus: {text.rows(TRAIN):,} rows with {text.tokens(TRAIN):,} tokens in "
        f"{text.directory}; {training.validation.rows:,} rows are held out",
        f"model: {config.n_layers} layers of width {config.dim}, {training.parameters:,} "
        "parameters to train",
        f"steps: {steps:,} of {options.batch_size} rows, "
        f"{steps / training.train.steps_per_epoch:.2f} passes over the corpus",
    ]
    if teacher is not None:
        lines.insert(1, f"teacher: {teacher.config.n_layers} layers of width {teacher.config.dim}")
    if needs_head(checkpoint, options):
        lines[1] += f"; as many steps first give it a head, in {Path(output_dir) / TEACHER}"
    return "\n".join(lines)
