"""The REST API on a real model: its values, and what it says of input that does not fit."""

import http.client
import json
from concurrent import futures

import numpy as np
import pytest
import serving_models


@pytest.fixture(scope="module")
def port(base_path):
    from distilbert_serving.server import ModelServer

    with ModelServer(
        base_path, "m", port=0, rest_port=0, monitoring_path="/monitoring/prometheus/metrics"
    ) as running:
        yield running.rest_port


@pytest.fixture
def client(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    yield connection
    connection.close()


def ask(client, method, target, document=None):
    client.request(method, target, None if document is None else json.dumps(document))
    response = client.getresponse()
    return response.status, response.read().decode()


def predict(client, document):
    code, body = ask(client, "POST", "/v1/models/m:predict", document)
    assert code == 200, body
    return json.loads(body)


def test_values_in_rows_and_columns(client):
    texts = ["abc", "", "naïve façade", "a longer text than that"]
    rows = predict(client, {"instances": texts})["predictions"]
    columns = predict(client, {"inputs": {"text": texts}})["outputs"]
    expected = [serving_models.logits_of(text) for text in texts]
    np.testing.assert_array_equal([row["logits"] for row in rows], expected)
    np.testing.assert_array_equal(columns["logits"], expected)
    labels = [serving_models.LABELS[logits.argmax()] for logits in expected]
    assert [row["label"] for row in rows] == columns["label"] == labels


def test_pairs_and_other_types(client):
    rows = [{"text": "abc", "text_pair": "ef"}, {"text": "d", "text_pair": "ghij"}]
    answer = predict(client, {"signature_name": "pairs", "instances": rows})["predictions"]
    expected = [serving_models.logits_of(row["text"], row["text_pair"]) for row in rows]
    np.testing.assert_array_equal([row["logits"] for row in answer], expected)
    assert predict(client, {"signature_name": "square", "inputs": 3}) == {"outputs": 9.0}
    ids = {"signature_name": "total", "instances": [[1, 2, 3], [4, 5, 6]]}
    assert predict(client, ids) == {"predictions": [6, 15]}


def test_status_and_metadata(client):
    code, body = ask(client, "GET", "/v1/models/m/versions/30")
    assert code == 200
    (version,) = json.loads(body)["model_version_status"]
    assert (version["version"], version["state"]) == ("30", "AVAILABLE")
    code, body = ask(client, "GET", "/v1/models/m/metadata")
    assert code == 200
    signatures = json.loads(body)["metadata"]["signature_def"]["signature_def"]
    assert signatures["pairs"]["inputs"]["text_pair"]["dtype"] == "DT_STRING"


@pytest.mark.parametrize(
    ("target", "document", "code", "gist"),
    [
        ("m:predict", {"instances": [["a"]]}, 400, "text has shape (1, 1)"),
        ("m:predict", {"inputs": "a"}, 400, "text has shape ()"),
        ("m:predict", {"instances": [1]}, 400, "(input text[0])"),
        ("m:predict", {"instances": [1], "signature_name": "x"}, 400, "not found in signature def"),
        ("m/versions/31:predict", {"instances": ["a"]}, 404, "Specific(m, 31)"),
        ("m/labels/stable:predict", {"instances": ["a"]}, 400, "stable"),
        ("n:predict", {"instances": ["a"]}, 404, "Latest(n)"),
        ("m:classify", {"examples": [{"text": "a"}]}, 400, "Expected one or two output Tensors"),
    ],
)
def test_errors(client, target, document, code, gist):
    found, body = ask(client, "POST", f"/v1/models/{target}", document)
    assert found == code, body
    assert gist in body


def test_many_clients(port):
    def work(i):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        texts = ["x" * i, "y"]
        answers = [predict(connection, {"instances": texts})["predictions"] for _ in range(10)]
        connection.close()
        for rows in answers:
            expected = [serving_models.logits_of(text) for text in texts]
            np.testing.assert_array_equal([row["logits"] for row in rows], expected)

    with futures.ThreadPoolExecutor(32) as pool:
        list(pool.map(work, range(32)))


def test_the_page_for_prometheus_shows_requests_runs_and_loads(client):
    predict(client, {"instances": ["a"]})
    code, page = ask(client, "GET", "/monitoring/prometheus/metrics")
    assert code == 200
    for line in (
        ':tensorflow:serving:request_count{model_name="m",status="OK"} ',
        ":tensorflow:serving:batching_session:wrapped_run_count ",
        ':tensorflow:cc:saved_model:load_attempt_count{model_path="m/30",status="success"} 1.0',
    ):
        assert line in page
