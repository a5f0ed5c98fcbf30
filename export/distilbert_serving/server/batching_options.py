"""How requests are merged, and how many may wait."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class BatchingOptions:
    """How requests are merged: TF Serving's BatchingParameters, and its defaults.

    Args:
        max_batch_size: Rows that a request may have; more is INVALID_ARGUMENT.
        max_execution_batch_size: Rows that a run of the graph may have; None for `max_batch_size`.
        enable_large_batch_splitting: Whether a request may be run in pieces: it fills up the batch
            that is open, and goes on in the next.
        max_enqueued_batches: Batches of a signature that may wait; more is UNAVAILABLE, which
            clients retry.
        allowed_batch_sizes: The sizes that a run may have, ascending up to the largest: a smaller
            batch is filled up by repeating a row. Empty for all sizes.
        pad_variable_length_inputs: Whether tensors of one batch that differ beyond dimension 0 are
            padded. Otherwise the batch fails.
        num_threads: Runs at the same time.
        max_queue_bytes: Memory of the inputs that may wait; more is RESOURCE_EXHAUSTED. TF Serving
            has no such limit.

    Raises:
        ValueError: A size is less than 1, or the allowed sizes don't ascend to a run's largest.
    """

    max_batch_size: int = 1000
    max_execution_batch_size: int | None = None
    enable_large_batch_splitting: bool = False
    max_enqueued_batches: int = 10
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    num_threads: int = 1
    max_queue_bytes: int = 2**30

    def __post_init__(self) -> None:
        sizes = (self.run_size, self.max_enqueued_batches, self.num_threads, self.max_queue_bytes)
        if min(*sizes, *self.allowed_batch_sizes) < 1:
            raise ValueError(f"Sizes must be at least 1: {self}")
        allowed = list(self.allowed_batch_sizes)
        if allowed and (allowed != sorted(set(allowed)) or allowed[-1] != self.run_size):
            raise ValueError(f"allowed_batch_sizes must ascend to a run's largest size: {self}")

    @property
    def run_size(self) -> int:
        """How many rows a run of the graph may have."""
        return self.max_execution_batch_size or self.max_batch_size

    def filled_size(self, rows: int) -> int:
        """Returns the size that a batch of so many rows is filled up to."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)
