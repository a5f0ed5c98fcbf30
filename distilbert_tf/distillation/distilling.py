"""Distilling students and training masked LM, from text files to saved checkpoints."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
from absl import logging

from distilbert_tf.checkpoints.config import load_config
from distilbert_tf.checkpoints.hub import DEMO, find_checkpoint
from distilbert_tf.data.corpus_records import (
    MANIFEST,
    TRAIN,
    VALIDATION,
    Corpus,
    CorpusSettings,
    DocumentTokenizer,
    open_corpus,
    prepare_corpus,
)
from distilbert_tf.data.demo_corpus import write_demo_corpus
from distilbert_tf.data.masking import Masking, smoothed_word_weights
from distilbert_tf.distillation.batches import CorpusBatches, count_words
from distilbert_tf.distillation.distiller import STUDENT, Distiller
from distilbert_tf.distillation.losses import LossWeights
from distilbert_tf.distillation.options import DEMO_SETTINGS, DistillOptions, MaskedLMOptions
from distilbert_tf.distillation.report import write_results
from distilbert_tf.distillation.student import make_student
from distilbert_tf.models.heads import TFDistilBertForMaskedLM
from distilbert_tf.models.weight_names import MissingHeadError
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.training.callbacks import format_duration
from distilbert_tf.training.interruption import meet_workers
from distilbert_tf.training.run import (
    Training,
    compile_trainer,
    end_run,
    find_state,
    run_training,
    start_training,
)
from distilbert_tf.training.run_directory import RunDirectory
from distilbert_tf.training.strategy import is_chief


@dataclasses.dataclass
class MaskedLMTraining(Training):
    """A student or a masked-LM model, ready to be trained.

    Attributes:
        train: What it is trained on.
        validation: What it is evaluated on.
    """

    options: MaskedLMOptions
    model: Distiller
    train: CorpusBatches
    validation: CorpusBatches

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch: all, if the run has a number of steps."""
        return self.options.max_steps or self.train.steps_per_epoch

    def training_batches(self, first_epoch: int = 0, first_step: int = 0) -> Any:
        """Makes the endless stream of batches from a step on."""
        taken = first_epoch * self.steps_per_epoch + first_step
        epoch, step = divmod(taken, self.train.steps_per_epoch)
        batches = dataclasses.replace(self.train, width=self.width)
        return batches.training(self.model.distribute_strategy, epoch, step)

    def validation_batches(self) -> tuple[Any, int]:
        """Makes the batches of an evaluation; returns them and their number."""
        batches = dataclasses.replace(self.validation, width=self.width)
        return batches.evaluation(self.model.distribute_strategy)

    def score(self, logs: Mapping[str, float]) -> float:
        """Returns the negative masked-LM loss."""
        return -float(logs["masked_lm"])

    def scores_before(self) -> dict[str, dict[str, float]]:
        """Evaluates the student as it is made."""
        return {STUDENT: self.evaluate()}

    def evaluate(self) -> dict[str, float]:
        """Evaluates the student on the rows held out."""
        batches, steps = self.validation_batches()
        logs = self.model.evaluate(batches, steps=steps, verbose=0, return_dict=True)
        return {name: float(value) for name, value in logs.items()}


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


CorpusFiles = str | Path | Sequence[str | Path]
Options = TypeVar("Options", bound=MaskedLMOptions)

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


def make_options(kind: type[Options], corpus: CorpusFiles, settings: Mapping[str, Any]) -> Options:
    """Makes the settings of a run; the demo corpus has defaults of its own."""
    return kind(**{**(DEMO_SETTINGS if _is_demo(corpus) else {}), **settings})


def _is_demo(corpus: CorpusFiles) -> bool:
    return corpus == DEMO or (not isinstance(corpus, str | Path) and list(corpus) == [DEMO])


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
    if _needs_head(checkpoint, options):
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


