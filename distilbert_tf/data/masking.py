"""Which tokens masked LM asks for, and what stands in their places, drawn anew for every batch.

Shapes: B rows, T tokens in a row, V words.

Reference:
    Devlin et al., "BERT" (arXiv 1810.04805), section 3.1, for the shares; the training script of
    DistilBERT for the exact number in a batch and the choice in favour of rare words.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

NOT_MASKED = -1  # the label of a token that masked LM does not ask for


@dataclasses.dataclass(frozen=True)
class Masking:
    """How tokens are chosen and replaced.

    Attributes:
        mask_id: The id of [MASK].
        special_ids: Ids that are never chosen.
        vocab_size: V.
        probability: The share of a batch's tokens to choose, between 0 and 1.
        mask_share: The share of those that become [MASK].
        random_share: The share of those that become any word; the rest stays as it is.
        word_weights: For each word how readily it is chosen; all alike if None.
        continues_word: For each word whether it continues the one before it, to choose whole words;
            None to choose single tokens.
    """

    mask_id: int
    special_ids: Sequence[int]
    vocab_size: int
    probability: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    word_weights: np.ndarray | None = None
    continues_word: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not 0 < self.probability < 1:
            raise ValueError(
                f"The masking probability is {self.probability}; it must be above 0 and below 1, "
                "such as 0.15: something has to be predicted, from something."
            )
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            raise ValueError(
                f"mask_share is {self.mask_share} and random_share {self.random_share}; neither "
                "may be negative, nor both together above 1."
            )

    def apply(
        self, input_ids: tf.Tensor, attention_mask: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Masks a batch.

        Exactly the share of the batch's tokens that can be chosen, rounded up, is chosen; with
        whole words, the last word may go beyond it.

        Args:
            input_ids: int32 (B, T).
            attention_mask: Integers (B, T), nonzero where a token counts.
            seed: Two integers; the same give the same choice.

        Returns:
            What the model gets, int32 (B, T), and the labels, int32 (B, T): the true id where a
            token was chosen, `NOT_MASKED` elsewhere.
        """
        seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 3))
        is_special = tf.reduce_any(input_ids[..., tf.newaxis] == list(self.special_ids), axis=-1)
        can_be_chosen = (attention_mask != 0) & ~is_special
        chosen = self._choose(input_ids, can_be_chosen, seeds[0])
        fate = tf.random.stateless_uniform(tf.shape(input_ids), seeds[1])
        words = tf.random.stateless_uniform(
            tf.shape(input_ids), seeds[2], maxval=self.vocab_size, dtype=tf.int32
        )
        becomes_mask = chosen & (fate < self.mask_share)
        becomes_word = chosen & ~becomes_mask & (fate < self.mask_share + self.random_share)
        masked = tf.where(becomes_mask, self.mask_id, tf.where(becomes_word, words, input_ids))
        return masked, tf.where(chosen, input_ids, NOT_MASKED)

    def _choose(self, ids: tf.Tensor, candidates: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws without replacement, in proportion to the weights: (B, T) of booleans.

        The largest of log(weight) + Gumbel noise are such a sample (Kool et al., arXiv 1903.06059).
        """
        places = tf.where(tf.reshape(candidates, [-1]))[:, 0]
        words = tf.gather(tf.reshape(ids, [-1]), places)  # (N,)
        count = tf.cast(tf.size(words), tf.float32)
        # Less a little: 15 % of 20 is 3.0000001 in float32, and 3 are meant.
        wanted = tf.cast(tf.math.ceil(self.probability * count - 1e-4), tf.int32)
        if self.continues_word is None:
            units = tf.range(tf.size(words))  # each token is a unit
        else:
            follows = tf.concat([[-1], places[:-1]], 0) == places - 1
            begins = ~(follows & tf.gather(tf.constant(self.continues_word), words))
            units = tf.cumsum(tf.cast(begins, tf.int32)) - 1
            units -= tf.reduce_min(tf.concat([units, [0]], 0))
        sizes = tf.math.bincount(units)
        first = tf.searchsorted(units, tf.range(tf.size(sizes)))
        uniform = tf.random.stateless_uniform([tf.size(sizes)], seed, minval=1e-12)
        scores = -tf.math.log(-tf.math.log(uniform))
        if self.word_weights is not None:
            weights = tf.constant(np.log(self.word_weights), tf.float32)
            scores += tf.gather(weights, tf.gather(words, first))
        order = tf.argsort(scores, direction="DESCENDING")
        before = tf.cumsum(tf.gather(sizes, order), exclusive=True)
        taken = tf.scatter_nd(
            order[:, tf.newaxis], tf.cast(before < wanted, tf.int32), [tf.size(sizes)]
        )
        is_taken = tf.gather(taken, units)  # (N,)
        flat = tf.scatter_nd(places[:, tf.newaxis], is_taken, [tf.size(ids, out_type=tf.int64)])
        return tf.reshape(flat, tf.shape(ids)) == 1


def smoothed_word_weights(counts: np.ndarray, exponent: float = 0.7) -> np.ndarray:
    """Returns weights in favour of rare words.

    Args:
        counts: Integers (V,), how often each word is in the corpus; 0 counts as 1.
        exponent: 0 for no difference; the published recipe has 0.7.

    Returns:
        float64 (V,): counts to the power of minus `exponent`.
    """
    return np.maximum(counts, 1).astype(np.float64) ** -exponent
