"""Exports that fail, are killed or come at once, while a server polls their base path."""

import os
import random
import signal
import threading
import time

import grpc
import psutil
import pytest
import tensorflow as tf
from comparing import assert_close
from distilbert_serving.server import ModelServer
from distilbert_serving.tf_serving.warmup import WARMUP_FILE, read_warmup
from distilbert_serving.version_numbers import find_versions
from exporting import TINY_ROUNDINGS, exporter_process, make_tiny_model, wait_for_result, works
from serving_models import make_request, states_of
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)
from waiting import wait_until

TEXTS = [b"the film was very good", b"it was not", b""]
CLIENTS = 4
WARM = ["classify_text", "classify"]


@pytest.fixture
def exporter(tmp_path):
    make_tiny_model(tmp_path / "model")
    with exporter_process(tmp_path / "model") as exporter:
        yield exporter


class Load:
    """Clients that ask without a pause, and what they were answered."""

    def __init__(self, port):
        self.logits = {}  # all answers by version
        self.errors = []
        self._is_over = False
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._is_over = True
        for thread in self._threads:
            thread.join(60)
        self._channel.close()

    def _ask(self):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        while not self._is_over:
            try:
                answer = stub.Predict(make_request({"text": TEXTS}), timeout=60)
            except grpc.RpcError as error:
                self.errors.append(error)
            else:
                logits = tf.make_ndarray(answer.outputs["logits"])
                self.logits.setdefault(answer.model_spec.version.value, []).append(logits)
            time.sleep(0.02)  # the exports need the processor more

    def states(self):
        return states_of(model_service_pb2_grpc.ModelServiceStub(self._channel))


@pytest.mark.slow
def test_nothing_broken_is_served_and_nothing_lost(tmp_path, exporter):
    base = tmp_path / "base"
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    random_delay = random.Random(5)
    assert exporter.export(base) == {"version": str(base / "1")}
    with ModelServer(base, "m", port=0, poll_wait_s=0.02) as server, Load(server.port) as load:
        full_disk = exporter.start(base, limit=60_000)[1]
        for weights in ("fp16", "int8"):
            pid, _ = exporter.start(base, weights=weights, warmup=WARM)
            known = set(works(base))
            wait_until(lambda: set(works(base)) - known or not psutil.pid_exists(pid))  # noqa: B023
            time.sleep(random_delay.uniform(0, 1.5))
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)
        survivors = set(find_versions(base))
        results = [
            exporter.start(base, weights=weights, warmup=WARM)[1] for weights in ("fp16", "int8")
        ]
        assert "is the disk full?" in wait_for_result(full_disk)["error"]
        made = {int(wait_for_result(result)["version"].rpartition("/")[2]) for result in results}
        assert made == {max(survivors) + 1, max(survivors) + 2}
        newest = max(made)
        wait_until(lambda: load.states().get(newest, (None,))[0] == available)
        wait_until(lambda: newest in load.logits)
        states = load.states()
    assert load.errors == []
    assert {error for _, error in states.values()} == {""}
    assert 1 in load.logits
    assert works(base) == []
    assert set(find_versions(base)) == survivors | made
    for version in find_versions(base):
        loaded = tf.saved_model.load(os.fspath(base / str(version)))
        want = loaded.signatures["serving_default"](text=tf.constant(TEXTS))["logits"].numpy()
        for logits in load.logits.get(version, ()):
            assert_close(logits, want, TINY_ROUNDINGS)
        assert read_warmup(base / str(version) / WARMUP_FILE)
