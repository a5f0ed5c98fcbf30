"""The losses that a student learns from.

Each function returns a loss for every position, so that the caller says what to average over. All
compute in float32 at least, whatever the dtype of their arguments.

Shapes: N positions (all true tokens of a batch, or the masked ones), V words, D width of a hidden
state.

Reference:
    Sanh et al., "DistilBERT, a distilled version of BERT" (arXiv 1910.01108), and the training
    script published with it; Hinton et al., "Distilling the Knowledge in a Neural Network"
    (arXiv 1503.02531) on soft targets and their temperature.
"""

from typing import NamedTuple

import tensorflow as tf

from distilbert_tf.data.masking import NOT_MASKED
from distilbert_tf.training.soft_targets import log_sum, soft_target_loss, widen

# As PyTorch's cosine_embedding_loss has it, on each squared norm.
_COSINE_EPSILON = 1e-12


def masked_lm_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns the cross-entropy of the true words.

    Args:
        logits: Float (N, V).
        labels: Integers (N,), the true word of each position, or `NOT_MASKED`.

    Returns:
        Float (N,), 0 where the label is `NOT_MASKED`.
    """
    is_masked = labels != NOT_MASKED
    words = tf.where(is_masked, labels, 0)

    # TensorFlow's op for it is several times slower on a CPU than the softmax that it consists of.
    @tf.custom_gradient
    def compute(logits: tf.Tensor) -> tuple[tf.Tensor, object]:
        p = tf.nn.softmax(logits)

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            places = tf.stack([tf.range(tf.size(words)), words], axis=1)
            return tf.tensor_scatter_nd_sub(p * upstream[:, tf.newaxis], places, upstream)

        return log_sum(logits, p) - tf.gather(logits, words, batch_dims=1), gradient

    return tf.where(is_masked, compute(widen(logits)), 0.0)


def logits_mse_loss(student_logits: tf.Tensor, teacher_logits: tf.Tensor) -> tf.Tensor:
    """Returns the squared distance between the logits.

    Args:
        student_logits: Float (N, V).
        teacher_logits: Float (N, V).

    Returns:
        Float (N,), sums over words.
    """
    difference = widen(student_logits) - widen(teacher_logits)
    return tf.reduce_sum(tf.square(difference), axis=-1)


def cosine_loss(student_states: tf.Tensor, teacher_states: tf.Tensor) -> tf.Tensor:
    """Returns 1 minus the cosine of the angle between hidden states.

    Args:
        student_states: Float (N, D).
        teacher_states: Float (N, D).

    Returns:
        Float (N,), between 0 and 2.
    """
    a, b = widen(student_states), widen(teacher_states)
    dot = tf.reduce_sum(a * b, axis=-1)
    squared_norms = [tf.reduce_sum(tf.square(x), axis=-1) + _COSINE_EPSILON for x in (a, b)]
    return 1.0 - dot * tf.math.rsqrt(squared_norms[0] * squared_norms[1])


class LossWeights(NamedTuple):
    """How much each loss counts; one of weight 0 is not computed.

    Attributes:
        soft_targets: Weight of `soft_target_loss`.
        masked_lm: Weight of `masked_lm_loss`.
        cosine: Weight of `cosine_loss`.
        logits_mse: Weight of `logits_mse_loss`.

    The defaults are the published ones.
    """

    soft_targets: float = 5.0
    masked_lm: float = 2.0
    cosine: float = 1.0
    logits_mse: float = 0.0

    @property
    def needs_teacher_logits(self) -> bool:
        """Whether the teacher has to score words."""
        return self.soft_targets != 0 or self.logits_mse != 0


class WordScorer(NamedTuple):
    """The last product of a masked-LM model: logits are `states @ kernel.T + bias`.

    Attributes:
        states: Float (N, D), what goes into it.
        kernel: Float (V, D).
        bias: Float (V,).
    """

    states: tf.Tensor
    kernel: tf.Tensor
    bias: tf.Tensor

    def score(self) -> tf.Tensor:
        """Returns the logits, float32 (N, V); states and kernel must have one dtype."""
        return widen(tf.matmul(self.states, self.kernel, transpose_b=True)) + widen(self.bias)

    def cast_kernel(self) -> "WordScorer":
        """Returns the same with a kernel of the states' dtype."""
        return self._replace(kernel=tf.cast(self.kernel, self.states.dtype))


class VocabularyLosses(NamedTuple):
    """What the words' scores come to: sums over positions, float32 ().

    Attributes:
        soft_targets: Of `soft_target_loss`.
        masked_lm: Of `masked_lm_loss`.
        logits_mse: Of `logits_mse_loss`.
        agreements: At how many masked positions both score the same word highest.
    """

    soft_targets: tf.Tensor
    masked_lm: tf.Tensor
    logits_mse: tf.Tensor
    agreements: tf.Tensor


