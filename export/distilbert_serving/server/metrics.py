"""What the server counts, as a page for Prometheus, under TF Serving's names where it has them.

A dashboard for TF Serving shows the local server as well. Each server counts for itself: nothing
here is global.

Reference: tensorflow_serving/servables/tensorflow/util.cc (requests),
tensorflow_serving/batching/batching_session.cc (batches), tensorflow/cc/saved_model/loader.cc
(loads) and tensorflow_serving/util/prometheus_exporter.cc (names: "/" becomes ":").
"""

import re
from collections.abc import Iterator
from typing import Literal

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Clients choose the model names that they ask for, and every new one costs memory for as long as
# the server runs: beyond this number, they share a name.
MAX_MODEL_NAMES = 100
OTHER_MODELS = "(other)"

_COUNTER_TOTAL = re.compile(rb"^(# (?:HELP|TYPE) \S+)_total ", re.MULTILINE)
_MICROSECONDS = 1e6


class Metrics:
    """The counts of one server; any thread may add to them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._model_names: set[str] = set()
        self._requests = Counter(
            ":tensorflow:serving:request_count",
            "Requests, by the status of their answers.",
            ["model_name", "status"],
            registry=self._registry,
        )
        self._latency = Histogram(
            ":tensorflow:serving:request_latency",
            "Microseconds from a request's arrival to its answer, of those with status OK.",
            ["model_name", "API", "entrypoint"],
            registry=self._registry,
            buckets=_exponential(10, 1.8, 33),
        )
        self._queuing_latency = Histogram(
            ":tensorflow:serving:batching_session:queuing_latency",
            "Microseconds that a batch's oldest request waited for its run.",
            ["thread_pool_name"],
            registry=self._registry,
            buckets=_exponential(100, 1.2, 52),
        )
        self._runs = Counter(
            ":tensorflow:serving:batching_session:wrapped_run_count",
            "Runs of a model's graph.",
            registry=self._registry,
        )
        # TF Serving keeps percentiles of it, which its page for Prometheus cannot show.
        self._batch_size = Histogram(
            ":tensorflow:serving:batching_session:processed_batch_size",
            "Rows in a run of a model's graph.",
            ["model_name"],
            registry=self._registry,
            buckets=_exponential(1, 2, 11),
        )
        self._loads = Counter(
            ":tensorflow:cc:saved_model:load_attempt_count",
            "Loads of a model's version, by how they ended.",
            ["model_path", "status"],
            registry=self._registry,
        )
        self._load_latency = Counter(
            ":tensorflow:cc:saved_model:load_latency",
            "Microseconds that loading a model's version took, where it succeeded.",
            ["model_path"],
            registry=self._registry,
        )
        self._queue_length = Gauge(
            "distilbert_tf_queue_length",
            "Requests that wait for a run of a model's graph.",
            ["model_name"],
            registry=self._registry,
        )

    def observe_request(
        self,
        model: str,
        method: str,
        code: grpc.StatusCode,
        seconds: float,
        transport: Literal["GRPC", "REST"],
    ) -> None:
        """Counts a request that has been answered.

        Args:
            model: The name that the request gave.
            method: What it called: "Predict" over gRPC, "predict" over REST, as in TF Serving.
            code: The status of the answer.
            seconds: How long the answer took; kept for status OK only, as in TF Serving.
            transport: How it came.
        """
        model = self._bounded(model)
        self._requests.labels(model, code.name).inc()
        if code is grpc.StatusCode.OK:
            self._latency.labels(model, method, transport).observe(seconds * _MICROSECONDS)

    def observe_batch(self, model: str, rows: int, wait_seconds: float) -> None:
        """Counts a run of a model's graph.

        Args:
            model: The model's name.
            rows: How many rows it ran on.
            wait_seconds: How long its oldest request had waited.
        """
        self._runs.inc()
        self._batch_size.labels(model).observe(rows)
        self._queuing_latency.labels(model).observe(wait_seconds * _MICROSECONDS)

    def set_queue_length(self, model: str, length: int) -> None:
        """Says how many requests wait for a model."""
        self._queue_length.labels(model).set(length)

    def observe_load(self, model: str, version: int, seconds: float, ok: bool) -> None:
        """Counts an attempt to load a version.

        Args:
            model: The model's name. Requests for it are counted under it from now on.
            version: The version.
            seconds: How long it took.
            ok: Whether the version can be served.
        """
        self._model_names.add(model)
        path = f"{model}/{version}"
        self._loads.labels(path, "success" if ok else "fail").inc()
        if ok:
            self._load_latency.labels(path).inc(round(seconds * _MICROSECONDS))

    def render(self) -> bytes:
        """Gives the page, in Prometheus' text format 0.0.4."""
        return _COUNTER_TOTAL.sub(rb"\1 ", generate_latest(_ExactNames(self._registry)))

    def _bounded(self, model: str) -> str:
        """Gives the name to count a model under."""
        names = self._model_names
        if model not in names:
            if len(names) >= MAX_MODEL_NAMES:
                return OTHER_MODELS
            names.add(model)
        return model


class _ExactNames(Collector):
    """A registry's metrics, without what the library adds: "_total", and times of creation."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            exact = Metric(family.name, family.documentation, family.type)
            exact.samples = [
                sample._replace(name=sample.name.removesuffix("_total"))
                for sample in family.samples
                if not sample.name.endswith("_created")
            ]
            yield exact


def _exponential(scale: float, growth: float, count: int) -> list[float]:
    """Lists the upper ends of buckets, in TF Serving's six digits."""
    return [float(f"{scale * growth**i:.6g}") for i in range(count)]
