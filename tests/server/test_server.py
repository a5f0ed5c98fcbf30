"""The local server over the wire: plain gRPC stubs on one side, a SavedModel on the other."""

import contextlib
import socket
from concurrent import futures

import grpc
import numpy as np
import pytest
import serving_models
import tensorflow as tf
from comparing import FEW, assert_close
from distilbert_serving.client.predict_client import PredictClient
from distilbert_serving.server import ModelServer
from distilbert_serving.server.metrics import Metrics
from running_server import one_thread
from serving_models import call, make_request, set_spec
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2
from waiting import wait_until

Code = grpc.StatusCode


@pytest.fixture(scope="module")
def metrics():
    return Metrics()


@pytest.fixture(scope="module")
def server(base_path, metrics):
    with ModelServer(base_path, "m", port=0, batching=one_thread(), metrics=metrics) as running:
        yield running


def call_inputs(texts, gate=""):
    return {"text": np.array(texts, object), "gate": np.array([str(gate)] * len(texts), object)}


def calls(stub, texts, gate="", timeout=30):
    inputs = {
        name: tf.make_tensor_proto(array, tf.string, array.shape)
        for name, array in call_inputs(texts, gate).items()
    }
    return call(stub, inputs, signature=serving_models.CALLS, timeout=timeout)


@contextlib.contextmanager
def busy(stub, gate):
    """Keeps the graph busy while the body runs; gives the future of that request's outputs."""
    with futures.ThreadPoolExecutor(1) as pool:
        blocker = pool.submit(calls, stub, ["blocker"], gate)
        try:
            wait_until(gate.with_suffix(".started").exists)
            yield blocker
        finally:
            gate.touch()


def wait_for_queue(metrics, length):
    """Waits until that many requests wait for a run of the graph."""
    line = f'distilbert_tf_queue_length{{model_name="m"}} {length}.0\n'.encode()
    wait_until(lambda: line in metrics.render())


# What it answers.


@pytest.mark.parametrize(
    "texts",
    [
        ["", "a longer text than that", "mid size", "naïve façade"],
        [b"\xff\xfe broken \xc3(", b"\xed\xa0\x80", b"nul\x00bytes\x00", b"\x00"],
        [str(10**i) for i in range(20)] * 50,
        ["x" * 10_000_000],
    ],
    ids=["four", "no text", "a thousand", "10 MB"],
)
def test_predict_returns_the_models_values(stub, texts):
    logits = np.stack([serving_models.logits_of(text) for text in texts])
    outputs = call(stub, {"text": texts})
    np.testing.assert_array_equal(outputs["logits"], logits)
    assert_close(outputs["probabilities"], tf.nn.softmax(logits), FEW)
    assert [label.decode() for label in outputs["label"]] == [
        serving_models.LABELS[i] for i in logits.argmax(axis=1)
    ]


def test_an_empty_batch_has_empty_outputs(stub):
    outputs = call(stub, {"text": tf.make_tensor_proto([], tf.string)})
    assert {name: array.shape for name, array in outputs.items()} == {
        "label": (0,),
        "probabilities": (0, 3),
        "logits": (0, 3),
    }


def test_several_inputs_and_other_types_and_ranks(stub):
    pairs = call(stub, {"text": ["abc", "d"], "text_pair": ["ef", "ghijkl"]}, signature="pairs")
    expected = [serving_models.logits_of("abc", "ef"), serving_models.logits_of("d", "ghijkl")]
    np.testing.assert_array_equal(pairs["logits"], expected)
    assert call(stub, {"x": np.float32(3)}, signature="square")["y"] == np.float32(9)
    ids = np.array([[1, 2, 3], [4, 5, 6]], np.int32)
    assert call(stub, {"ids": ids}, signature="total")["total"].tolist() == [6, 15]


def test_the_answer_says_what_answered(stub):
    for version in (None, 30):
        request = make_request({"x": [[1.0, 2.0]]}, signature="finite", version=version)
        spec = stub.Predict(request, timeout=10).model_spec
        assert (spec.name, spec.version.value, spec.signature_name) == ("m", 30, "finite")


