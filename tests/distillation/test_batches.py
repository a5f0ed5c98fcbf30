"""Batches of a prepared corpus: every row once, anywhere resumed, alike on every replica."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from distilbert_tf.data.corpus_records import TRAIN, VALIDATION, Corpus, CorpusSettings, Shard
from distilbert_tf.data.masking import NOT_MASKED, Masking
from distilbert_tf.distillation.batches import BATCH_MASKED, BATCH_TOKENS, LABELS, CorpusBatches

VOCAB = 70_000
MASKING = Masking(mask_id=3, special_ids=(1, 2), vocab_size=VOCAB)
ONE_DEVICE = tf.distribute.get_strategy()


@pytest.fixture(scope="module", params=["<u2", "<i4"])
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Rows of their own number, of many lengths, in three shards and a held-out one."""
    directory = tmp_path_factory.mktemp("corpus")
    top = 65_000 if request.param == "<u2" else VOCAB - 200
    shards, number = [], 0
    for name, split, rows in (
        ("a", TRAIN, 40),
        ("b", TRAIN, 7),
        ("c", TRAIN, 56),
        ("d", VALIDATION, 21),
    ):
        with tf.io.TFRecordWriter(str(directory / name)) as writer:
            tokens = 0
            for _ in range(rows):
                row = [1, *[top + number] * (1 + number % 17), 2]
                writer.write(np.array(row, request.param).tobytes())
                tokens += len(row)
                number += 1
        shards.append(Shard(name, split, rows, tokens, (directory / name).stat().st_size))
    return Corpus(directory, CorpusSettings(19), (), tuple(shards), request.param, "")


def top(corpus: Corpus) -> int:
    """Returns the word of row 0."""
    return 65_000 if corpus.dtype == "<u2" else VOCAB - 200


def make(corpus: Corpus, split: str = TRAIN, **settings: Any) -> CorpusBatches:
    return CorpusBatches(corpus, split, MASKING, 8, **{"seed": 5, "window": 32, **settings})


def take(dataset: Any, count: int) -> list[tuple[dict, dict]]:
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def true_ids(batch: tuple[dict, dict]) -> np.ndarray:
    inputs, targets = batch
    labels = targets[LABELS]
    return np.where(labels == NOT_MASKED, inputs["input_ids"], labels)


def names(batches: list[tuple[dict, dict]]) -> list[int]:
    """Returns the number in each row: its second token."""
    return [int(row[1]) for batch in batches for row in true_ids(batch)]


def test_an_epoch_has_every_row_once_in_an_order_of_its_own(corpus: Corpus) -> None:
    batches = make(corpus)
    assert (batches.rows, batches.steps_per_epoch) == (103, 12)
    stream = batches.training(ONE_DEVICE)
    found = take(stream, 24)
    for inputs, targets in found:
        ids, mask = true_ids((inputs, targets)), inputs["attention_mask"]
        lengths = mask.sum(axis=1)
        np.testing.assert_array_equal(lengths, 3 + (ids[:, 1] - top(corpus)) % 17)
        assert (ids[:, 0] == 1).all()
        assert (ids[np.arange(8), lengths - 1] == 2).all()
        assert ids.shape[1] == lengths.max()
        assert (targets[BATCH_TOKENS] == mask.sum()).all()
        assert (targets[BATCH_MASKED] == (targets[LABELS] != NOT_MASKED).sum()).all()
    first, second = names(found[:12]), names(found[12:])
    for epoch in (first, second):
        assert len(set(epoch)) == 96
    assert first != second
    assert first != sorted(first)


def same(a: list[tuple[dict, dict]], b: list[tuple[dict, dict]]) -> None:
    tf.nest.map_structure(np.testing.assert_array_equal, a, b)


def test_a_run_resumes_at_any_step(corpus: Corpus) -> None:
    whole = take(make(corpus).training(ONE_DEVICE), 30)
    for epoch, step in ((0, 0), (0, 5), (1, 0), (1, 11)):
        first = 12 * epoch + step
        same(take(make(corpus).training(ONE_DEVICE, epoch, step), 4), whole[first : first + 4])
    other = take(make(corpus, seed=6).training(ONE_DEVICE), 30)
    assert names(whole) != names(other)


def test_a_row_is_masked_anew_in_each_epoch(corpus: Corpus) -> None:
    masks: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for batch in take(make(corpus).training(ONE_DEVICE), 120):
        for row, labels in zip(true_ids(batch), batch[1][LABELS], strict=True):
            masks[int(row[1]), tuple(np.flatnonzero(labels != NOT_MASKED))] += 1
    longest = max(name for name, _ in masks if (name - top(corpus)) % 17 == 16)
    assert len([1 for name, _ in masks if name == longest]) > 5


def test_an_evaluation_counts_every_row_once_in_order(corpus: Corpus) -> None:
    batches = make(corpus, VALIDATION)
    dataset, steps = batches.evaluation(ONE_DEVICE)
    found = take(dataset, 99)
    assert len(found) == steps == 3
    last = found[-1][0]["attention_mask"].sum(axis=1)
    assert (last > 0).tolist() == [True] * 5 + [False] * 3
    assert names(found)[:21] == [top(corpus) + n for n in range(103, 124)]
    same(take(batches.evaluation(ONE_DEVICE)[0], 99), found)
    few, steps = make(corpus, VALIDATION, max_rows=9).evaluation(ONE_DEVICE)
    assert names(take(few, 99))[:9] == names(found)[:9]
    assert steps == 2


def test_all_batches_can_have_one_width(corpus: Corpus) -> None:
    dataset = make(corpus, width=24).training(ONE_DEVICE)
    assert dataset.element_spec[0]["input_ids"].shape == (8, 24)
    wide, narrow = take(dataset, 3), take(make(corpus).training(ONE_DEVICE), 3)
    assert names(wide) == names(narrow)
    assert {batch[0]["input_ids"].shape for batch in wide} == {(8, 24)}
