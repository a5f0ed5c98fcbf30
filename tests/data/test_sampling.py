"""Which rows a step sees: by hand on small numbers, and as properties of any."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilbert_tf.data.sampler import SORTED_BATCHES, EpochSampler


def sampler(sizes: tuple[int, ...], batch_size: int, **options: object) -> EpochSampler:
    lengths = np.random.default_rng(7).integers(3, 60, sum(sizes))
    return EpochSampler(lengths, sizes, batch_size, **options)


def counts(drawn: list[np.ndarray], size: int) -> list[int]:
    return np.bincount(np.concatenate(drawn), minlength=size).tolist()


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple)


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, batch_size=st.integers(1, 50), seed=st.integers(0, 5), epoch=st.integers(0, 5))
def test_an_epoch_has_every_row_once(
    sizes: tuple[int, ...], batch_size: int, seed: int, epoch: int
) -> None:
    whole = sampler(sizes, batch_size, seed=seed, drop_remainder=False)
    batches = whole.batches(epoch)
    assert counts(batches, sum(sizes)) == [1] * sum(sizes)
    assert len(batches) == whole.steps_per_epoch == -(-sum(sizes) // batch_size)
    smaller = [len(rows) for rows in batches if len(rows) != batch_size]
    assert smaller == [sum(sizes) % batch_size] * bool(sum(sizes) % batch_size)


@settings(max_examples=60, deadline=None)
@given(
    sizes=SIZES,
    batch_size=st.integers(1, 8),
    multiple=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_only_full_steps_remain_if_the_rest_is_dropped(
    sizes: tuple[int, ...], batch_size: int, multiple: int, epoch: int
) -> None:
    unit, total = batch_size * multiple, sum(sizes)
    if total < unit:
        with pytest.raises(ValueError, match=f"do not fill one step of {multiple} x {batch_size}"):
            sampler(sizes, batch_size, step_multiple=multiple)
        return
    cut = sampler(sizes, batch_size, step_multiple=multiple)
    batches = cut.batches(epoch)
    assert len(batches) == cut.steps_per_epoch
    assert cut.steps_per_epoch % multiple == 0
    assert {len(rows) for rows in batches} == {batch_size}
    seen = counts(batches, total)
    assert max(seen) == 1
    assert seen.count(0) == total % unit


def test_each_epoch_leaves_out_other_rows() -> None:
    cut = sampler((23,), 10)
    missing = [frozenset(np.flatnonzero(np.array(counts(cut.batches(e), 23)) == 0)) for e in (0, 1)]
    assert missing[0] != missing[1]


def listed(batches: list[np.ndarray]) -> list[list[int]]:
    return [rows.tolist() for rows in batches]


def test_seed_and_epoch_alone_decide() -> None:
    one, same = sampler((30, 12), 4, seed=3), sampler((30, 12), 4, seed=3)
    later = listed(one.batches(2))
    np.random.seed(0)  # nobody else's randomness counts
    assert listed(same.batches(0)) == listed(one.batches(0))
    assert listed(same.batches(2)) == later
    assert later != listed(one.batches(0)) != listed(one.batches(1))
    assert listed(sampler((30, 12), 4, seed=4).batches(2)) != later


@settings(max_examples=60, deadline=None)
@given(
    sizes=SIZES.filter(lambda sizes: sum(sizes) >= 3),
    temperature=st.sampled_from([1.0, 2.0, 1e9]),
    drop=st.booleans(),
    start=st.integers(0, 60),
)
def test_a_run_goes_on_where_it_stopped(
    sizes: tuple[int, ...], temperature: float, drop: bool, start: int
) -> None:
    stream = sampler(sizes, 3, seed=5, temperature=temperature, drop_remainder=drop)
    epoch, step = divmod(start, stream.steps_per_epoch)
    whole = list(itertools.islice(stream.steps(), start + 9))
    rest = list(itertools.islice(stream.steps(epoch, step), 9))
    assert listed(rest) == listed(whole[start:])


def test_the_stream_is_one_epoch_after_the_other() -> None:
    stream = sampler((20,), 6, seed=1)
    steps = list(itertools.islice(stream.steps(first_epoch=4), 6))
    assert listed(steps) == listed(stream.batches(4) + stream.batches(5))


def test_batches_hold_neighbours_in_length() -> None:
    """Sorted in one window, the batches' ranges of lengths do not overlap."""
    batches = sampler((4 * SORTED_BATCHES,), 4, seed=2).batches(0)
    lengths = np.random.default_rng(7).integers(3, 60, 4 * SORTED_BATCHES)
    ranges = [(lengths[rows].min(), lengths[rows].max()) for rows in batches]
    assert ranges != sorted(ranges)  # the batches themselves are shuffled
    in_order = sorted(ranges)
    assert all(one[1] <= next_[0] for one, next_ in itertools.pairwise(in_order))


def test_windows_are_sorted_each_by_itself() -> None:
    sizes, width = (6 * SORTED_BATCHES,), []
    for batch in sampler(sizes, 2, seed=2).batches(0):
        lengths = np.random.default_rng(7).integers(3, 60, sizes[0])[batch]
        width.append(int(lengths.max() - lengths.min()))
    assert np.mean(width) < 2  # unsorted, two of these lengths are 19 apart on average
    assert max(width) > 0


@pytest.mark.parametrize(
    ("sizes", "temperature", "shares"),
    [
        ((90, 10), 1.0, [90, 10]),
        ((90, 10), 2.0, [75, 25]),  # the square roots are as 3 to 1
        ((90, 10), 1e9, [50, 50]),
        ((90, 10), float("inf"), [50, 50]),
        ((64, 1, 1), 2.0, [53, 7, 6]),  # 52.8, 6.6 and 6.6: the largest rests are rounded up
        ((5, 5, 1), 1e9, [4, 4, 3]),
        ((7,), 3.0, [7]),
    ],
)
def test_shares_by_temperature(
    sizes: tuple[int, ...], temperature: float, shares: list[int]
) -> None:
    found = sampler(sizes, 1, temperature=temperature).task_shares()
    assert found == shares


@settings(max_examples=80, deadline=None)
@given(sizes=SIZES, temperature=st.floats(1.0, 1e9))
def test_a_small_task_repeats_its_rows_evenly(sizes: tuple[int, ...], temperature: float) -> None:
    drawn = sampler(sizes, 1, temperature=temperature)
    shares = drawn.task_shares()
    assert sum(shares) == sum(sizes)
    if temperature == 1:
        assert shares == list(sizes)
    seen = counts(drawn.batches(0), sum(sizes))
    for size, share in zip(sizes, shares, strict=True):
        own, seen = seen[:size], seen[size:]
        assert sum(own) == share
        assert max(own) - min(own) <= 1


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((6,), {"temperature": 0.99}, r"temperature must be at least 1; got 0\.99"),
        ((6, 1), {}, r"task_sizes \(6, 1\) must be positive and add up to 6"),
        ((6, 0), {}, r"task_sizes \(6, 0\) must be positive"),
        ((6,), {"batch_size": 7}, "6 training examples do not fill one step of 1 x 7"),
        ((6,), {"step_multiple": 4}, "do not fill one step of 4 x 2: choose a smaller batch_size"),
    ],
)
def test_what_makes_no_sense_is_refused(
    sizes: tuple[int, ...], options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        EpochSampler(np.full(6, 5), sizes, **{"batch_size": 2, **options})
