"""TF Serving's REST API without the sockets: a method, a path and a body in, an answer out.

    POST /v1/models/M[/versions/V|/labels/L]:predict|classify|regress
    GET  /v1/models/M[/versions/V|/labels/L]             the states of its versions
    GET  /v1/models/M[/versions/V|/labels/L]/metadata    its signatures

Reference: tensorflow_serving/g3doc/api_rest.md; in tensorflow_serving/model_servers,
http_rest_api_handler.cc, http_rest_api_util.cc for the paths, and http_server.cc for the codes.
"""

import functools
import json
import re
import time

import grpc
from absl import logging
from google.protobuf import json_format
from starlette.responses import Response

from distilbert_serving import signatures
from distilbert_serving.protos import (
    classification_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)
from distilbert_serving.server import json_tensors, status
from distilbert_serving.server.batching import IsActive
from distilbert_serving.server.json_tensors import Document
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.server.request_handler import RequestHandler

_MODEL = r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_PATHS = {
    "GET": re.compile(_MODEL + "(?:/(?P<verb>metadata))?", re.IGNORECASE),
    "POST": re.compile(_MODEL + ":(?P<verb>classify|regress|predict)", re.IGNORECASE),
}
_Code = grpc.StatusCode
_HTTP_CODES = {  # any other: 500
    _Code.OK: 200, _Code.INVALID_ARGUMENT: 400, _Code.FAILED_PRECONDITION: 400,
    _Code.OUT_OF_RANGE: 400, _Code.UNAUTHENTICATED: 401, _Code.PERMISSION_DENIED: 403,
    _Code.NOT_FOUND: 404, _Code.ALREADY_EXISTS: 409, _Code.ABORTED: 409,
    _Code.RESOURCE_EXHAUSTED: 429, _Code.CANCELLED: 499, _Code.UNIMPLEMENTED: 501,
    _Code.UNAVAILABLE: 503, _Code.DEADLINE_EXCEEDED: 504,
}  # fmt: skip

_encode = json.JSONEncoder(ensure_ascii=False).encode
_to_document = functools.partial(
    json_format.MessageToDict,
    always_print_fields_with_no_presence=True,
    preserving_proto_field_name=True,
)


class RestApi:
    """Answers requests, and counts those for inference."""

    def __init__(self, handler: RequestHandler, metrics: Metrics) -> None:
        self._handler = handler
        self._metrics = metrics

    def answer(self, method: str, path: str, body: bytes, is_active: IsActive) -> Response:
        """Answers a request, and never raises; `path` is decoded and without a query."""
        started_s = time.monotonic()
        match = _PATHS[method].fullmatch(path) if method in _PATHS else None
        verb = (match["verb"] or "status").lower() if match else ""
        code = _Code.OK
        try:
            if match is None:
                raise status.invalid(f"Malformed request: {method} {path}")
            if method == "GET":
                document = self._describe(_read_spec(match), verb)
            else:
                document = self._infer(_read_spec(match), verb, body, is_active)
        except status.RequestError as error:
            code, document = error.code, {"error": error.message}
        except Exception as error:
            logging.exception("A REST request failed unexpectedly")
            code, document = _Code.INTERNAL, {"error": status.internal(error).message}
        if match is not None and method == "POST":
            seconds = time.monotonic() - started_s
            self._metrics.observe_request(match["model"], verb, code, seconds, "REST")
        return json_response(_HTTP_CODES.get(code, 500), document)

    def _describe(self, spec: model_pb2.ModelSpec, verb: str) -> Document:
        if verb == "status":
            spec.ClearField("version_label")  # TF Serving ignores it here
            request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
            return _to_document(self._handler.get_model_status(request))
        name, version, signature_defs = self._handler.signature_defs(spec)
        documents = {key: _to_document(proto) for key, proto in signature_defs.items()}
        return {
            "model_spec": {"name": name, "signature_name": "", "version": str(version)},
            "metadata": {"signature_def": {"signature_def": documents}},
        }

    def _infer(
        self, spec: model_pb2.ModelSpec, verb: str, body: bytes, is_active: IsActive
    ) -> Document:
        document = json_tensors.parse_object(body)
        try:
            spec.signature_name = document.get("signature_name", "")
        except (TypeError, ValueError) as error:  # not a string, or half a surrogate pair in it
            raise status.invalid(f"'signature_name' should be a string: {error}") from error
        if verb == "predict":
            inputs, is_rows = json_tensors.read_inputs(document, self._input_infos(spec))
            predict = predict_pb2.PredictRequest(model_spec=spec, inputs=inputs)
            outputs = self._handler.predict(predict, is_active).outputs
            return json_tensors.write_outputs(outputs, is_rows)
        examples = json_tensors.read_examples(document)
        if verb == "classify":
            classify = classification_pb2.ClassificationRequest(model_spec=spec, input=examples)
            rows = self._handler.classify(classify, is_active).result.classifications
            return {"results": [[[c.label, c.score] for c in row.classes] for row in rows]}
        regress = regression_pb2.RegressionRequest(model_spec=spec, input=examples)
        values = self._handler.regress(regress, is_active).result.regressions
        return {"results": [each.value for each in values]}

    def _input_infos(self, spec: model_pb2.ModelSpec) -> json_tensors.Infos:
        """Returns what a signature's inputs are, by name."""
        _, _, signature_defs = self._handler.signature_defs(spec)
        name = spec.signature_name or signatures.SERVING_DEFAULT
        infos = signature_defs[name].inputs if name in signature_defs else None
        if not infos:
            known = sorted(key for key, proto in signature_defs.items() if proto.inputs)
            message = f'Serving signature name: "{name}" not found in signature def; there are '
            raise status.invalid(message + ", ".join(known))
        return infos


def json_response(http_code: int, document: Document) -> Response:
    """Returns a response in UTF-8; halves of surrogate pairs become question marks."""
    body = _encode(document).encode("utf-8", "replace")
    return Response(body, http_code, media_type="application/json")


def _read_spec(match: re.Match[str]) -> model_pb2.ModelSpec:
    """Returns the model, and the version or label, that a path names."""
    spec = model_pb2.ModelSpec(name=match["model"], version_label=match["label"])
    if match["version"]:
        try:
            spec.version.value = int(match["version"])
        except ValueError as error:  # beyond 64 bits
            raise status.invalid(f"Version {match['version'][:30]} is too large") from error
    return spec