def test_the_outputs_that_a_request_asks_for_in_typed_fields(stub):
    request = make_request({"text": ["abc"]}, outputs=["logits", "label"])
    outputs = stub.Predict(request, timeout=10).outputs
    assert set(outputs) == {"logits", "label"}
    assert list(outputs["logits"].float_val) == [3.0, 2.5, -9.0]
    assert list(outputs["label"].string_val) == [b"short"]


def test_metadata_has_the_saved_models_signatures(stub, base_path):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    set_spec(request.model_spec)
    response = stub.GetModelMetadata(request, timeout=10)
    assert (response.model_spec.name, response.model_spec.version.value) == ("m", 30)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((base_path / "30" / "saved_model.pb").read_bytes())
    assert signatures.signature_def == saved.meta_graphs[0].signature_def


@pytest.mark.parametrize("version", [None, 30])
def test_model_status(model_stub, version):
    request = get_model_status_pb2.GetModelStatusRequest()
    set_spec(request.model_spec, version=version)
    (state,) = model_stub.GetModelStatus(request, timeout=10).model_version_status
    assert (state.version, state.state) == (30, get_model_status_pb2.ModelVersionStatus.AVAILABLE)
    assert (state.status.error_code, state.status.error_message) == (0, "")


# Many requests at once.


def test_concurrent_requests_are_merged_and_each_gets_its_own_rows(metrics, stub, tmp_path):
    requests = [[f"{i}/{row}" for row in range(i % 4)] for i in range(24)]
    with futures.ThreadPoolExecutor(24) as pool, busy(stub, tmp_path / "gate") as blocker:
        answers = [pool.submit(calls, stub, texts) for texts in requests]
        wait_for_queue(metrics, 24)
    runs = {}
    for texts, answer in zip(requests, answers, strict=True):
        outputs = answer.result()
        assert [echo.decode() for echo in outputs["echo"]] == texts
        runs.update(zip(outputs["run"].tolist(), outputs["size"].tolist(), strict=True))
    # The graph ran once for 24 requests.
    assert runs == {blocker.result()["run"].item() + 1: 36}


def test_a_request_past_its_deadline_is_not_computed(metrics, stub, tmp_path):
    with busy(stub, tmp_path / "gate") as blocker:
        with pytest.raises(grpc.RpcError) as caught:
            calls(stub, ["late"], timeout=0.05)
        assert caught.value.code() == Code.DEADLINE_EXCEEDED
        assert not blocker.done()
    assert calls(stub, ["next"])["run"] == blocker.result()["run"] + 1
    # For the server, too, it is this and not a client that went away.
    line = b':tensorflow:serving:request_count_total{model_name="m",status="DEADLINE_EXCEEDED"} 1.0'
    wait_until(lambda: line in metrics.render())


# Starting and stopping.


def test_nothing_to_serve(tmp_path, base_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        ModelServer(tmp_path / "missing", port=0).start()
    (tmp_path / "7.tmp").mkdir()
    with pytest.raises(FileNotFoundError, match=r"model m in .* there is: 7.tmp. A version is a"):
        ModelServer(tmp_path, "m", port=0).start()
    with pytest.raises(FileNotFoundError, match=r"there is: .*saved_model.pb.* A version is a"):
        ModelServer(base_path / "30", "m", port=0).start()


def test_a_port_that_is_taken(server, tmp_path):
    taken = f"port {server.port} of 127.0.0.1 is in use, perhaps by another server"
    # It is found out before models are loaded: there are none.
    with pytest.raises(OSError, match=f"^{taken}: port=0 takes a free one"):
        ModelServer(tmp_path, "m", port=server.port).start()
    with pytest.raises(OSError, match=rf"^{taken}: choose another rest_port \(--rest_api_port\)"):
        ModelServer(tmp_path, "m", port=0, rest_port=server.port).start()


def test_the_newest_version_is_chosen_by_number(tmp_path):
    for version in ("2", "10", "9"):
        serving_models.save_constant(tmp_path / version, f"version {version}")
    with (
        ModelServer(tmp_path, port=0) as newest,
        PredictClient(f"127.0.0.1:{newest.port}") as client,
    ):
        assert client.predict("any").label == "version 10"
    # Stopped: nobody listens there any more, and stopping again does no harm.
    newest.stop()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", newest.port)) != 0
