"""Masked-LM trainings made ready: corpus, strategy, models, masks and optimizer."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

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
)
from distilbert_tf.data.corpus_writer import prepare_corpus
from distilbert_tf.data.demo_corpus import write_demo_corpus
from distilbert_tf.data.masking import Masking, smoothed_word_weights
from distilbert_tf.distillation.batches import CorpusBatches, count_words
from distilbert_tf.distillation.distiller import STUDENT, Distiller
from distilbert_tf.distillation.losses import LossWeights
from distilbert_tf.distillation.options import (
    CorpusFiles,
    DistillOptions,
    MaskedLMOptions,
    is_demo,
)
from distilbert_tf.distillation.student import make_student
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.models.weight_names import MissingHeadError
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.training.interruption import meet_workers
from distilbert_tf.training.run import Training, compile_trainer, start_training
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
    if is_demo(files):
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
    new_head = not weights.needs_teacher_logits or needs_head(checkpoint, options)
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


def needs_head(checkpoint: str | Path, options: MaskedLMOptions) -> bool:
    """Whether it is the demo encoder that a student is to learn words from."""
    return (
        str(checkpoint) == DEMO
        and isinstance(options, DistillOptions)
        and _loss_weights(options).needs_teacher_logits
    )
