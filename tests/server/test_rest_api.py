"""The REST API's paths, codes and contents, without sockets."""

import json

import grpc
import pytest
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.server.rest_api import RestApi
from distilbert_serving.tf_serving.serving_config import METRICS_PATH
from rest_core import FakeCore


@pytest.fixture
def core():
    return FakeCore()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def api(core, metrics):
    return RestApi(core, metrics, METRICS_PATH)


def post(api, target, document, code=200):
    answer = api.answer("POST", target, json.dumps(document).encode())
    assert answer.http_code == code, answer.body
    assert answer.content_type == "application/json"
    return json.loads(answer.body)


def get(api, target, code=200):
    answer = api.answer("GET", target, b"")
    assert answer.http_code == code, answer.body
    return json.loads(answer.body)


def test_predict_in_rows_and_columns(api):
    row = {"length": 3, "half": 1.5, "text_bytes": {"b64": "YWJj"}}
    assert post(api, "/v1/models/m:predict", {"instances": ["abc"]}) == {"predictions": [row]}
    columns = {"length": [3], "half": [1.5], "text_bytes": [{"b64": "YWJj"}]}
    assert post(api, "/v1/models/m:predict", {"inputs": ["abc"]}) == {"outputs": columns}


def test_predict_with_a_signature_of_several_inputs(api):
    rows = [{"text": "ab", "text_pair": "c"}, {"text": "", "text_pair": "d"}]
    answer = post(api, "/v1/models/m:predict", {"signature_name": "pairs", "instances": rows})
    assert [row["second"] for row in answer["predictions"]] == ["c", "d"]
    ids = {"signature_name": "ids", "instances": [[1, 2], [3, 4]]}
    assert post(api, "/v1/models/m:predict", ids) == {"predictions": [3, 7]}
    scalar = {"signature_name": "scalar", "inputs": 3}
    assert post(api, "/v1/models/m:predict", scalar) == {"outputs": 9.0}


@pytest.mark.parametrize(
    ("target", "version", "label"),
    [
        ("/v1/models/m:predict", None, ""),
        ("/v1/models/m/versions/3:predict", 3, ""),
        ("/v1/models/m/labels/stable:predict", None, "stable"),
        ("/V1/Models/m:PREDICT?x=1", None, ""),
        ("/v1/models/%6d/labels/st%61ble:predict", None, "stable"),
        ("http://localhost:8501/v1/models/m:predict", None, ""),
    ],
)
def test_paths_name_model_version_and_label(api, core, target, version, label):
    post(api, target, {"instances": ["a"]})
    spec = core.requests[0].model_spec
    assert spec.name == "m"
    assert (spec.version.value if spec.HasField("version") else None) == version
    assert spec.version_label == label


def test_classify_and_regress(api):
    document = {"examples": [{"text": "abc"}, {"text": ["d"]}]}
    body = json.dumps(document).encode()
    answer = api.answer("POST", "/v1/models/m:classify", body)
    text = (
        '{"results": [\n    [["short", 0.25], ["abc", NaN]],\n    [["short", 0.25], ["d", NaN]]\n]}'
    )
    assert answer.body.decode() == text
    assert post(api, "/v1/models/m:regress", document) == {"results": [3.0, 1.0]}
    shared = {"examples": [{}, {}], "context": {"text": "four"}}
    assert post(api, "/v1/models/m/versions/3:regress", shared) == {"results": [4.0, 4.0]}


def test_the_signature_of_examples_goes_along(api, core):
    document = {"examples": [{"text": "a"}], "signature_name": "regress"}
    post(api, "/v1/models/m:regress", document)
    assert core.requests[0].model_spec.signature_name == "regress"


