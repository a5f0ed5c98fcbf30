"""What the server tells about its work to whoever counts it; by default, to nobody."""

import grpc


class Observer:
    """Hears of requests, batches and loads, and does nothing with it.

    `export.server.metrics.Metrics` has the same methods, and counts.
    """

    def observe_request(
        self, model: str, method: str, code: grpc.StatusCode, seconds: float, transport: str
    ) -> None:
        """Hears of an answered request."""

    def observe_batch(self, model: str, rows: int, wait_seconds: float) -> None:
        """Hears of a run of the graph, and how long its oldest request had waited for it."""

    def set_queue_length(self, model: str, length: int) -> None:
        """Hears how many requests wait for the graph."""

    def observe_load(self, model: str, version: int, seconds: float, ok: bool) -> None:
        """Hears of a version that was loaded, or could not be."""
