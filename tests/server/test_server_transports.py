"""gRPC and REST of one server: the same models behind both, counted on one page."""

import json
import ssl
import urllib.request

import certificates
import grpc
import numpy as np
import pytest
import serving_models
from distilbert_serving.server import ModelServer
from distilbert_serving.tf_serving.config_protos import SSLConfig
from serving_models import call
from tensorflow_serving.apis import prediction_service_pb2_grpc


@pytest.fixture(scope="module")
def both(base_path):
    server = ModelServer(base_path, "m", port=0, rest_port=0, monitoring_path="/metrics")
    with server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield server, prediction_service_pb2_grpc.PredictionServiceStub(channel)


def fetch(server, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(
        f"http://127.0.0.1:{server.rest_port}{path}", data, timeout=10
    ) as answer:
        return answer.read().decode()


def test_both_answer_alike(both):
    server, stub = both
    body = {"instances": ["abc", "a longer text than that"]}
    rows = json.loads(fetch(server, "/v1/models/m:predict", body))["predictions"]
    outputs = call(stub, {"text": body["instances"]})
    assert [row["logits"] for row in rows] == outputs["logits"].tolist()
    assert rows[0]["logits"] == serving_models.logits_of("abc").tolist()
    assert np.isnan(call(stub, {"x": np.float32("nan")}, signature="square")["y"])
    # As TF Serving writes it, though JSON has no such number.
    square = {"signature_name": "square", "inputs": float("nan")}
    assert fetch(server, "/v1/models/m:predict", square) == '{"outputs": NaN}'
    examples = {"signature_name": "regress", "examples": [{"text": "abc"}, {"text": "four"}]}
    assert json.loads(fetch(server, "/v1/models/m:regress", examples))["results"] == [3.0, 4.0]


def test_both_are_counted(both):
    server, stub = both
    call(stub, {"text": ["abc"]})
    page = fetch(server, "/metrics")
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"}' in page
    assert 'API="Predict",entrypoint="GRPC"' in page


def test_it_can_be_started_again(base_path):
    server = ModelServer(base_path, "m", port=0, rest_port=0)
    for _ in range(2):
        with server:
            assert "AVAILABLE" in fetch(server, "/v1/models/m")


@certificates.needs_openssl
def test_tls_on_both_ports(base_path, tmp_path):
    authority = certificates.make_authority(tmp_path)
    key, certificate = certificates.make_certificate(tmp_path, "localhost", authority)
    config = SSLConfig(server_key=key.read_text(), server_cert=certificate.read_text())
    credentials = grpc.ssl_channel_credentials(authority[1].read_bytes())
    trusting = ssl.create_default_context(cafile=authority[1])
    server = ModelServer(base_path, "m", "localhost", 0, rest_port=0, ssl_config=config)
    with server, grpc.secure_channel(f"localhost:{server.port}", credentials) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert call(stub, {"text": ["abc"]})["label"].tolist() == [b"short"]
        url = f"https://localhost:{server.rest_port}/v1/models/m"
        with urllib.request.urlopen(url, context=trusting, timeout=10) as answer:
            assert b"AVAILABLE" in answer.read()
        with (
            grpc.insecure_channel(f"localhost:{server.port}") as plain,
            pytest.raises(grpc.RpcError) as caught,
        ):
            call(prediction_service_pb2_grpc.PredictionServiceStub(plain), {"text": ["abc"]})
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
