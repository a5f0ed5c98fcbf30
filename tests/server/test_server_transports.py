"""gRPC and REST of one server: the same model behind both, counted on one page."""

import contextlib
import http.client
import json

import grpc
import numpy as np
import pytest
import serving_models
from distilbert_serving.server import ModelServer
from distilbert_serving.tf_serving.config_protos import SSLConfig
from serving_models import call
from tensorflow_serving.apis import prediction_service_pb2_grpc

TEXTS = ["abc", "", "naïve façade", "a longer text than that"]


@pytest.fixture(scope="module")
def both(base_path):
    server = ModelServer(base_path, "m", port=0, rest_port=0, monitoring_path="/metrics")
    with server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield server, prediction_service_pb2_grpc.PredictionServiceStub(channel)


def ask(server, method, path, document=None, code=200):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, None if document is None else json.dumps(document))
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == code, body
        return body


def predict(server, document):
    return json.loads(ask(server, "POST", "/v1/models/m:predict", document))


def test_both_answer_alike(both):
    server, stub = both
    rows = predict(server, {"instances": TEXTS})["predictions"]
    columns = predict(server, {"inputs": {"text": TEXTS}})["outputs"]
    outputs = call(stub, {"text": TEXTS})
    expected = [serving_models.logits_of(text) for text in TEXTS]
    for logits in ([row["logits"] for row in rows], columns["logits"], outputs["logits"]):
        np.testing.assert_array_equal(np.asarray(logits, np.float32), expected)
    labels = [label.decode() for label in outputs["label"]]
    assert labels == [row["label"] for row in rows] == columns["label"]
    assert np.isnan(call(stub, {"x": np.float32("nan")}, signature="square")["y"])
    square = {"signature_name": "square", "inputs": float("nan")}
    assert np.isnan(predict(server, square)["outputs"])
    examples = {"signature_name": "regress", "examples": [{"text": "abc"}, {"text": "four"}]}
    results = json.loads(ask(server, "POST", "/v1/models/m:regress", examples))
    assert results == {"results": [3.0, 4.0]}


def test_several_inputs_and_other_types_over_rest(both):
    server, _ = both
    rows = [{"text": "abc", "text_pair": "ef"}, {"text": "d", "text_pair": "ghij"}]
    answer = predict(server, {"signature_name": "pairs", "instances": rows})["predictions"]
    expected = [serving_models.logits_of(row["text"], row["text_pair"]) for row in rows]
    np.testing.assert_array_equal(np.float32([row["logits"] for row in answer]), expected)
    assert predict(server, {"signature_name": "square", "inputs": 3}) == {"outputs": 9.0}
    ids = {"signature_name": "total", "instances": [[1, 2, 3], [4, 5, 6]]}
    assert predict(server, ids) == {"predictions": [6, 15]}


@pytest.mark.parametrize(
    ("target", "document", "code", "gist"),
    [
        ("m:predict", {"instances": [["a"]]}, 400, "text has shape (1, 1)"),
        ("m:predict", {"instances": [1], "signature_name": "x"}, 400, "not found in signature def"),
        ("m/versions/31:predict", {"instances": ["a"]}, 404, "31"),
        ("m:classify", {"examples": [{"text": "a"}]}, 400, "serving_default does not fit classify"),
    ],
)
def test_errors_over_rest(both, target, document, code, gist):
    answer = json.loads(ask(both[0], "POST", f"/v1/models/{target}", document, code))
    assert gist in answer["error"]


def test_both_are_counted(both):
    server, stub = both
    call(stub, {"text": ["abc"]})
    predict(server, {"instances": ["abc"]})
    page = ask(server, "GET", "/metrics")
    assert ':tensorflow:serving:request_count_total{model_name="m",status="OK"}' in page
    assert 'API="Predict",entrypoint="GRPC"' in page
    assert 'API="predict",entrypoint="REST"' in page
    assert 'load_attempt_count_total{model_path="m/30",status="success"} 1.0' in page


def test_it_can_be_started_again(base_path):
    server = ModelServer(base_path, "m", port=0, rest_port=0)
    for _ in range(2):
        with server:
            assert "AVAILABLE" in ask(server, "GET", "/v1/models/m")


def test_tls_is_not_for_rest(base_path):
    with pytest.raises(ValueError, match="TLS is for the gRPC port only"):
        ModelServer(base_path, "m", port=0, rest_port=0, ssl_config=SSLConfig())
