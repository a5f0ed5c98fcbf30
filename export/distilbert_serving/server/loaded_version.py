"""A version in memory, together with what merges its requests."""

from collections.abc import Mapping
from concurrent import futures

import numpy as np

from distilbert_serving.server.batching import Batcher, IsActive
from distilbert_serving.server.batching_options import BatchingOptions
from distilbert_serving.server.direct_runner import DirectRunner
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.server.servable import Servable
from distilbert_serving.server.signature import Arrays, Signature


class LoadedVersion:
    """A version in memory, with what merges its requests.

    Args:
        servable: The model.
        options: How requests are merged; None to run each by itself.
        metrics: Hears of runs.
    """

    def __init__(
        self, servable: Servable, options: BatchingOptions | None, metrics: Metrics
    ) -> None:
        self.servable = servable
        name = servable.name
        on_run = lambda rows, wait_s: metrics.observe_batch(name, rows, wait_s)  # noqa: E731
        self._runner: Batcher | DirectRunner = (
            DirectRunner(servable.run, on_run=on_run)
            if options is None
            else Batcher(
                servable.run,
                options,
                on_run=on_run,
                on_queue=lambda length: metrics.set_queue_length(name, length),
            )
        )

    def submit(
        self,
        signature: Signature,
        inputs: Mapping[str, np.ndarray],
        is_active: IsActive,
    ) -> futures.Future[Arrays]:
        """Queues a request; see `Batcher.submit`."""
        return self._runner.submit(
            signature.name, inputs, is_batched=signature.is_batched, is_active=is_active
        )

    def run(
        self,
        signature: Signature,
        inputs: Mapping[str, np.ndarray],
        is_active: IsActive,
    ) -> Arrays:
        """Runs a request and waits for its outputs.

        Raises:
            RequestError: see `Batcher.submit` and `Servable.run`.
        """
        return self.submit(signature, inputs, is_active).result()

    def close(self) -> None:
        """Ends its threads; what still waits in its queue gets UNAVAILABLE."""
        self._runner.close()
