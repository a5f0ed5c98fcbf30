"""`distilbert-tf serve` as a process under load: versions change, break and go, and it is ended."""

import collections
import shutil
import threading
import time

import grpc
import pytest
from distilbert_serving.tf_serving.warmup import WARMUP_FILE
from server_process import ServerProcess
from serving_models import make_request, publish, states_of
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)
from waiting import wait_until

Code = grpc.StatusCode
State = get_model_status_pb2.ModelVersionStatus
CLIENTS = 64


class Load:
    """Clients that ask without a pause and without trying again, and what they were answered."""

    def __init__(self, port):
        self.labels = collections.Counter()
        self.errors = collections.Counter()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(port,)) for _ in range(CLIENTS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, port):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not self._stop.is_set():
                try:
                    answer = stub.Predict(make_request({"text": ["x"]}), timeout=30)
                    self.labels[answer.outputs["label"].string_val[0].decode()] += 1
                except grpc.RpcError as error:
                    self.errors[error.code()] += 1
                    self._stop.wait(0.05)


def states(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        found = states_of(stub, wait_for_ready=True)
        return {version: state for version, (state, _) in found.items()}


def wait_for_states(port, expected):
    wait_until(lambda: states(port) == expected)


def cut_graph(path):
    graph = (path / "saved_model.pb").read_bytes()
    (path / "saved_model.pb").write_bytes(graph[: len(graph) // 2])


def damage_warmup(path):
    (path / WARMUP_FILE).parent.mkdir()
    (path / WARMUP_FILE).write_bytes(b"\0" * 100)


@pytest.mark.slow
def test_no_request_fails_while_versions_come_break_and_go(made, tmp_path):
    publish(made, "a", tmp_path / "1")
    flags = (
        *(f"--model_base_path={tmp_path}", "--model_name=m", "--grace_s=30"),
        *("--file_system_poll_wait_seconds=0.05", "--max_num_load_retries=0"),
    )
    with ServerProcess(*flags) as server:
        port = server.port
        wait_for_states(port, {1: State.AVAILABLE})
        with Load(port) as load:
            publish(made, "b", tmp_path / "2")
            wait_for_states(port, {1: State.END, 2: State.AVAILABLE})
            publish(made, "c", tmp_path / "3", cut_graph)
            wait_for_states(port, {1: State.END, 2: State.AVAILABLE, 3: State.END})
            publish(made, "c", tmp_path / "4", damage_warmup)
            wait_for_states(port, {1: State.END, 2: State.AVAILABLE, 3: State.END, 4: State.END})
            assert set(load.labels) == {"a", "b"}
            shutil.rmtree(tmp_path / "3")
            shutil.rmtree(tmp_path / "4")
            publish(made, "c", tmp_path / "5")
            gone = dict.fromkeys((1, 2, 3, 4), State.END)
            wait_for_states(port, {**gone, 5: State.AVAILABLE})
            # Deleted, and the one before is still on the disk: it is back.
            shutil.rmtree(tmp_path / "5")
            wait_for_states(port, {**gone, 2: State.AVAILABLE, 5: State.END})
        assert load.errors == {}
        assert set(load.labels) == {"a", "b", "c"}

        with Load(port) as load:
            time.sleep(0.5)
            assert server.end() == 0
        # Who was too late is told so; nobody loses a request that was accepted. CANCELLED is
        # what gRPC itself tells whoever comes in the moment of closing.
        assert set(load.errors) <= {Code.UNAVAILABLE, Code.CANCELLED}
        assert load.errors[Code.CANCELLED] < CLIENTS
        assert load.labels["b"] > 0
    assert "Traceback" not in server.errors


def test_the_clients_of_this_test_see_failures():
    with Load(1) as load:
        time.sleep(0.2)
    assert set(load.errors) == {Code.UNAVAILABLE}
