"""How requests are merged, and how many may wait."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class BatchingOptions:
    """How requests are merged.

    Args:
        max_batch_size: Rows in one run of the graph; a larger request is run in pieces.
        batch_timeout_s: How long a request that found all workers busy may wait, counted from its
            arrival, for others to share its run, in seconds. Others never wait for company.
        max_queue_length: Requests that may wait; more are turned away with UNAVAILABLE, which
            clients retry.
        max_queue_rows: Rows that may wait, likewise; None for any number.
        max_queue_bytes: Memory of the inputs that may wait; more is RESOURCE_EXHAUSTED.
        max_request_rows: Rows that a request may have; more is INVALID_ARGUMENT. None for any
            number.
        allowed_batch_sizes: The sizes that a run may have, ascending up to `max_batch_size`: a
            smaller batch is filled up by repeating a row. Empty for all sizes.
        num_threads: Runs at the same time.

    Raises:
        ValueError: a size is less than 1, the time is negative, or the allowed sizes don't ascend
            to `max_batch_size`.
    """

    max_batch_size: int = 32
    batch_timeout_s: float = 0.001
    max_queue_length: int = 256
    max_queue_rows: int | None = None
    max_queue_bytes: int = 2**30
    max_request_rows: int | None = None
    allowed_batch_sizes: tuple[int, ...] = ()
    num_threads: int = 1

    def __post_init__(self) -> None:
        sizes = [self.max_batch_size, self.max_queue_length, self.max_queue_bytes, self.num_threads]
        sizes += [n for n in (self.max_queue_rows, self.max_request_rows) if n is not None]
        if min(*sizes, *self.allowed_batch_sizes) < 1 or self.batch_timeout_s < 0:
            raise ValueError(f"Sizes must be at least 1, and times at least 0: {self}")
        allowed = self.allowed_batch_sizes
        if allowed and (
            list(allowed) != sorted(set(allowed)) or allowed[-1] != self.max_batch_size
        ):
            raise ValueError(f"allowed_batch_sizes must ascend, to max_batch_size at last: {self}")

    def padded_size(self, rows: int) -> int:
        """Gives the size that a run of so many rows is filled up to."""
        return next((size for size in self.allowed_batch_sizes if size >= rows > 0), rows)
