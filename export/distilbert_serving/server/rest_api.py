"""TF Serving's REST API without the sockets: a method, a path and a body in, an answer out.

    POST /v1/models/M[/versions/V|/labels/L]:predict|classify|regress
    GET  /v1/models/M[/versions/V|/labels/L]             the states of its versions
    GET  /v1/models/M[/versions/V|/labels/L]/metadata    its signatures

Reference: tensorflow_serving/g3doc/api_rest.md; in tensorflow_serving/model_servers,
http_rest_api_handler.cc, http_rest_api_util.cc for the paths, and http_server.cc for the codes.
"""

import contextlib
import dataclasses
import re
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, Protocol

import grpc
from absl import logging

from distilbert_serving import signatures
from distilbert_serving.protos import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    meta_graph_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)
from distilbert_serving.server import json_requests, json_responses, status
from distilbert_serving.server.metrics import CONTENT_TYPE, Metrics

JSON = "application/json"

_MODEL = (
    r"(?i)/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
)
_POST_PATH = re.compile(_MODEL + r":(?P<method>classify|regress|predict)")
_GET_PATH = re.compile(_MODEL + r"(?:/(?P<method>metadata))?")
_MAX_VERSION = 2**63 - 1

_Code = grpc.StatusCode
_HTTP_CODES = {
    _Code.OK: 200,
    _Code.CANCELLED: 499,
    _Code.INVALID_ARGUMENT: 400,
    _Code.DEADLINE_EXCEEDED: 504,
    _Code.NOT_FOUND: 404,
    _Code.ALREADY_EXISTS: 409,
    _Code.PERMISSION_DENIED: 403,
    _Code.RESOURCE_EXHAUSTED: 429,
    _Code.FAILED_PRECONDITION: 400,
    _Code.ABORTED: 409,
    _Code.OUT_OF_RANGE: 400,
    _Code.UNIMPLEMENTED: 501,
    _Code.UNAVAILABLE: 503,
    _Code.UNAUTHENTICATED: 401,
}  # any other: 500

IsActive = Callable[[], bool]


class Core(Protocol):
    """What answers the requests: the part of `ServerCore` that REST needs."""

    def predict(
        self, request: predict_pb2.PredictRequest, is_active: IsActive
    ) -> predict_pb2.PredictResponse:
        """Runs a signature on tensors."""

    def classify(
        self, request: classification_pb2.ClassificationRequest, is_active: IsActive
    ) -> classification_pb2.ClassificationResponse:
        """Runs a signature on tf.Examples, for classes."""

    def regress(
        self, request: regression_pb2.RegressionRequest, is_active: IsActive
    ) -> regression_pb2.RegressionResponse:
        """Runs a signature on tf.Examples, for numbers."""

    def get_model_metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Gives a model's signatures."""

    def get_model_status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Gives the states of a model's versions."""

    def signature_defs(
        self, model_spec: model_pb2.ModelSpec
    ) -> tuple[str, int, dict[str, meta_graph_pb2.SignatureDef]]:
        """Gives the name, version and signatures that a spec stands for."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What goes back to the client.

    Args:
        http_code: The HTTP status code.
        body: The body, UTF-8.
        content_type: What the body is.
    """

    http_code: int
    body: bytes
    content_type: str = JSON


def error_answer(http_code: int, text: str) -> Answer:
    """Makes the answer to a request that failed."""
    return Answer(http_code, json_responses.write_error(text).encode("utf-8", "replace"))


