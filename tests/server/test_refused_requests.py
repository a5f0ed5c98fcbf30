"""What the local server refuses, with TF Serving's status codes, and that it lives on."""

import grpc
import numpy as np
import pytest
import serving_models
import tensorflow as tf
from distilbert_serving.server import ModelServer
from running_server import Running
from serving_models import assert_alive, call, make_example, make_request, set_spec
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
)
from waiting import wait_until

Code = grpc.StatusCode

TEXT = {"text": ["a"]}
BAD_STRING = tf.make_tensor_proto(["a"])
BAD_STRING.tensor_content = b"abc"
TRUNCATED = tf.make_tensor_proto([[1.0, 2.0]])
TRUNCATED.tensor_content = b"abc"
UNKNOWN_SHAPE = tf.make_tensor_proto(["a"])
UNKNOWN_SHAPE.tensor_shape.dim[0].size = -1
PAIR = {"text": ["a", "b"], "text_pair": ["c"]}


def refusal(method, request):
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=10)
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (make_request(TEXT, spec=False), "Missing ModelSpec"),
        (make_request(TEXT, name=""), "ModelSpec has no name specified."),
        (make_request(TEXT, label="canary"), "Unrecognized servable version label: canary"),
        (make_request(), "Sent extra: []. Missing but required: ['text']."),
        (
            make_request({"text": ["a"], "x": [1.0]}),
            "2!=1 Sent extra: ['x']. Missing but required: [].",
        ),
        (make_request({"x": ["a"]}), "Sent extra: ['x']. Missing but required: ['text']."),
        (make_request({"é" * 5000: ["a"]}), "input size does not match"),
        (make_request({"text": [1.0]}), "Expected input text to be string but get float."),
        (make_request({"text": "scalar"}), "Input text has shape (), which is incompatible"),
        (make_request({"text": [["a"]]}), "Input text has shape (1, 1), which is incompatible"),
        (
            make_request({"x": [[1.0, 2.0, 3.0]]}, signature="finite"),
            "Input x has shape (1, 3), which is incompatible with the signature's shape (None, 2)",
        ),
        (make_request(PAIR, signature="pairs"), "'text_pair': (1,)"),
        (make_request({"text": BAD_STRING}), "tensor parsing error: text"),
        (make_request({"text": UNKNOWN_SHAPE}), "text: its shape is not fully known"),
        (make_request({"x": TRUNCATED}, signature="finite"), "tensor parsing error: x"),
        (
            make_request(TEXT, outputs=["logits", "loss"]),
            "Outputs expected to be in the set ['label', 'logits', 'probabilities'].",
        ),
        (make_request(TEXT, outputs=["logits"] * 2), "or named twice: ['logits', 'logits']"),
        (make_request({"x": [[1.0, np.nan]]}, signature="finite"), "x is not finite"),
        (make_request({"inputs": [b"garbage"]}, signature="classify"), "inputs"),
        (make_request({"text": [""] * 1001}), "Task size 1001 is larger than"),
    ],
)
def test_invalid_predict_requests(stub, request_, message):
    code, details = refusal(stub.Predict, request_)
    assert code == Code.INVALID_ARGUMENT
    assert message in details
    assert_alive(stub)


@pytest.mark.parametrize(
    ("spec", "code", "message"),
    [
        ({"name": "other"}, Code.NOT_FOUND, "not found for request: Latest(other)"),
        ({"version": 7}, Code.NOT_FOUND, "not found for request: Specific(m, 7)"),
        ({"name": "other", "version": 30}, Code.NOT_FOUND, "Specific(other, 30)"),
        ({"signature": "sign"}, Code.FAILED_PRECONDITION, 'key "sign" not found.'),
        ({"signature": "__saved_model_init_op"}, Code.FAILED_PRECONDITION, "not found."),
    ],
)
def test_what_is_not_there(stub, spec, code, message):
    refused_code, details = refusal(stub.Predict, make_request(TEXT, **spec))
    assert refused_code == code
    assert message in details


@pytest.mark.parametrize(
    ("spec", "fields", "code", "message"),
    [
        (None, ["signature_def"], Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        ({}, [], Code.INVALID_ARGUMENT, "must specify the metadata_field signature_def"),
        ({}, ["graph_def"], Code.INVALID_ARGUMENT, "no other, not ['graph_def']"),
        ({"name": "other"}, ["signature_def"], Code.NOT_FOUND, "Latest(other)"),
        ({"version": 4}, ["signature_def"], Code.NOT_FOUND, "Specific(m, 4)"),
    ],
)
def test_metadata(stub, spec, fields, code, message):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    if spec is not None:
        set_spec(request.model_spec, **spec)
    refused_code, details = refusal(stub.GetModelMetadata, request)
    assert refused_code == code
    assert message in details


@pytest.mark.parametrize(
    ("spec", "code", "message"),
    [
        (None, Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        ({"name": "other"}, Code.NOT_FOUND, "Could not find any versions of model other"),
        ({"version": 4}, Code.NOT_FOUND, "Could not find version 4 of model m"),
        ({"label": "stable"}, Code.INVALID_ARGUMENT, "Unrecognized servable version label: stable"),
    ],
)
def test_status(model_stub, spec, code, message):
    request = get_model_status_pb2.GetModelStatusRequest()
    if spec is not None:
        set_spec(request.model_spec, **spec)
    refused_code, details = refusal(model_stub.GetModelStatus, request)
    assert refused_code == code
    assert message in details


@pytest.mark.parametrize("method", ["Predict", "Classify", "Regress", "MultiInference"])
def test_truncated_messages(channel, stub, method):
    request = classification_pb2.ClassificationRequest()
    set_spec(request.model_spec)
    request.input.example_list.examples.add().CopyFrom(make_example(text="abc"))
    data = request.SerializeToString()
    send = channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
    for cut in (data[:-1], data[: len(data) // 2], b"\xff" * 50, b"\x0a"):
        code, details = refusal(send, cut)
        assert code == Code.INVALID_ARGUMENT, (cut, details)
        assert f"The {len(cut)} bytes received are no " in details
    assert_alive(stub)


def test_message_limit(base_path):
    with ModelServer(base_path, "m", port=0, max_message_bytes=10_000) as server:
        stub = Running(server).predictions
        code, _ = refusal(stub.Predict, make_request({"text": ["x" * 10_000]}))
        assert code == Code.RESOURCE_EXHAUSTED
        assert_alive(stub)


def test_too_many_at_once_are_turned_away(base_path, tmp_path):
    gate = tmp_path / "gate"
    request = make_request({"text": ["x"], "gate": [str(gate)]}, signature=serving_models.CALLS)
    with ModelServer(base_path, "m", port=0, grpc_max_threads=2) as small:
        predict = Running(small).predictions.Predict
        waiting = [predict.future(request, timeout=60, wait_for_ready=True) for _ in range(6)]
        try:
            wait_until(lambda: sum(one.done() for one in waiting) >= 2)
        finally:
            gate.touch()
        codes = sorted(one.code().name for one in waiting)
    assert codes == ["OK"] * 4 + ["RESOURCE_EXHAUSTED"] * 2


def test_a_thousand_rows_are_taken(stub):
    outputs = call(stub, {"text": [""] * 1000})
    assert (outputs["logits"] == [serving_models.logits_of("")] * 1000).all()
