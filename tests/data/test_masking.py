"""Masked LM's choice of tokens: its numbers, its shares, and what it never touches."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import tensorflow as tf

from distilbert_tf.data.masking import NOT_MASKED, Masking, smoothed_word_weights

PAD, CLS, SEP, MASK, VOCAB = 0, 1, 2, 3, 40
SPECIAL = (PAD, CLS, SEP, MASK)
ROWS, WIDTH = 64, 50


def make_batch(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    lengths = random.integers(3, WIDTH + 1, ROWS)
    mask = (np.arange(WIDTH) < lengths[:, None]).astype(np.int32)
    ids = random.integers(4, VOCAB, (ROWS, WIDTH)).astype(np.int32)
    ids[:, 0] = CLS
    ids[np.arange(ROWS), lengths - 1] = SEP
    return np.where(mask == 1, ids, PAD), mask


def draws(masking: Masking, seeds: Iterable[int]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields ids, mask, inputs and labels for each seed."""
    ids, mask = make_batch()
    apply = tf.function(masking.apply)
    for seed in seeds:
        inputs, labels = apply(ids, mask, tf.constant([7, seed]))
        yield ids, mask, inputs.numpy(), labels.numpy()


def draw(masking: Masking, seed: int = 0) -> tuple[np.ndarray, ...]:
    return next(draws(masking, [seed]))


def test_exactly_the_share_of_ordinary_tokens_is_chosen_and_labelled() -> None:
    for probability in (0.01, 0.15, 0.5, 0.999):
        ids, mask, inputs, labels = draw(Masking(MASK, SPECIAL, VOCAB, probability))
        chosen = labels != NOT_MASKED
        ordinary = (mask == 1) & ~np.isin(ids, SPECIAL)
        assert chosen.sum() == math.ceil(probability * ordinary.sum())
        assert not (chosen & ~ordinary).any()
        np.testing.assert_array_equal(labels[chosen], ids[chosen])
        np.testing.assert_array_equal(inputs[~chosen], ids[~chosen])


def test_eight_in_ten_become_the_mask_and_one_any_word() -> None:
    """Over 200 batches; bounds of five standard deviations of a binomial."""
    counts = np.zeros(3)
    for ids, _, inputs, labels in draws(Masking(MASK, SPECIAL, VOCAB), range(200)):
        chosen = labels != NOT_MASKED
        is_mask, is_same = inputs[chosen] == MASK, inputs[chosen] == ids[chosen]
        counts += [is_mask.sum(), is_same.sum(), (~is_mask & ~is_same).sum()]
    total = counts.sum()
    # A random word is [MASK] or the same one time in VOCAB each.
    expected = np.array([0.8 + 0.1 / VOCAB, 0.1 + 0.1 / VOCAB, 0.1 - 0.2 / VOCAB])
    deviation = np.sqrt(expected * (1 - expected) / total)
    assert (np.abs(counts / total - expected) < 5 * deviation).all()


def test_every_place_and_word_is_chosen_alike() -> None:
    ids, mask = make_batch()
    ordinary = (mask == 1) & ~np.isin(ids, SPECIAL)
    times = np.zeros(ids.shape)
    for *_, labels in draws(Masking(MASK, SPECIAL, VOCAB), range(400)):
        times += labels != NOT_MASKED
    share = math.ceil(0.15 * ordinary.sum()) / ordinary.sum()
    deviation = math.sqrt(share * (1 - share) / 400)
    assert (np.abs(times / 400 - share)[ordinary] < 6 * deviation).all()


def test_the_seed_decides() -> None:
    first, second, other = (draw(Masking(MASK, SPECIAL, VOCAB), seed) for seed in (3, 3, 4))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first[3] != other[3]).any()


def test_rare_words_are_preferred_as_their_weights_say() -> None:
    """One word of a hundred is drawn, so its chance is its weight's share."""
    counts = np.full(VOCAB, 100)
    counts[4:8] = (1, 16, 81, 10_000)
    weights = smoothed_word_weights(counts, 0.5)
    np.testing.assert_allclose(weights[3:8], [0.1, 1, 0.25, 1 / 9, 0.01], rtol=1e-12)
    ids = np.tile(np.array([4, 5, 6, 7], np.int32), (25, 1))
    masking = Masking(MASK, SPECIAL, VOCAB, 0.01, word_weights=weights)
    apply = tf.function(masking.apply)
    drawn = np.zeros(VOCAB)
    for seed in range(2000):
        labels = apply(ids, np.ones_like(ids), tf.constant([1, seed]))[1].numpy()
        drawn += np.bincount(labels[labels != NOT_MASKED], minlength=VOCAB)
    expected = weights[4:8] / weights[4:8].sum()
    deviation = np.sqrt(expected * (1 - expected) / 2000)
    assert drawn.sum() == 2000
    assert (np.abs(drawn[4:8] / 2000 - expected) < 5 * deviation).all()


def test_whole_words_are_chosen_whole() -> None:
    continues = np.arange(VOCAB) % 3 == 0
    ids, mask, _, labels = draw(Masking(MASK, SPECIAL, VOCAB, continues_word=continues), seed=1)
    chosen = labels != NOT_MASKED
    ordinary = (mask == 1) & ~np.isin(ids, SPECIAL)
    for row in range(ROWS):
        for i in range(1, WIDTH):
            if ordinary[row, i] and ordinary[row, i - 1] and continues[ids[row, i]]:
                assert chosen[row, i] == chosen[row, i - 1]
    wanted = math.ceil(0.15 * ordinary.sum())
    assert wanted <= chosen.sum() < wanted + WIDTH
    assert chosen.any(axis=1).sum() > ROWS // 2


@pytest.mark.parametrize("ids", [np.zeros((0, 4), np.int32), np.full((2, 3), CLS, np.int32)])
@pytest.mark.parametrize("continues", [None, np.zeros(VOCAB, bool)])
def test_nothing_to_choose(ids: np.ndarray, continues: np.ndarray | None) -> None:
    masking = Masking(MASK, SPECIAL, VOCAB, continues_word=continues)
    inputs, labels = masking.apply(ids, np.ones_like(ids), tf.constant([0, 0]))
    np.testing.assert_array_equal(inputs, ids)
    np.testing.assert_array_equal(labels, np.full(ids.shape, NOT_MASKED))


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1, 2.0])
def test_a_share_of_none_or_all_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match=f"masking probability is {probability}; it must be above"):
        Masking(MASK, SPECIAL, VOCAB, probability)


def test_shares_above_one_are_refused() -> None:
    with pytest.raises(ValueError, match="mask_share is 0.8 and random_share 0.3"):
        Masking(MASK, SPECIAL, VOCAB, random_share=0.3)
