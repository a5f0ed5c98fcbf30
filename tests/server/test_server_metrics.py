"""What the server counts, as Prometheus reads it."""

import threading

import grpc
import pytest
from distilbert_serving.server.metrics import Metrics
from prometheus_client.parser import text_string_to_metric_families

OK = grpc.StatusCode.OK
REQUESTS = ":tensorflow:serving:request_count_total"
LATENCY = ":tensorflow:serving:request_latency"


def value(counts, name, **labels):
    """Reads a value off the page."""
    (found,) = (
        sample.value
        for family in text_string_to_metric_families(counts.render().decode())
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    )
    return found


def test_requests_are_counted_by_status_and_answers_timed():
    counts = Metrics()
    odd_name = 'quote " backslash \\ line\nend é'
    for seconds in (50e-6, 0.003):
        counts.observe_request(odd_name, "Predict", OK, seconds, "GRPC")
    counts.observe_request(odd_name, "predict", grpc.StatusCode.NOT_FOUND, 9.0, "REST")
    assert value(counts, REQUESTS, model_name=odd_name, status="OK") == 2
    assert value(counts, REQUESTS, model_name=odd_name, status="NOT_FOUND") == 1
    labels = {"model_name": odd_name, "API": "Predict", "entrypoint": "GRPC"}
    assert value(counts, f"{LATENCY}_count", **labels) == 2
    assert value(counts, f"{LATENCY}_sum", **labels) == pytest.approx(3050)
    for end, count in (("32.4", 0), ("58.32", 1), ("+Inf", 2)):  # TF Serving's buckets
        assert value(counts, f"{LATENCY}_bucket", le=end, **labels) == count
    assert b'entrypoint="REST"' not in counts.render()


def test_batches_queue_and_loads():
    counts = Metrics()
    counts.observe_batch("m", 3, 0.0002)
    counts.observe_batch("m", 32, 0.0)
    counts.set_queue_length("m", 7)
    counts.observe_load("m", 2, 1.5, ok=True)
    counts.observe_load("m", 3, 9.0, ok=False)
    session = ":tensorflow:serving:batching_session"
    assert value(counts, f"{session}:wrapped_run_count_total") == 2
    assert value(counts, f"{session}:processed_batch_size_sum", model_name="m") == 35
    assert value(counts, f"{session}:processed_batch_size_bucket", model_name="m", le="4.0") == 1
    waited = value(counts, f"{session}:queuing_latency_sum", thread_pool_name="m")
    assert waited == pytest.approx(200)
    assert value(counts, "distilbert_tf_queue_length", model_name="m") == 7
    loads = ":tensorflow:cc:saved_model:load"
    assert value(counts, f"{loads}_attempt_count_total", model_path="m/2", status="success") == 1
    assert value(counts, f"{loads}_attempt_count_total", model_path="m/3", status="fail") == 1
    assert value(counts, f"{loads}_latency_total", model_path="m/2") == pytest.approx(1_500_000)
    assert b'load_latency_total{model_path="m/3"}' not in counts.render()
    assert b"m/2" not in Metrics().render()  # another server's


def test_threads_lose_no_count():
    counts = Metrics()

    def work():
        for _ in range(500):
            counts.observe_request("m", "Predict", OK, 0.001, "GRPC")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        counts.render()
    assert value(counts, REQUESTS, model_name="m", status="OK") == 4000
