"""What the server counts, as Prometheus reads it."""

import threading

import grpc
import pytest
from distilbert_serving.server import metrics
from distilbert_serving.server.metrics import Metrics
from prometheus_client.parser import text_string_to_metric_families

OK = grpc.StatusCode.OK
REQUESTS = ":tensorflow:serving:request_count"
LATENCY = ":tensorflow:serving:request_latency"


def samples(counts):
    """Reads the page: values by name and labels. The parser adds "_total" to counters itself."""
    return {
        (sample.name.removesuffix("_total"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(counts.render().decode())
        for sample in family.samples
    }


def value(counts, name, **labels):
    return samples(counts)[name, tuple(sorted(labels.items()))]


def test_requests_are_counted_by_status_and_answers_timed():
    counts = Metrics()
    for seconds in (0.001, 0.003):
        counts.observe_request("m", "Predict", OK, seconds, "GRPC")
    counts.observe_request("m", "predict", grpc.StatusCode.NOT_FOUND, 9.0, "REST")
    assert value(counts, REQUESTS, model_name="m", status="OK") == 2
    assert value(counts, REQUESTS, model_name="m", status="NOT_FOUND") == 1
    labels = {"model_name": "m", "API": "Predict", "entrypoint": "GRPC"}
    assert value(counts, f"{LATENCY}_count", **labels) == 2
    assert value(counts, f"{LATENCY}_sum", **labels) == pytest.approx(4000)
    assert not any(("entrypoint", "REST") in labels for _, labels in samples(counts))


def test_buckets_are_tf_servings():
    counts = Metrics()
    counts.observe_request("m", "Predict", OK, 50e-6, "GRPC")
    buckets = {
        float(dict(labels)["le"]): count
        for (name, labels), count in samples(counts).items()
        if name == f"{LATENCY}_bucket"
    }
    ends = sorted(buckets)
    assert len(ends) == 34
    assert ends[:5] == [10, 18, 32.4, 58.32, 104.976]
    assert [buckets[end] for end in ends[:5]] == [0, 0, 0, 1, 1]
    assert 20 * 60e6 < ends[-2] < 30 * 60e6  # about 20 minutes
    assert ends[-1] == float("inf")


def test_batches_queue_and_loads():
    counts = Metrics()
    counts.observe_batch("m", 3, 0.0002)
    counts.observe_batch("m", 32, 0.0)
    counts.set_queue_length("m", 7)
    counts.observe_load("m", 2, 1.5, ok=True)
    counts.observe_load("m", 3, 9.0, ok=False)
    session = ":tensorflow:serving:batching_session"
    assert value(counts, f"{session}:wrapped_run_count") == 2
    assert value(counts, f"{session}:processed_batch_size_sum", model_name="m") == 35
    assert value(counts, f"{session}:processed_batch_size_bucket", model_name="m", le="4.0") == 1
    queuing = f"{session}:queuing_latency"
    assert value(counts, f"{queuing}_sum", thread_pool_name="m") == pytest.approx(200)
    assert value(counts, "distilbert_tf_queue_length", model_name="m") == 7
    loads = ":tensorflow:cc:saved_model:load"
    assert value(counts, f"{loads}_attempt_count", model_path="m/2", status="success") == 1
    assert value(counts, f"{loads}_attempt_count", model_path="m/3", status="fail") == 1
    assert value(counts, f"{loads}_latency", model_path="m/2") == 1_500_000
    assert ("model_path", "m/3") not in {
        label
        for (name, labels) in samples(counts)
        if name == f"{loads}_latency"
        for label in labels
    }


def test_names_and_types_are_tf_servings():
    counts = Metrics()
    counts.observe_request("m", "Predict", OK, 0.1, "GRPC")
    page = counts.render().decode()
    assert f"# TYPE {REQUESTS} counter\n{REQUESTS}{{" in page
    assert f"# TYPE {LATENCY} histogram\n" in page
    assert "_total" not in page
    assert "_created" not in page


def test_servers_count_for_themselves():
    one, other = Metrics(), Metrics()
    one.observe_request("m", "Predict", OK, 0.1, "GRPC")
    assert (REQUESTS, (("model_name", "m"), ("status", "OK"))) not in samples(other)


def test_clients_cannot_fill_the_memory_with_names():
    counts = Metrics()
    for i in range(metrics.MAX_MODEL_NAMES + 50):
        counts.observe_request(f"guess{i}", "Predict", grpc.StatusCode.NOT_FOUND, 0.1, "GRPC")
    counts.observe_load("late", 1, 0.1, ok=True)
    counts.observe_request("late", "Predict", OK, 0.1, "GRPC")
    names = {dict(labels).get("model_name") for name, labels in samples(counts) if name == REQUESTS}
    assert len(names) == metrics.MAX_MODEL_NAMES + 2
    other = {"model_name": metrics.OTHER_MODELS, "status": "NOT_FOUND"}
    assert value(counts, REQUESTS, **other) == 50
    assert value(counts, REQUESTS, model_name="late", status="OK") == 1


def test_odd_names_are_escaped():
    counts = Metrics()
    name = 'quote " backslash \\ line\nend é'
    counts.observe_request(name, "Predict", OK, 0.1, "GRPC")
    assert value(counts, REQUESTS, model_name=name, status="OK") == 1


def test_threads_lose_no_count():
    counts = Metrics()

    def work():
        for _ in range(500):
            counts.observe_request("m", "Predict", OK, 0.001, "GRPC")

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        counts.render()
    assert value(counts, REQUESTS, model_name="m", status="OK") == 8000