def _needs_head(checkpoint: str | Path, options: MaskedLMOptions) -> bool:
    """Whether it is the demo encoder that a student is to learn words from."""
    return (
        str(checkpoint) == DEMO
        and isinstance(options, DistillOptions)
        and _loss_weights(options).needs_teacher_logits
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


def load_tokenizer(checkpoint: str | Path, options: MaskedLMOptions) -> DistilBertTokenizer:
    """Loads the tokenizer of a checkpoint that has enough positions for the rows to come.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: There are too few positions.
    """
    config, _ = load_config(find_checkpoint(checkpoint).config)
    if options.max_length > config.max_position_embeddings:
        raise ValueError(
            f"max_length is {options.max_length}, but {checkpoint} has "
            f"{config.max_position_embeddings} positions."
        )
    return DistilBertTokenizer.from_pretrained(checkpoint)


def find_corpus(
    files: CorpusFiles,
    tokenizer: DistilBertTokenizer,
    options: MaskedLMOptions,
    output_dir: str | Path,
) -> Corpus:
    """Opens a prepared corpus, or prepares one from text files.

    Raises:
        DataError: See `prepare_corpus`.
        ValueError: A prepared corpus is of another tokenizer or of other lengths.
    """
    settings = CorpusSettings(options.max_length, options.validation_share, options.text_column)
    directory = Path(options.corpus_dir or Path(output_dir) / "corpus")
    if _is_demo(files):
        files = directory.parent / "demo.txt"
        write_demo_corpus(files)
    if isinstance(files, str | Path):
        files = [files]
    if len(files) == 1 and (Path(files[0]) / MANIFEST).is_file():
        corpus = open_corpus(files[0])
        ours = DocumentTokenizer(tokenizer, options.max_length).digest()
        if corpus.tokenizer != ours:
            raise ValueError(f"The corpus in {files[0]} was prepared with another tokenizer.")
        if corpus.settings.max_length != options.max_length:
            raise ValueError(
                f"The corpus in {files[0]} has rows of up to {corpus.settings.max_length} tokens; "
                f"max_length is {options.max_length}."
            )
        return corpus
    return prepare_corpus(
        files, directory, tokenizer, settings, num_processes=options.num_processes
    )


def set_up(
    checkpoint: str | Path,
    files: CorpusFiles,
    output_dir: str | Path,
    options: MaskedLMOptions,
) -> MaskedLMTraining:
    """Prepares the corpus, and makes strategy, models and optimizer.

    Args:
        checkpoint: The teacher, or the model to train on.
        files: The text, see `distill`.
        output_dir: The run's directory.
        options: The settings; `DistillOptions` for a student.

    Raises:
        CheckpointError: The teacher has no masked-LM head, but a loss needs it.
        DataError: See `prepare_corpus`.
        FileNotFoundError: There is no such checkpoint or corpus.
        ValueError: There are too few rows, or a setting does not fit.
    """
    tokenizer = load_tokenizer(checkpoint, options)
    strategy = start_training(options)
    if not is_chief(strategy):
        meet_workers(strategy)  # the chief prepares the corpus, and the others open it
    corpus = find_corpus(files, tokenizer, options, output_dir)
    if is_chief(strategy):
        meet_workers(strategy)
    with strategy.scope():
        trainer = _make_trainer(checkpoint, options)
    masking = _make_masking(tokenizer, corpus, trainer.student.config.vocab_size, options)
    train, validation = (
        CorpusBatches(corpus, split, masking, options.batch_size, options.seed, max_rows=max_rows)
        for split, max_rows in ((TRAIN, None), (VALIDATION, options.max_validation_rows))
    )
    if not train.steps_per_epoch:
        raise ValueError(
            f"The {train.rows} rows of the corpus do not fill one batch of {options.batch_size}: "
            "choose a smaller batch_size."
        )
    if not validation.rows:
        raise ValueError(
            f"No document of the corpus in {corpus.directory} is held out, so nothing tells which "
            "checkpoint is best: prepare it with a validation_share above 0, such as 0.01."
        )
    training = MaskedLMTraining(options, tokenizer, trainer, train, validation)
    compile_trainer(trainer, options, training.steps_per_epoch)
    return training


def _make_trainer(checkpoint: str | Path, options: MaskedLMOptions) -> Distiller:
    if not isinstance(options, DistillOptions):
        return Distiller(_load(checkpoint, options))
    weights = _loss_weights(options)
    # The demo encoder itself is loaded here for a plan alone; a run gives it a head first.
    new_head = not weights.needs_teacher_logits or _needs_head(checkpoint, options)
    try:
        teacher = _load(checkpoint, options, new_head=new_head)
    except MissingHeadError as error:
        raise MissingHeadError(
            f"{error} Soft targets need a teacher with a masked-LM head: give it one first "
            f"(`distilbert-tf pretrain-mlm --model={checkpoint}`), or set soft_targets_weight=0."
        ) from error
    try:
        layers = [int(layer) for layer in options.student_layers.split(",") if layer.strip()]
    except ValueError as error:
        raise ValueError(
            f"student_layers is {options.student_layers!r}; it must be numbers with commas, such "
            "as '0,2,4'."
        ) from error
    student = make_student(
        teacher,
        layers or None,
        random_weights=options.random_student,
        dtype=options.dtype,
    )
    # Frozen weights are cast once, and not in each step; after the student has been made of them.
    dtype = options.teacher_dtype or options.dtype.removeprefix("mixed_")
    if dtype != options.dtype:
        teacher = make_student(teacher, range(teacher.config.n_layers), dtype=dtype)
    return Distiller(
        student,
        teacher,
        weights,
        temperature=options.temperature,
        soft_targets_at=options.soft_targets_at,  # type: ignore[arg-type]
    )


def _loss_weights(options: DistillOptions) -> LossWeights:
    return LossWeights(
        options.soft_targets_weight,
        options.masked_lm_weight,
        options.cosine_weight,
        options.logits_mse_weight,
    )


def _load(
    checkpoint: str | Path, options: MaskedLMOptions, *, new_head: bool = True
) -> TFDistilBertForMaskedLM:
    """Loads a masked-LM model; one without a head gets a new one, if that will do."""
    try:
        return TFDistilBertForMaskedLM.from_pretrained(checkpoint, dtype=options.dtype)
    except MissingHeadError:
        if not new_head:
            raise
        return TFDistilBertForMaskedLM.from_pretrained(
            checkpoint, dtype=options.dtype, fresh_head=True
        )


def _make_masking(
    tokenizer: DistilBertTokenizer, corpus: Corpus, vocab_size: int, options: MaskedLMOptions
) -> Masking:
    continues = None
    if options.whole_words:
        words = tokenizer.convert_ids_to_tokens(list(range(vocab_size)))
        continues = np.array([word is not None and word.startswith("##") for word in words])
    weights = None
    if options.word_smoothing:
        weights = smoothed_word_weights(count_words(corpus, vocab_size), options.word_smoothing)
    return Masking(
        tokenizer.mask_token_id,
        tokenizer.all_special_ids,
        vocab_size,
        options.mask_probability,
        word_weights=weights,
        continues_word=continues,
    )


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
    if _needs_head(checkpoint, options):
        lines[1] += f"; as many steps first give it a head, in {Path(output_dir) / TEACHER}"
    return "\n".join(lines)
