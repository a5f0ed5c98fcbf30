"""The trainer of a student.

Shapes: B rows of a batch (of one replica), T tokens in a row, N tokens of all rows, D width of the
student, E width of the teacher.
"""

from typing import Any, Literal

import keras
import tensorflow as tf

from distilbert_tf.data.masking import NOT_MASKED
from distilbert_tf.distillation.batches import BATCH_MASKED, BATCH_TOKENS, LABELS
from distilbert_tf.distillation.losses import (
    LossWeights,
    VocabularyLosses,
    WordScorer,
    cosine_loss,
    vocabulary_losses,
)
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.models.pretrained import PreTrainedModel
from distilbert_tf.training.trainer_model import Tensors, TrainerModel

SoftTargetsAt = Literal["all", "masked"]

STUDENT = "student"


class Perplexity(keras.metrics.Mean):
    """The exponential of the mean of what it is given."""

    def result(self) -> tf.Tensor:
        """Returns exp(mean)."""
        return tf.exp(super().result())


class Distiller(TrainerModel):
    """Trains a student to fill masks, as the text has it and as a teacher would.

    Without a teacher it is masked-LM training. Batches come from `CorpusBatches`. Losses are means
    over the positions of a whole batch, however many replicas share it.

    Args:
        student: What is trained.
        teacher: What it learns from, frozen and without dropout; of any depth and width.
        weights: What each loss counts.
        temperature: See `soft_target_loss`.
        soft_targets_at: Whether the teacher is asked about all true tokens, as published, or about
            the masked ones, which are six times fewer.
        chunk_size: How many positions have their words scored at a time.

    Raises:
        ValueError: A loss needs a teacher and there is none; student and teacher have different
            vocabularies; or all weights are 0.

    Example:
        from distilbert_tf.distillation.student import make_student

        config = DistilBertConfig(vocab_size=100, n_layers=4, dim=32, n_heads=2, hidden_dim=64)
        teacher = TFDistilBertForMaskedLM(config)
        distiller = Distiller(make_student(teacher), teacher)
        distiller.compile(create_optimizer(5e-4, total_steps=1000))
        # distiller.fit(batches.training(strategy), steps_per_epoch=1000), of `CorpusBatches`
    """

    def __init__(
        self,
        student: TFDistilBertForMaskedLM,
        teacher: TFDistilBertForMaskedLM | None = None,
        weights: LossWeights | None = None,
        *,
        temperature: float = 2.0,
        soft_targets_at: SoftTargetsAt = "masked",
        chunk_size: int = 1024,
    ) -> None:
        super().__init__(dtype=student.dtype_policy)
        if weights is None:
            weights = LossWeights() if teacher is not None else LossWeights(0.0, 1.0, 0.0)
        _check(student, teacher, weights)
        self.student, self.teacher, self.loss_weights = student, teacher, weights
        self.temperature, self.chunk_size = temperature, chunk_size
        self.scores_masked_only = soft_targets_at == "masked" or not weights.needs_teacher_logits
        self.projection: keras.layers.Dense | None = None
        names = ["masked_lm"]
        if teacher is not None:
            teacher.trainable = False
            names += ["agreement", *("logits_mse",) * bool(weights.logits_mse), "soft_targets"]
            if student.config.dim == teacher.config.dim:
                names.append("cosine")
            elif weights.cosine:
                names.append("cosine")
                # The student is saved without it.
                self.projection = keras.layers.Dense(
                    teacher.config.dim, name="projection", dtype=student.dtype_policy
                )
                self.projection.build((None, student.config.dim))
        self.means = {name: keras.metrics.Mean(name) for name in names}
        self.perplexity = Perplexity("perplexity")

    def pretrained_models(self) -> dict[str, PreTrainedModel]:
        """Returns the student alone."""
        return {STUDENT: self.student}

    def variable_groups(self) -> dict[str, list[keras.Variable]]:
        """Lists all that a training changes: the projection as well."""
        groups = super().variable_groups()
        if self.projection is not None:
            groups["projection"] = self.projection.variables
        return groups

    def compute_losses(
        self, inputs: Tensors, targets: Tensors, training: bool
    ) -> tuple[tf.Tensor, Any]:
        """Computes the losses of a batch; every row gets an equal share of their sum.

        An evaluation computes those of weight 0 as well, where there is a teacher.
        """
        parts = 1
        if training:  # what the trainer takes the mean of
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            parts = replicas * self.gradient_accumulation_steps
        scales = [
            tf.math.divide_no_nan(float(parts), targets[name][0])
            for name in (BATCH_MASKED, BATCH_TOKENS)
        ]
        is_token = tf.reshape(inputs["attention_mask"], [-1]) != 0
        labels = tf.reshape(targets[LABELS], [-1])
        own = self._encode(self.student, inputs, training)
        theirs = None
        if self.teacher is not None and (
            not training or self.loss_weights.cosine or self.loss_weights.needs_teacher_logits
        ):
            theirs = tf.stop_gradient(self._encode(self.teacher, inputs, training=False))
        total, sums = self._score_words(own, theirs, labels, is_token, scales, training)
        cosine = tf.zeros([])
        if (
            theirs is not None
            and "cosine" in self.means
            and (self.loss_weights.cosine or not training)
        ):
            cosine = self._compare_states(own, theirs, is_token)
            total += self.loss_weights.cosine * cosine * scales[1]
        masked, tokens = (
            tf.math.count_nonzero(kept, dtype=tf.float32)
            for kept in (labels != NOT_MASKED, is_token)
        )
        return tf.fill(tf.shape(targets[BATCH_TOKENS]), total), (sums, cosine, masked, tokens)

    def _encode(self, model: TFDistilBertForMaskedLM, inputs: Tensors, training: bool) -> tf.Tensor:
        """Returns the last hidden states of all positions: (B * T, width of the model)."""
        encoded = model.distilbert(
            inputs,
            training=training,
            output_hidden_states=False,
            output_attentions=False,
            skip_padding=self.skip_padding,
        )
        return tf.reshape(encoded.last_hidden_state, [-1, model.config.dim])

    def _select(self, kept: tf.Tensor, *tensors: tf.Tensor) -> list[tf.Tensor]:
        """Returns the positions that are kept; all, where shapes must not depend on the batch."""
        if not self.skip_padding:
            return list(tensors)
        places = tf.where(kept)[:, 0]
        return [tf.gather(tensor, places) for tensor in tensors]

    def _score_words(
        self,
        own: tf.Tensor,
        theirs: tf.Tensor | None,
        labels: tf.Tensor,
        is_token: tf.Tensor,
        scales: list[tf.Tensor],
        training: bool,
    ) -> tuple[tf.Tensor, VocabularyLosses]:
        """Computes the losses on words at all tokens, or at the masked ones."""
        kept = labels != NOT_MASKED if self.scores_masked_only else is_token
        own, labels, counts = self._select(kept, own, labels, kept)
        student = WordScorer(self.student.transform_states(own), *self.student.word_weights())
        teacher = None
        if (
            self.teacher is not None
            and theirs is not None
            and (self.loss_weights.needs_teacher_logits or not training)
        ):
            (theirs,) = self._select(kept, theirs)
            states = self.teacher.transform_states(theirs)
            teacher = WordScorer(states, *self.teacher.word_weights())
        return vocabulary_losses(
            student,
            teacher,
            labels,
            counts,
            self.loss_weights,
            temperature=self.temperature,
            soft_target_scale=scales[0 if self.scores_masked_only else 1],
            masked_lm_scale=scales[0],
            chunk_size=self.chunk_size,
            with_gradients=training,
        )

    def _compare_states(self, own: tf.Tensor, theirs: tf.Tensor, is_token: tf.Tensor) -> tf.Tensor:
        """Computes the cosine loss at all tokens, and returns their sum."""
        own, theirs, counts = self._select(is_token, own, theirs, is_token)
        if self.projection is not None:
            own = self.projection(own)
        return tf.reduce_sum(tf.where(counts, cosine_loss(own, theirs), 0.0))

    def update_metrics(
        self, targets: Tensors, losses: tf.Tensor, outputs: Any, weights: tf.Tensor
    ) -> None:
        """Adds a batch to the means over positions, and to the perplexity."""
        sums, cosine, masked, tokens = outputs
        scored = masked if self.scores_masked_only else tokens
        found = {
            "masked_lm": (sums.masked_lm, masked),
            "soft_targets": (sums.soft_targets, scored),
            "logits_mse": (sums.logits_mse, scored),
            "agreement": (sums.agreements, masked),
            "cosine": (cosine, tokens),
        }
        for name, metric in self.means.items():
            total, count = found[name]
            metric.update_state(tf.math.divide_no_nan(total, count), sample_weight=count)
        self.perplexity.update_state(
            tf.math.divide_no_nan(sums.masked_lm, masked), sample_weight=masked
        )

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns the running metrics; the loss is made of the means of its parts.

        Their numbers of positions differ, so that a mean of the losses of batches, or of the parts
        of one, would be another for each division.
        """
        logs = super().get_metrics_result()
        weights = self.loss_weights._asdict()
        logs["loss"] = sum(weights[name] * logs[name] for name in weights if name in self.means)
        return logs


def _check(
    student: TFDistilBertForMaskedLM,
    teacher: TFDistilBertForMaskedLM | None,
    weights: LossWeights,
) -> None:
    if min(weights) < 0 or not any(weights):
        raise ValueError(
            f"The weights of the losses are {weights}: one must be above 0, none below."
        )
    needed = [name for name in ("soft_targets", "cosine", "logits_mse") if getattr(weights, name)]
    if teacher is None and needed:
        raise ValueError(
            f"The loss {needed[0]} has weight {getattr(weights, needed[0])} and needs a teacher: "
            "give one, or set the weight to 0."
        )
    if teacher is not None and student.config.vocab_size != teacher.config.vocab_size:
        raise ValueError(
            f"The student has a vocabulary of {student.config.vocab_size:,} words, the teacher of "
            f"{teacher.config.vocab_size:,}: they must have the same one."
        )