@pytest.mark.parametrize("part", ["", "/versions/3", "/labels/stable", "/labels/ignored"])
def test_status(api, part):
    assert get(api, f"/v1/models/m{part}") == {
        "model_version_status": [
            {
                "version": "3",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }


def test_metadata(api):
    answer = get(api, "/v1/models/m/metadata")
    assert answer["model_spec"] == {"name": "m", "signature_name": "", "version": "3"}
    ids = answer["metadata"]["signature_def"]["signature_def"]["ids"]
    assert ids["inputs"]["ids"]["dtype"] == "DT_INT32"
    assert ids["inputs"]["ids"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]
    assert ids["method_name"] == "tensorflow/serving/predict"


@pytest.mark.parametrize(
    ("target", "document", "code", "gist"),
    [
        ("/v1/models/m:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("/v1/models/m:predict", {"instances": ["full"]}, 503, "The queue is full"),
        ("/v1/models/m:predict", {"instances": ["boom"]}, 500, "RuntimeError: the graph is on"),
        ("/v1/models/other:predict", {"instances": ["a"]}, 404, "Latest(other)"),
        ("/v1/models/m/versions/4:predict", {"instances": ["a"]}, 404, "Specific(m, 4)"),
        ("/v1/models/m/versions/99999999999999999999999:predict", {}, 400, "to numeric"),
        ("/v1/models/m/versions/9223372036854775808:predict", {}, 400, "to numeric"),
        ("/v1/models/m/labels/x:predict", {"instances": ["a"]}, 400, "version label: x"),
        ("/v1/models/m:predict", {"instances": [1], "signature_name": "no"}, 400, '"no" not found'),
        ("/v1/models/m:classify", {}, 400, "Expecting 'examples'"),
    ],
)
def test_errors_of_posts(api, target, document, code, gist):
    answer = post(api, target, document, code)
    assert list(answer) == ["error"]
    assert gist in answer["error"]


@pytest.mark.parametrize("target", ["/v1/models/x", "/v1/models/x/metadata"])
def test_models_that_are_not_there(api, target):
    assert list(get(api, target, 404)) == ["error"]


@pytest.mark.parametrize(
    ("method", "target"),
    [
        *(("POST", f"/v1/models/m{end}") for end in (":explain", "/versions/x:predict", "")),
        *(("POST", target) for target in ("/", METRICS_PATH, "http://[::1/v1")),
        *(("GET", f"/v1/models/m{end}") for end in (":predict", "/versions/x", "/x")),
        *(("GET", target) for target in ("/v1/models", "/v2")),
        *((method, "/v1/models/m:predict") for method in ("PUT", "DELETE", "HEAD")),
    ],
)
def test_what_is_no_request(api, method, target):
    answer = api.answer(method, target, b"{}")
    assert answer.http_code == 400
    assert json.loads(answer.body) == {"error": f"Malformed request: {method} {target}"}


@pytest.mark.parametrize(
    ("code", "http_code"),
    [
        ("CANCELLED", 499), ("UNKNOWN", 500), ("INVALID_ARGUMENT", 400), ("DEADLINE_EXCEEDED", 504),
        ("NOT_FOUND", 404), ("ALREADY_EXISTS", 409), ("PERMISSION_DENIED", 403),
        ("RESOURCE_EXHAUSTED", 429), ("FAILED_PRECONDITION", 400), ("ABORTED", 409),
        ("OUT_OF_RANGE", 400), ("UNIMPLEMENTED", 501), ("INTERNAL", 500), ("UNAVAILABLE", 503),
        ("DATA_LOSS", 500), ("UNAUTHENTICATED", 401),
    ],
)  # fmt: skip
def test_http_codes_are_tf_servings(api, core, monkeypatch, code, http_code):
    from distilbert_serving.server import status

    def fail(request, is_active):
        raise status.RequestError(grpc.StatusCode[code], "why\n\x00 \ud800")

    monkeypatch.setattr(core, "predict", fail)
    answer = post(api, "/v1/models/m:predict", {"instances": ["a"]}, http_code)
    assert answer == {"error": "why\n\x00 ?"}


def test_requests_are_counted(api):
    post(api, "/v1/models/m:predict", {"instances": ["a"]})
    post(api, "/v1/models/m:Predict", {"instances": [1]}, 400)
    get(api, "/v1/models/m")
    answer = api.answer("GET", METRICS_PATH, b"")
    assert (answer.http_code, answer.content_type[:10]) == (200, "text/plain")
    page = answer.body.decode()
    count = ":tensorflow:serving:request_count"
    assert f'{count}{{model_name="m",status="OK"}} 1.0\n' in page
    assert f'{count}{{model_name="m",status="INVALID_ARGUMENT"}} 1.0\n' in page
    latency = ":tensorflow:serving:request_latency_count"
    assert f'{latency}{{API="predict",entrypoint="REST",model_name="m"}} 1.0\n' in page


def test_without_a_monitoring_path_there_is_no_page(core, metrics):
    get(RestApi(core, metrics), METRICS_PATH, 400)
