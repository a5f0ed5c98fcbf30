"""Batches on one device. Several replicas: see the tests of distributed training."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from distilbert_tf.data.examples import Examples
from distilbert_tf.data.sampler import EpochSampler
from distilbert_tf.training.batches import (
    LABEL,
    TASK,
    TaskRows,
    collect_rows,
    evaluation_batches,
    training_batches,
)

SINGLE = Examples((("aaa", "a", "aaaaa", "aa"),), np.array([3, 0, 1, 2], "int32"))
PAIRS = Examples((("bb", "b", "bbb"), ("c", "cccc", "cc")), np.array([1, 1, 0], "int32"))
# What `spell` makes of them: a text's length, then that of its pair; a row's own ids.
SINGLE_IDS = [[3, 3, 3], [1], [5] * 5, [2, 2]]
PAIR_IDS = [[12, 12], [41], [23, 23, 23]]
ONE_DEVICE = tf.distribute.get_strategy()


def spell(text: tf.Tensor, pair: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
    """Stands in for the tokenizer: a token for each character of the first text."""
    count = tf.strings.length(text)
    number = count if pair is None else count + 10 * tf.strings.length(pair)
    mask = tf.sequence_mask(count, tf.reduce_max(count), tf.int32)
    return {"input_ids": number[:, None] * mask, "attention_mask": mask}


@pytest.fixture(scope="module")
def both() -> TaskRows:
    return collect_rows([SINGLE, PAIRS], spell)


def unpadded(inputs: dict[str, tf.Tensor]) -> list[list[int]]:
    ids, mask = inputs["input_ids"].numpy(), inputs["attention_mask"].numpy()
    assert ids.dtype == mask.dtype == np.int32
    assert (ids[mask == 0] == 0).all()
    return [row[own == 1].tolist() for row, own in zip(ids, mask, strict=True)]


def test_rows_of_all_tasks_stand_one_task_after_the_other(both: TaskRows) -> None:
    assert both.lengths().tolist() == [3, 1, 5, 2, 2, 1, 3]
    assert both.labels.numpy().tolist() == [3, 0, 1, 2, 1, 1, 0]
    assert both.tasks.numpy().tolist() == [0, 0, 0, 0, 1, 1, 1]
    inputs, targets = both.batch(tf.constant([5, 2, 6, 0]), None)
    assert unpadded(inputs) == [PAIR_IDS[1], SINGLE_IDS[2], PAIR_IDS[2], SINGLE_IDS[0]]
    assert inputs["input_ids"].shape == (4, 5)
    assert targets[LABEL].numpy().tolist() == [1, 1, 0, 3]
    assert targets[TASK].numpy().tolist() == [1, 0, 1, 0]
    assert targets[LABEL].dtype == targets[TASK].dtype == tf.int32


def test_one_task_alone() -> None:
    rows = collect_rows([PAIRS], spell)
    inputs, targets = rows.batch(tf.range(3), 4)
    assert unpadded(inputs) == PAIR_IDS
    assert inputs["input_ids"].shape == (3, 4)
    assert targets[TASK].numpy().tolist() == [0, 0, 0]


def make_sampler(rows: TaskRows, **options: object) -> EpochSampler:
    return EpochSampler(rows.lengths(), (4, 3), 2, seed=8, **options)


def assert_follows(batches: list, numbers: list[np.ndarray], both: TaskRows) -> None:
    every = [*SINGLE_IDS, *PAIR_IDS]
    for (inputs, targets), rows in zip(batches, numbers, strict=True):
        assert unpadded(inputs) == [every[row] for row in rows]
        assert targets[LABEL].numpy().tolist() == both.labels.numpy()[rows].tolist()
        assert targets[TASK].numpy().tolist() == [int(row >= 4) for row in rows]


@pytest.mark.parametrize(("epoch", "step"), [(0, 0), (0, 2), (1, 1), (3, 0)])
def test_training_follows_the_sampler_from_any_step_on(
    both: TaskRows, epoch: int, step: int
) -> None:
    sampler = make_sampler(both, temperature=2.0)
    data = training_batches(both, sampler, ONE_DEVICE, first_epoch=epoch, first_step=step)
    batches = list(data.take(7))
    assert_follows(batches, list(itertools.islice(sampler.steps(epoch, step), 7)), both)
    widths = [inputs["input_ids"].shape[1] for inputs, _ in batches]
    assert widths == [max(map(len, unpadded(inputs))) for inputs, _ in batches]
    assert data.cardinality() == tf.data.INFINITE_CARDINALITY


def test_training_batches_of_one_width_and_a_static_size(both: TaskRows) -> None:
    sampler = make_sampler(both)
    data = training_batches(both, sampler, ONE_DEVICE, width=6)
    assert data.element_spec[0]["input_ids"].shape == (2, 6)
    batches = list(data.take(3))
    assert {tuple(inputs["input_ids"].shape) for inputs, _ in batches} == {(2, 6)}
    assert_follows(batches, sampler.batches(0), both)


@pytest.mark.parametrize("multiple", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("width", [None, 8])
def test_evaluation_counts_every_row_once(
    both: TaskRows, batch_size: int, multiple: int, width: int | None
) -> None:
    data, steps = evaluation_batches(
        both, batch_size, ONE_DEVICE, width=width, step_multiple=multiple
    )
    batches = list(data)
    assert len(batches) == steps
    assert steps % multiple == 0
    assert steps - multiple < 7 / batch_size <= steps
    counted: list[tuple] = []
    for inputs, targets, weights in batches:
        assert weights.dtype == tf.float32
        assert multiple == 1 or len(weights) == batch_size
        if width is not None:
            assert inputs["input_ids"].shape[1] == width
        rows = zip(
            unpadded(inputs), *(targets[key].numpy().tolist() for key in (LABEL, TASK)),
            weights.numpy(), strict=True,
        )  # fmt: skip
        counted += [tuple(row) for *row, weight in rows if weight == 1.0]
        assert set(weights.numpy().tolist()) <= {0.0, 1.0}
    expected = zip(
        [*SINGLE_IDS, *PAIR_IDS], both.labels.numpy().tolist(), both.tasks.numpy().tolist(),
        strict=True,
    )  # fmt: skip
    assert counted == list(expected)


def test_one_device_needs_no_filling_up(both: TaskRows) -> None:
    data, steps = evaluation_batches(both, 4, ONE_DEVICE)
    assert [weights.numpy().tolist() for _, _, weights in data] == [[1.0] * 4, [1.0] * 3]
    assert steps == 2


def test_an_evaluation_can_be_repeated(both: TaskRows) -> None:
    data, _ = evaluation_batches(both, 3, ONE_DEVICE, step_multiple=2)
    first, second = (
        [(unpadded(inputs), weights.numpy().tolist()) for inputs, _, weights in data]
        for _ in range(2)
    )
    assert first == second
