"""Input that no model wants: the right error, a server that lives on, memory that comes back."""

import gc

import grpc
import psutil
import pytest
import serving_models
import tensorflow as tf
from distilbert_serving.server import ModelServer
from serving_models import assert_alive, call, make_example, make_request, set_spec
from tensorflow_serving.apis import classification_pb2
from waiting import wait_until

Code = grpc.StatusCode


def send(channel, method, data):
    call_bytes = channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
    with pytest.raises(grpc.RpcError) as caught:
        call_bytes(data, timeout=10)
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize("method", ["Predict", "Classify", "Regress", "MultiInference"])
def test_truncated_messages(channel, stub, method):
    request = classification_pb2.ClassificationRequest()
    set_spec(request.model_spec)
    request.input.example_list.examples.add().CopyFrom(make_example(text="abc"))
    data = request.SerializeToString()
    for cut in (data[:-1], data[: len(data) // 2], b"\xff" * 50, b"\x0a"):
        code, details = send(channel, method, cut)
        assert code == Code.INVALID_ARGUMENT, (cut, details)
        assert f"The {len(cut)} bytes received are no " in details
    assert_alive(stub)


def test_garbage_as_example(channel, stub):
    # Inside of a Classify request it is a damaged message; as a tensor the graph sees it.
    spec = make_request({}).model_spec.SerializeToString()
    example_list = b"\x0a\x04\xff\xff\xff\xff"
    data = b"\x0a" + bytes([len(spec)]) + spec + b"\x12\x08\x0a\x06" + example_list
    code, details = send(channel, "Classify", data)
    assert code == Code.INVALID_ARGUMENT, details
    for garbage in (b"\xff" * 10, b"\x0a\xff", b"text"):
        with pytest.raises(grpc.RpcError) as caught:
            call(stub, {"inputs": [garbage]}, signature="classify")
        assert caught.value.code() == Code.INVALID_ARGUMENT
        assert "inputs" in caught.value.details()
    assert_alive(stub)


def test_a_hundred_thousand_empty_strings(stub):
    with pytest.raises(
        grpc.RpcError, match="Task size 100000 is larger than .* size 1000"
    ) as caught:
        call(stub, {"text": [""] * 100_000}, timeout=60)
    assert caught.value.code() == Code.INVALID_ARGUMENT
    outputs = call(stub, {"text": [""] * 1000})
    assert (outputs["logits"] == [serving_models.logits_of("")] * 1000).all()


def test_deep_batches(stub):
    proto = tf.make_tensor_proto(["a"])
    del proto.tensor_shape.dim[:]
    for _ in range(254):
        proto.tensor_shape.dim.add(size=1)
    with pytest.raises(grpc.RpcError, match="Input text has shape") as caught:
        call(stub, {"text": proto})
    assert caught.value.code() == Code.INVALID_ARGUMENT
    assert_alive(stub)


def test_memory_comes_back(stub):
    process = psutil.Process()
    text = "x" * 10_000_000

    def load():
        for _ in range(10):
            call(stub, {"text": [text]})
            with pytest.raises(grpc.RpcError):
                call(stub, {"no_text": [text]})
        gc.collect()
        return process.memory_info().rss

    first = load()
    # Twenty requests of 10 MB each, and as much again in arrays, would be seen.
    assert load() - first < 100e6


def test_too_many_at_once_are_turned_away(base_path, tmp_path):
    gate = tmp_path / "gate"
    request = make_request({"text": ["x"], "gate": [str(gate)]}, signature=serving_models.CALLS)
    with (
        ModelServer(base_path, "m", port=0, grpc_max_threads=2) as small,
        grpc.insecure_channel(f"127.0.0.1:{small.port}") as channel,
    ):
        method = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        waiting = [
            method.future(request.SerializeToString(), timeout=60, wait_for_ready=True)
            for _ in range(6)
        ]
        try:
            wait_until(lambda: sum(one.done() for one in waiting) >= 2)
        finally:
            gate.touch()
        codes = sorted(one.code().name for one in waiting)
    assert codes == ["OK"] * 4 + ["RESOURCE_EXHAUSTED"] * 2
