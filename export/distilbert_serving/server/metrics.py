"""What a server counts, as a page for Prometheus, under TF Serving's names where it has them.

Reference: tensorflow_serving/servables/tensorflow/util.cc (requests),
tensorflow_serving/batching/batching_session.cc (batches), tensorflow/cc/saved_model/loader.cc
(loads) and tensorflow_serving/util/prometheus_exporter.cc (names: "/" becomes ":").
"""

import functools

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """The counts of one server; any thread may add to them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counter = functools.partial(Counter, registry=self._registry)
        histogram = functools.partial(Histogram, registry=self._registry)
        self._requests = counter(
            ":tensorflow:serving:request_count", "Requests.", ["model_name", "status"]
        )
        self._latency = histogram(
            ":tensorflow:serving:request_latency",
            "Microseconds from a request's arrival to its answer, if that is OK.",
            ["model_name", "API", "entrypoint"],
            buckets=_exponential(10, 1.8, 33),
        )
        self._queuing_latency = histogram(
            ":tensorflow:serving:batching_session:queuing_latency",
            "Microseconds that a batch's oldest request waited for its run.",
            ["thread_pool_name"],
            buckets=_exponential(100, 1.2, 52),
        )
        self._runs = counter(
            ":tensorflow:serving:batching_session:wrapped_run_count", "Runs of a model's graph."
        )
        # TF Serving keeps percentiles of it, which its page for Prometheus cannot show.
        self._batch_size = histogram(
            ":tensorflow:serving:batching_session:processed_batch_size",
            "Rows in a run of a model's graph.",
            ["model_name"],
            buckets=_exponential(1, 2, 11),
        )
        self._loads = counter(
            ":tensorflow:cc:saved_model:load_attempt_count", "Loads.", ["model_path", "status"]
        )
        self._load_latency = counter(
            ":tensorflow:cc:saved_model:load_latency",
            "Microseconds that successful loads took.",
            ["model_path"],
        )
        self._queue_length = Gauge(
            "distilbert_tf_queue_length",
            "Requests that wait for a run of a model's graph.",
            ["model_name"],
            registry=self._registry,
        )

    def observe_request(
        self, model: str, method: str, code: grpc.StatusCode, seconds: float, transport: str
    ) -> None:
        """Counts an answered request; the method is "Predict" over gRPC and "predict" over REST."""
        self._requests.labels(model, code.name).inc()
        if code is grpc.StatusCode.OK:
            self._latency.labels(model, method, transport).observe(seconds * 1e6)

    def observe_batch(self, model: str, rows: int, wait_seconds: float) -> None:
        """Counts a run of a model's graph, whose oldest request has waited for so long."""
        self._runs.inc()
        self._batch_size.labels(model).observe(rows)
        self._queuing_latency.labels(model).observe(wait_seconds * 1e6)

    def set_queue_length(self, model: str, length: int) -> None:
        """Sets how many requests wait for a run."""
        self._queue_length.labels(model).set(length)

    def observe_load(self, model: str, version: int, seconds: float, ok: bool) -> None:
        """Counts an attempt to load a version."""
        path = f"{model}/{version}"
        self._loads.labels(path, "success" if ok else "fail").inc()
        if ok:
            self._load_latency.labels(path).inc(seconds * 1e6)

    def render(self) -> bytes:
        """Returns the page, in Prometheus' text format."""
        return generate_latest(self._registry)


def _exponential(scale: float, growth: float, count: int) -> list[float]:
    """Returns the upper ends of buckets, in TF Serving's six digits."""
    return [float(f"{scale * growth**i:.6g}") for i in range(count)]
