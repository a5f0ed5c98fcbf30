"""What the local server refuses, with TF Serving's status codes, and that it lives on."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from distilbert_serving.server import ModelServer
from fuzzing import tensor_protos
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_models import assert_alive, call, make_request, set_spec
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    prediction_service_pb2_grpc,
)

Code = grpc.StatusCode


# What it refuses, with TF Serving's codes.

TEXT = {"text": ["a"]}
BAD_STRING = tf.make_tensor_proto(["a"])
BAD_STRING.tensor_content = b"abc"
TRUNCATED = tf.make_tensor_proto([[1.0, 2.0]])
TRUNCATED.tensor_content = b"abc"
UNKNOWN_SHAPE = tf.make_tensor_proto(["a"])
UNKNOWN_SHAPE.tensor_shape.dim[0].size = -1


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (make_request(TEXT, spec=False), Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (make_request(TEXT, name=""), Code.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (
            make_request(TEXT, name="other"),
            Code.NOT_FOUND,
            "Servable not found for request: Latest(other)",
        ),
        (
            make_request(TEXT, version=7),
            Code.NOT_FOUND,
            "Servable not found for request: Specific(m, 7)",
        ),
        (
            make_request(TEXT, name="other", version=30),
            Code.NOT_FOUND,
            "Servable not found for request: Specific(other, 30)",
        ),
        (
            make_request(TEXT, label="canary"),
            Code.INVALID_ARGUMENT,
            "Unrecognized servable version label: canary",
        ),
        (
            make_request(TEXT, signature="sign"),
            Code.FAILED_PRECONDITION,
            'Serving signature key "sign" not found.',
        ),
        (
            make_request(TEXT, signature="__saved_model_init_op"),
            Code.FAILED_PRECONDITION,
            'Serving signature key "__saved_model_init_op" not found.',
        ),
        (make_request(), Code.INVALID_ARGUMENT, "Sent extra: {}. Missing but required: {text}."),
        (
            make_request({"text": ["a"], "x": [1.0]}),
            Code.INVALID_ARGUMENT,
            "2!=1 len({text,x}) != len({text}). Sent extra: {x}. Missing but required: {}.",
        ),
        (
            make_request({"x": ["a"]}),
            Code.INVALID_ARGUMENT,
            "Sent extra: {x}. Missing but required: {text}.",
        ),
        (
            make_request({"text": [1.0]}),
            Code.INVALID_ARGUMENT,
            "Expected input text to be string but get float.",
        ),
        (
            make_request({"text": "scalar"}),
            Code.INVALID_ARGUMENT,
            "Input text has shape (), which is incompatible with the signature's shape (None,)",
        ),
        (
            make_request({"text": [["a"]]}),
            Code.INVALID_ARGUMENT,
            "Input text has shape (1, 1), which is incompatible",
        ),
        (
            make_request({"x": [[1.0, 2.0, 3.0]]}, signature="finite"),
            Code.INVALID_ARGUMENT,
            "Input x has shape (1, 3), which is incompatible with the signature's shape (None, 2)",
        ),
        (
            make_request({"text": ["a", "b"], "text_pair": ["c"]}, signature="pairs"),
            Code.INVALID_ARGUMENT,
            "equal 0th-dimension size, but they have {'text': 2, 'text_pair': 1}",
        ),
        (make_request({"text": BAD_STRING}), Code.INVALID_ARGUMENT, "tensor parsing error: text"),
        (
            make_request({"text": UNKNOWN_SHAPE}),
            Code.INVALID_ARGUMENT,
            "tensor parsing error: text: its shape is not fully known",
        ),
        (
            make_request({"x": TRUNCATED}, signature="finite"),
            Code.INVALID_ARGUMENT,
            "tensor parsing error: x",
        ),
        (
            make_request(TEXT, outputs=["logits", "loss"]),
            Code.INVALID_ARGUMENT,
            "not found in signature: loss Outputs expected to be in the set "
            "{label,logits,probabilities}.",
        ),
        (
            make_request(TEXT, outputs=["logits", "logits"]),
            Code.INVALID_ARGUMENT,
            "duplicate output tensor alias: logits",
        ),
        (
            make_request({"x": [[1.0, np.nan]]}, signature="finite"),
            Code.INVALID_ARGUMENT,
            "x is not finite",
        ),
        (make_request({"é" * 5000: ["a"]}), Code.INVALID_ARGUMENT, "input size does not match"),
    ],
)
def test_predict_refuses(stub, request_, code, message):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request_, timeout=10)
    assert caught.value.code() == code
    assert message in caught.value.details()
    assert_alive(stub)


@pytest.mark.parametrize(
    ("spec", "fields", "code", "message"),
    [
        (None, ["signature_def"], Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        ({}, [], Code.INVALID_ARGUMENT, "must specify at least one metadata_field"),
        ({}, ["graph_def"], Code.INVALID_ARGUMENT, "Metadata field graph_def is not supported"),
        ({"name": "other"}, ["signature_def"], Code.NOT_FOUND, "Latest(other)"),
        ({"version": 4}, ["signature_def"], Code.NOT_FOUND, "Specific(m, 4)"),
    ],
)
def test_metadata_refuses(stub, spec, fields, code, message):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    if spec is not None:
        set_spec(request.model_spec, **spec)
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetModelMetadata(request, timeout=10)
    assert caught.value.code() == code
    assert message in caught.value.details()


@pytest.mark.parametrize(
    ("spec", "code", "message"),
    [
        (None, Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        ({"name": "other"}, Code.NOT_FOUND, "Could not find any versions of model other"),
        ({"version": 4}, Code.NOT_FOUND, "Could not find version 4 of model m"),
        ({"label": "stable"}, Code.INVALID_ARGUMENT, "Unrecognized servable version label: stable"),
    ],
)
def test_status_refuses(model_stub, spec, code, message):
    request = get_model_status_pb2.GetModelStatusRequest()
    if spec is not None:
        set_spec(request.model_spec, **spec)
    with pytest.raises(grpc.RpcError) as caught:
        model_stub.GetModelStatus(request, timeout=10)
    assert caught.value.code() == code
    assert message in caught.value.details()


# What no well-behaved client sends.


def test_message_limit(base_path):
    with (
        ModelServer(base_path, "m", port=0, max_message_bytes=10_000) as small,
        grpc.insecure_channel(f"127.0.0.1:{small.port}") as open_channel,
    ):
        small_stub = prediction_service_pb2_grpc.PredictionServiceStub(open_channel)
        with pytest.raises(grpc.RpcError) as caught:
            call(small_stub, {"text": ["x" * 10_000]})
        assert caught.value.code() == Code.RESOURCE_EXHAUSTED
        assert_alive(small_stub)


@st.composite
def fuzzed_requests(draw):
    # Without the signature that works as long as it is told to.
    signature, names = draw(
        st.sampled_from(
            [
                ("", ["text"]),
                ("pairs", ["text", "text_pair"]),
                ("finite", ["x"]),
                ("total", ["ids"]),
                ("square", ["x"]),
                ("distinct", ["text"]),
                ("", []),
            ]
        )
    )
    if draw(st.integers(0, 9)) == 9:
        names = draw(st.lists(st.text(max_size=10), max_size=3))
    return make_request(
        {name: draw(tensor_protos()) for name in names},
        name=draw(st.sampled_from(["m"] * 9 + ["", "n"])),
        signature=draw(st.one_of(st.just(signature), st.just(signature), st.text(max_size=20))),
        version=draw(st.sampled_from([None, None, 30, -1, 2**62])),
        outputs=draw(st.sampled_from([[], [], ["logits"], ["y", "y"], ["\0"]])),
        spec=draw(st.integers(0, 19)) < 19,
    )


def test_random_requests_get_answers_or_the_right_errors(stub):
    @settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(request=fuzzed_requests())
    def check(request):
        try:
            stub.Predict(request, timeout=10)
        except grpc.RpcError as error:
            codes = (Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION)
            assert error.code() in codes, error.details()  # noqa: PT017 (either outcome is right)

    check()
    assert_alive(stub)
