"""A request handler for tests of REST: without a model, it answers from what it is asked."""

import threading

import grpc
import numpy as np
from distilbert_serving import tensors
from distilbert_serving.protos import (
    classification_pb2,
    get_model_status_pb2,
    meta_graph_pb2,
    predict_pb2,
    regression_pb2,
    types_pb2,
)
from distilbert_serving.server import status


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
    "square": signature(x=types_pb2.DT_FLOAT),
    "no_inputs": signature(),
}


class FakeHandler:
    """Answers lengths of texts; "wait" for a text waits, "boom" fails, "CODE ..." raises."""

    def __init__(self):
        self.requests = []
        self.started = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.saw_leave = threading.Event()

    def _check(self, request):
        self.requests.append(request)
        spec = request.model_spec
        if spec.name != "m" or (spec.HasField("version") and spec.version.value != 3):
            raise status.not_found(f"Servable not found for request: {spec.name}")
        if spec.version_label not in ("", "stable"):
            raise status.invalid(f"Unrecognized servable version label: {spec.version_label}")

    def signature_defs(self, model_spec):
        self._check(predict_pb2.PredictRequest(model_spec=model_spec))
        return "m", 3, SIGNATURES

    def predict(self, request, is_active):
        self._check(request)
        arrays = {name: tensors.to_array(proto) for name, proto in request.inputs.items()}
        name = request.model_spec.signature_name
        if name == "ids":
            outputs = {"total": arrays["ids"].sum(axis=-1)}
        elif name == "square":
            outputs = {"y": np.square(arrays["x"])}
        else:
            texts = arrays["text"].ravel().tolist()
            self._obey(texts, is_active)
            outputs = {
                "length": np.array([len(text) for text in texts], np.int64),
                "text_bytes": arrays["text"].ravel(),
            }
            if name == "pairs":
                outputs["second"] = arrays["text_pair"].ravel()
        response = predict_pb2.PredictResponse()
        for key, array in outputs.items():
            response.outputs[key].CopyFrom(tensors.to_proto(array, as_fields=True))
        return response

    def _obey(self, texts, is_active):
        if b"wait" in texts:
            self.started.release()
            while not self.go_on.wait(0.01):
                if not is_active():
                    self.saw_leave.set()
                    raise status.RequestError(grpc.StatusCode.CANCELLED, "gone")
        if b"boom" in texts:
            raise RuntimeError("the graph is on fire")
        for text in texts:
            word = text.decode(errors="ignore").partition(" ")[0]
            if word in grpc.StatusCode.__members__:
                raise status.RequestError(grpc.StatusCode[word], "why\n\x00 \ud800")

    def _texts(self, request):
        self._check(request)
        examples = request.input.example_list.examples
        context = {}
        if request.input.HasField("example_list_with_context"):
            examples = request.input.example_list_with_context.examples
            context = dict(request.input.example_list_with_context.context.features.feature)
        for example in examples:
            feature = {**context, **example.features.feature}.get("text")
            if feature is None or not feature.bytes_list.value:
                raise status.invalid("There is no feature text")
            yield feature.bytes_list.value[0].decode(errors="replace")

    def classify(self, request, is_active):
        response = classification_pb2.ClassificationResponse()
        for text in self._texts(request):
            classes = response.result.classifications.add().classes
            classes.add(label="short", score=0.25)
            classes.add(label=text, score=float("nan"))
        return response

    def regress(self, request, is_active):
        response = regression_pb2.RegressionResponse()
        for text in self._texts(request):
            response.result.regressions.add(value=len(text))
        return response

    def get_model_status(self, request):
        self._check(request)
        response = get_model_status_pb2.GetModelStatusResponse()
        available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        response.model_version_status.add(version=3, state=available).status.SetInParent()
        return response
