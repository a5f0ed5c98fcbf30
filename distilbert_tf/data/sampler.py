"""Which rows each training step uses: a function of (seed, epoch, step) and nothing else.

So a run can be resumed at any step, and all workers agree without communicating.
Shapes: N rows, B rows of a batch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

SORTED_BATCHES = 50  # batches that are cut from one window of rows sorted by length


@dataclass(frozen=True)
class EpochSampler:
    """Reshuffles rows in every epoch, into batches of rows of similar length.

    Rows are shuffled, sorted by length within windows of 50 batches, cut into batches, and the
    batches shuffled again.

    Attributes:
        lengths: Integers (N,), the number of tokens of each row; one task after another.
        task_sizes: Number of rows of each task.
        batch_size: B.
        seed: Seeds the shuffling, together with the epoch's number.
        temperature: How tasks share an epoch of N rows: in proportion to their sizes to the power
            of 1 / temperature. At 1 every row is used once; at infinity all tasks have the same
            share, and rows of a small task are repeated.
        drop_remainder: Whether to drop the rows that would make a smaller last batch; different
            ones in every epoch.
        step_multiple: An epoch's number of steps is a multiple of this.

    Raises:
        ValueError: An argument is out of range, or the rows do not fill one step.

    Example:
        sampler = EpochSampler(np.array([5, 9, 4, 8]), task_sizes=(4,), batch_size=2)
        sampler.batches(epoch=0)  # the rows 0 and 2, and the rows 1 and 3, in any order
    """

    lengths: np.ndarray
    task_sizes: tuple[int, ...]
    batch_size: int
    seed: int = 0
    temperature: float = 1.0
    drop_remainder: bool = True
    step_multiple: int = 1

    def __post_init__(self) -> None:
        if self.step_multiple > 1 and not self.drop_remainder:
            raise ValueError("step_multiple needs drop_remainder.")
        if self.temperature < 1:
            raise ValueError(f"temperature must be at least 1; got {self.temperature}.")
        if sum(self.task_sizes) != len(self.lengths) or not all(self.task_sizes):
            raise ValueError(
                f"task_sizes {self.task_sizes} must be positive and add up to {len(self.lengths)}."
            )
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"{len(self.lengths)} training examples do not fill one step of "
                f"{self.step_multiple} x {self.batch_size}: choose a smaller batch_size."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        if not self.drop_remainder:
            return -(-len(self.lengths) // self.batch_size)
        return len(self.lengths) // self.batch_size // self.step_multiple * self.step_multiple

    def task_shares(self) -> list[int]:
        """Returns the number of rows of each task in an epoch; they add up to N."""
        weights = np.array(self.task_sizes, np.float64) ** (1 / self.temperature)
        wanted = len(self.lengths) * weights / weights.sum()
        shares = np.floor(wanted).astype(int)
        missing = len(self.lengths) - int(shares.sum())
        for task in np.argsort(shares - wanted, kind="stable")[:missing]:
            shares[task] += 1
        return shares.tolist()

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Returns the batches of an epoch.

        Args:
            epoch: Its number, from 0.

        Returns:
            For each step, integers (B,): the indices of its rows.
        """
        random = np.random.default_rng((self.seed, epoch))
        starts = np.cumsum([0, *self.task_sizes])
        drawn = [
            start + _draw(size, share, random)
            for start, size, share in zip(starts, self.task_sizes, self.task_shares(), strict=False)
        ]
        rows = random.permutation(np.concatenate(drawn))
        if self.drop_remainder:
            rows = rows[: self.steps_per_epoch * self.batch_size]
        window = SORTED_BATCHES * self.batch_size
        batches: list[np.ndarray] = []
        for start in range(0, len(rows), window):
            part = rows[start : start + window]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += [part[i : i + self.batch_size] for i in range(0, len(part), self.batch_size)]
        return [batches[i] for i in random.permutation(len(batches))]

    def steps(self, first_epoch: int = 0, first_step: int = 0) -> Iterator[np.ndarray]:
        """Yields the batches of one epoch after another, endlessly.

        Args:
            first_epoch: The epoch to start with.
            first_step: The step of that epoch to start with.

        Yields:
            Integers (B,): the indices of a step's rows.
        """
        epoch = first_epoch
        while True:
            yield from self.batches(epoch)[first_step:]
            epoch, first_step = epoch + 1, 0


def _draw(size: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Draws `count` of `size` rows: each once before any is repeated."""
    passes: Sequence[np.ndarray] = [
        random.permutation(size) for _ in range(math.ceil(count / size))
    ]
    return np.concatenate([*passes, np.empty(0, int)])[:count].astype(int)