def vocabulary_losses(
    student: WordScorer,
    teacher: WordScorer | None,
    labels: tf.Tensor,
    counts: tf.Tensor,
    weights: LossWeights,
    *,
    temperature: float = 2.0,
    soft_target_scale: tf.Tensor | float = 1.0,
    masked_lm_scale: tf.Tensor | float = 1.0,
    chunk_size: int = 1024,
    with_gradients: bool = True,
) -> tuple[tf.Tensor, VocabularyLosses]:
    """Computes the losses on words without ever having all logits in memory.

    Positions are taken in chunks, and the gradients of each are computed with it, so at most
    `chunk_size` rows of logits are there at a time, of either side.

    Args:
        student: The student's states and word scores.
        teacher: The teacher's; None if no loss needs them.
        labels: Integers (N,), see `masked_lm_loss`.
        counts: Float or bool (N,): which positions soft targets are taken at.
        weights: What each loss counts.
        temperature: See `soft_target_loss`.
        soft_target_scale: Multiplies the sums over positions of the losses that need the teacher,
            such as 1 / their number in the whole batch.
        masked_lm_scale: Multiplies the sum of the masked-LM loss.
        chunk_size: Positions at a time, at most.
        with_gradients: False in an evaluation: no gradients are computed, but soft targets and
            masked LM whatever their weight.

    Returns:
        The weighted and scaled total, float32 (), through which gradients flow into all of
        `student`; and the sums, which have none.
    """
    if with_gradients and not (weights.masked_lm or weights.needs_teacher_logits):
        return tf.zeros([]), VocabularyLosses(*[tf.zeros([])] * 4)
    labels, counts = tf.convert_to_tensor(labels, tf.int32), tf.cast(counts, tf.float32)
    size = tf.shape(student.states)[0]
    chunks = tf.maximum((size + chunk_size - 1) // chunk_size, 1)
    # Of even size: what fills the last one up costs as much as words do.
    chunk_rows = (size + chunks - 1) // chunks
    missing = chunks * chunk_rows - size

    def cut(rows: tf.Tensor, fill: int = 0) -> tf.Tensor:
        """Cuts (N, ...) into (chunks, chunk_rows, ...)."""
        paddings = [[0, missing], *[[0, 0]] * (rows.shape.rank - 1)]
        padded = tf.pad(rows, paddings, constant_values=fill)
        return tf.reshape(padded, [chunks, chunk_rows, *rows.shape[1:]])

    all_labels, all_counts = cut(labels, NOT_MASKED), cut(counts)
    teacher_states = None if teacher is None else cut(teacher.states)
    teacher = None if teacher is None else teacher.cast_kernel()

    def losses_of(i: tf.Tensor, own: WordScorer) -> tuple[tf.Tensor, VocabularyLosses]:
        logits = own.score()
        zero = tf.zeros([])
        soft = mse = agreements = zero
        if teacher is not None and teacher_states is not None:
            targets = teacher._replace(states=teacher_states[i]).score()
            if weights.soft_targets or not with_gradients:
                soft = soft_target_loss(logits, targets, temperature)
                soft = tf.reduce_sum(soft * all_counts[i])
            if weights.logits_mse:
                mse = tf.reduce_sum(logits_mse_loss(logits, targets) * all_counts[i])
            same = tf.argmax(logits, -1) == tf.argmax(targets, -1)
            agreements = tf.math.count_nonzero(
                same & (all_labels[i] != NOT_MASKED), dtype=tf.float32
            )
        masked = zero
        if weights.masked_lm or not with_gradients:
            masked = tf.reduce_sum(masked_lm_loss(logits, all_labels[i]))
        total = weights.soft_targets * soft + weights.logits_mse * mse
        total = soft_target_scale * total + masked_lm_scale * weights.masked_lm * masked
        return total, VocabularyLosses(soft, masked, mse, agreements)

    if not with_gradients:

        def add_losses(i: tf.Tensor, *sums: tf.Tensor) -> tuple:
            total, losses = losses_of(i, cast_student._replace(states=student_states[i]))
            added = zip(sums, (total, *losses), strict=True)
            return (i + 1, *[a + b for a, b in added])

        student_states, cast_student = cut(student.states), student.cast_kernel()
        start = (tf.constant(0), *[tf.zeros([])] * 5)
        _, total, *sums = tf.while_loop(lambda i, *_: i < chunks, add_losses, start)
        return total, VocabularyLosses(*sums)

    @tf.custom_gradient
    def compute(states: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tuple:
        student_states = cut(states)
        cast_kernel = tf.cast(kernel, states.dtype)

        def add(i: tf.Tensor, gradients: tf.TensorArray, *sums: tf.Tensor) -> tuple:
            own = WordScorer(student_states[i], cast_kernel, bias)
            with tf.GradientTape() as tape:
                tape.watch(list(own))
                total, losses = losses_of(i, own)
            d_states, d_kernel, d_bias = tape.gradient(total, list(own))
            d_kernel = tf.cast(d_kernel, kernel.dtype)
            added = zip(sums, (total, *losses, d_kernel, d_bias), strict=True)
            return (i + 1, gradients.write(i, d_states), *[a + b for a, b in added])

        start = (
            tf.constant(0),
            tf.TensorArray(
                states.dtype,
                chunks,
                element_shape=[tf.get_static_value(chunk_rows), states.shape[-1]],
            ),
            *[tf.zeros([])] * 5,
            tf.zeros_like(kernel),
            tf.zeros_like(bias),
        )
        _, d_states, *sums, d_kernel, d_bias = tf.while_loop(lambda i, *_: i < chunks, add, start)
        gradients = (tf.reshape(d_states.stack(), [-1, states.shape[-1]])[:size], d_kernel, d_bias)

        def multiply(upstream: tf.Tensor, *_: tf.Tensor) -> list[tf.Tensor]:
            return [tf.cast(upstream, gradient.dtype) * gradient for gradient in gradients]

        return tuple(sums), multiply

    total, *sums = compute(*student)
    return total, VocabularyLosses(*map(tf.stop_gradient, sums))
