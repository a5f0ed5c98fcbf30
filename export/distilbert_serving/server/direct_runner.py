"""What runs requests when batching is turned off."""

from collections.abc import Callable, Mapping
from concurrent import futures

import numpy as np

from distilbert_serving.server import status
from distilbert_serving.server.batching import IsActive, RunFunction
from distilbert_serving.server.signature import Arrays


class DirectRunner:
    """Runs every request at once, in its own thread: batching turned off.

    Args:
        run: See `Batcher`.
        on_run: See `Batcher`.
    """

    def __init__(
        self, run: RunFunction, *, on_run: Callable[[int, float], None] = lambda rows, wait_s: None
    ) -> None:
        self._run = run
        self._on_run = on_run

    def submit(
        self,
        signature_name: str,
        inputs: Mapping[str, np.ndarray],
        *,
        is_batched: bool,
        is_active: IsActive = lambda: True,
    ) -> futures.Future[Arrays]:
        """Runs a request, unless nobody waits for it, and gives a future that is done."""
        future: futures.Future[Arrays] = futures.Future()
        if not is_active():
            future.set_exception(status.abandoned())
            return future
        self._on_run(len(next(iter(inputs.values()))) if is_batched else 1, 0.0)
        try:
            future.set_result(self._run(signature_name, inputs))
        except status.RequestError as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Does nothing: nothing is ever left over."""