class RestApi:
    """Answers requests.

    Args:
        core: What answers them inside.
        metrics: Where they are counted, and what the monitoring page shows.
        monitoring_path: The path of the page for Prometheus; None for no page.
    """

    def __init__(self, core: Core, metrics: Metrics, monitoring_path: str | None = None) -> None:
        self._core = core
        self._metrics = metrics
        self._monitoring_path = monitoring_path

    def answer(
        self, http_method: str, target: str, body: bytes, is_active: IsActive = lambda: True
    ) -> Answer:
        """Answers a request; never raises.

        Args:
            http_method: GET, POST or another.
            target: The path, with a query or without.
            body: The body, decoded.
            is_active: Says whether the client still waits.
        """
        path = ""
        with contextlib.suppress(ValueError):
            path = urllib.parse.urlsplit(target).path
        if http_method == "GET":
            if path == self._monitoring_path:
                return Answer(200, self._metrics.render(), CONTENT_TYPE)
            if match := _GET_PATH.fullmatch(path):
                about = self._metadata if match["method"] else self._status
                return _run(lambda: about(_read_spec(match)))[1]
        if http_method == "POST" and (inference := _POST_PATH.fullmatch(path)):
            return self._answer_inference(inference, body, is_active)
        return error_answer(400, f"Malformed request: {http_method} {path or target}")

    def _answer_inference(self, match: re.Match[str], body: bytes, is_active: IsActive) -> Answer:
        """Answers and counts a request that runs a model."""
        start_s = time.monotonic()
        method = match["method"].lower()
        run = {"predict": self._predict, "classify": self._classify, "regress": self._regress}
        code, answer = _run(lambda: run[method](_read_spec(match), body, is_active))
        self._metrics.observe_request(
            urllib.parse.unquote(match["model"]),
            method,
            code,
            time.monotonic() - start_s,
            "REST",
        )
        return answer

    def _predict(self, spec: model_pb2.ModelSpec, body: bytes, is_active: IsActive) -> str:
        document = json_requests.parse_object(body)
        spec.signature_name = json_requests.read_signature_name(document)
        name = spec.signature_name or signatures.SERVING_DEFAULT
        _, _, signature_defs = self._core.signature_defs(spec)
        if name not in signature_defs:
            raise status.invalid(
                f'Serving signature name: "{name}" not found in signature def. The model has '
                f"{', '.join(sorted(key for key, proto in signature_defs.items() if proto.inputs))}"
            )
        infos = signature_defs[name].inputs
        if not infos:
            raise status.invalid(f"Failed to get input map for signature: {name}: it has no inputs")
        request = predict_pb2.PredictRequest(model_spec=spec)
        is_rows = json_requests.fill_inputs(document, infos, request)
        response = self._core.predict(request, is_active)
        return json_responses.write_outputs(response.outputs, is_rows)

    def _classify(self, spec: model_pb2.ModelSpec, body: bytes, is_active: IsActive) -> str:
        request = classification_pb2.ClassificationRequest(model_spec=spec)
        _fill_examples(request, body)
        return json_responses.write_classifications(self._core.classify(request, is_active).result)

    def _regress(self, spec: model_pb2.ModelSpec, body: bytes, is_active: IsActive) -> str:
        request = regression_pb2.RegressionRequest(model_spec=spec)
        _fill_examples(request, body)
        return json_responses.write_regressions(self._core.regress(request, is_active).result)

    def _status(self, spec: model_pb2.ModelSpec) -> str:
        spec.ClearField("version_label")  # TF Serving ignores it here
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        return json_responses.write_status(self._core.get_model_status(request))

    def _metadata(self, spec: model_pb2.ModelSpec) -> str:
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=["signature_def"]
        )
        return json_responses.write_metadata(self._core.get_model_metadata(request))


def _fill_examples(request: Any, body: bytes) -> None:
    document = json_requests.parse_object(body)
    request.model_spec.signature_name = json_requests.read_signature_name(document)
    request.input.CopyFrom(json_requests.read_examples(document))


def _read_spec(match: re.Match[str]) -> model_pb2.ModelSpec:
    """Gives the model, and the version or label, that a path names."""
    spec = model_pb2.ModelSpec(name=urllib.parse.unquote(match["model"]))
    if match["version"]:
        if len(match["version"]) > 20 or int(match["version"]) > _MAX_VERSION:
            raise status.invalid(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(match["version"])
    elif match["label"]:
        spec.version_label = urllib.parse.unquote(match["label"])
    return spec


def _run(call: Callable[[], str]) -> tuple[grpc.StatusCode, Answer]:
    """Gives a call's result as an answer, or its error as one."""
    try:
        return _Code.OK, Answer(200, call().encode("utf-8", "replace"))
    except status.RequestError as error:
        failure = error
    except Exception as error:
        logging.exception("A REST request failed unexpectedly")
        failure = status.internal(error)
    return failure.code, error_answer(_HTTP_CODES.get(failure.code, 500), failure.message)
