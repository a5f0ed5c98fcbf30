"""A core for tests of the REST API, without a model: it answers from what it is asked."""

import json
import threading

import grpc
import numpy as np
from distilbert_serving import tensors
from distilbert_serving.protos import (
    classification_pb2,
    example_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    meta_graph_pb2,
    predict_pb2,
    regression_pb2,
    types_pb2,
)
from distilbert_serving.server import json_requests, status


def signature(**inputs):
    """Makes a SignatureDef whose inputs have these types, and dimensions of any size."""
    proto = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    for name, data_type in inputs.items():
        proto.inputs[name].dtype = data_type
        proto.inputs[name].tensor_shape.dim.add(size=-1)
    return proto


SIGNATURES = {
    "serving_default": signature(text=types_pb2.DT_STRING),
    "pairs": signature(text=types_pb2.DT_STRING, text_pair=types_pb2.DT_STRING),
    "ids": signature(ids=types_pb2.DT_INT32),
    "scalar": signature(x=types_pb2.DT_FLOAT),
}


def read(body, **types):
    """Reads a Predict request: its tensors as arrays, and whether it is in rows."""
    if not isinstance(body, bytes):
        body = json.dumps(body, ensure_ascii=False).encode()
    document = json_requests.parse_object(body)
    request = predict_pb2.PredictRequest()
    is_rows = json_requests.fill_inputs(document, signature(**types).inputs, request)
    return {name: tensors.to_array(proto) for name, proto in request.inputs.items()}, is_rows


class FakeCore:
    """Lengths of texts for answers; "wait" for a text waits, "boom" fails."""

    def __init__(self):
        self.requests = []
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.saw_leave = threading.Event()

    def _check(self, spec):
        if spec.name != "m":
            raise status.not_found(f"Servable not found for request: Latest({spec.name})")
        if spec.HasField("version") and spec.version.value != 3:
            raise status.not_found(
                f"Servable not found for request: Specific({spec.name}, {spec.version.value})"
            )
        if spec.version_label not in ("", "stable"):
            raise status.invalid(f"Unrecognized servable version label: {spec.version_label}")

    def signature_defs(self, model_spec):
        self._check(model_spec)
        return "m", 3, SIGNATURES

    def predict(self, request, is_active=lambda: True):
        self._check(request.model_spec)
        self.requests.append(request)
        arrays = {name: tensors.to_array(proto) for name, proto in request.inputs.items()}
        response = predict_pb2.PredictResponse(model_spec=request.model_spec)
        name = request.model_spec.signature_name
        if name == "ids":
            outputs = {"total": arrays["ids"].sum(axis=-1)}
        elif name == "scalar":
            outputs = {"y": np.square(arrays["x"])}
        else:
            texts = arrays["text"].ravel().tolist()
            self._obey(texts, is_active)
            outputs = {
                "length": np.array([len(text) for text in texts], np.int64),
                "half": np.array([len(text) / 2 for text in texts], np.float32),
                "text_bytes": arrays["text"].ravel(),
            }
            if name == "pairs":
                outputs["second"] = arrays["text_pair"].ravel()
        for key, array in outputs.items():
            response.outputs[key].CopyFrom(tensors.to_proto(array, as_fields=True))
        return response

    def _obey(self, texts, is_active):
        if b"wait" in texts:
            self.started.set()
            while not self.go_on.wait(0.01):
                if not is_active():
                    self.saw_leave.set()
                    raise status.RequestError(grpc.StatusCode.CANCELLED, "gone")
        if b"boom" in texts:
            raise RuntimeError("the graph is on fire")
        if b"full" in texts:
            raise status.RequestError(grpc.StatusCode.UNAVAILABLE, "The queue is full")

    def _texts(self, request):
        self._check(request.model_spec)
        self.requests.append(request)
        examples = request.input.example_list.examples
        context = example_pb2.Example()
        if request.input.HasField("example_list_with_context"):
            examples = request.input.example_list_with_context.examples
            context = request.input.example_list_with_context.context
        for example in examples:
            features = dict(context.features.feature)
            features.update(example.features.feature)
            yield features["text"].bytes_list.value[0].decode()

    def classify(self, request, is_active=lambda: True):
        response = classification_pb2.ClassificationResponse()
        for text in self._texts(request):
            classes = response.result.classifications.add().classes
            classes.add(label="short", score=0.25)
            classes.add(label=text, score=float("nan"))
        return response

    def regress(self, request, is_active=lambda: True):
        response = regression_pb2.RegressionResponse()
        for text in self._texts(request):
            response.result.regressions.add(value=len(text))
        return response

    def get_model_metadata(self, request):
        self._check(request.model_spec)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = "m"
        response.model_spec.version.value = 3
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, proto in SIGNATURES.items():
            signatures.signature_def[name].CopyFrom(proto)
        response.metadata["signature_def"].Pack(signatures)
        return response

    def get_model_status(self, request):
        self._check(request.model_spec)
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(
            version=3, state=get_model_status_pb2.ModelVersionStatus.AVAILABLE
        ).status.SetInParent()
        return response
