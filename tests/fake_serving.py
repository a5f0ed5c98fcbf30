"""A server with TF Serving's API and no TensorFlow: answers can be worked out by hand."""

import time
from concurrent import futures

import grpc
import numpy as np
from distilbert_serving import signatures, tensors
from distilbert_serving.protos import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
    types_pb2,
)

LABELS = ["kurz", "länger"]
MAX_LENGTH, MAX_TEXT_BYTES, MAX_MASKS, VOCABULARY = 6, 10_000, 3, 100
LONG = "x" * (MAX_TEXT_BYTES + 1)  # a text that is not computed

SIZES = {
    "classify_text": (2,),
    "encode": (3,),
    "tokenize": (MAX_LENGTH,),
    "fill_mask": (MAX_MASKS, 2),
}
# By signature: what it takes, and the endpoint whose outputs it has.
ENDPOINTS = {
    "serving_default": ("texts", "classify_text"),
    "mnli": ("pairs", "classify_text"),
    "mnli_tokenize": ("pairs", "tokenize"),
    "encode": ("texts", "encode"),
    "tokenize": ("texts", "tokenize"),
    "fill_mask": ("texts", "fill_mask"),
    "from_ids": ("ids", "classify_text"),
}


def size_of(text, text_pair=b""):
    return float(len(text) + 10 * len(text_pair))


def logits_of(*texts):
    size = size_of(*(text.encode() if isinstance(text, str) else text for text in texts))
    return np.float32([5.5 - size, size - 5.5])


def is_short(*texts):
    return max(map(len, texts)) <= MAX_TEXT_BYTES


def blank(outputs, is_valid):
    """Fills the rows that cannot be computed with NaN, "" and -1."""
    for array in outputs.values():
        array[~is_valid] = {"f": np.nan, "i": -1, "O": b""}[array.dtype.kind]
    return outputs


def signature_defs():
    """The signatures as GetModelMetadata returns them: the contract's, with sizes."""
    message = get_model_metadata_pb2.SignatureDefMap()
    for name, (kind, endpoint) in ENDPOINTS.items():
        signature = message.signature_def[name]
        signature.method_name = "tensorflow/serving/predict"
        for infos, contract, sizes in (
            (signature.inputs, signatures.INPUTS[kind], (-1,)),
            (signature.outputs, signatures.OUTPUTS[endpoint], SIZES[endpoint]),
        ):
            for key, info in contract.items():
                infos[key].dtype = types_pb2.DataType.Value(f"DT_{info.dtype.upper()}")
                for size in (-1, *sizes)[: len(info.shape)]:
                    infos[key].tensor_shape.dim.add(size=size)
    return message


class FakeServing(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """Answers as an export would.

    Args:
        script: For each request to come a status, seconds to wait, or a function that changes the
            answer; when it is at its end, all is well.
        label: The one version label that there is.
    """

    def __init__(self, *script, label="stable"):
        self.script = list(script)
        self.label = label
        self.requests = []
        self.headers = []
        self.active = self.most_active = 0

    def _answer(self, request, context, make):
        self.requests.append(request)
        self.headers.append(dict(context.invocation_metadata()))
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            step = self.script.pop(0) if self.script else 0.0
            if isinstance(step, grpc.StatusCode):
                context.abort(step, "as the script says")
            if isinstance(step, float):
                time.sleep(step)
            answer = make(request)
            if callable(step):
                step(answer)
            return answer
        finally:
            self.active -= 1

    def Predict(self, request, context):  # noqa: N802
        return self._answer(request, context, self._predict)

    def Classify(self, request, context):  # noqa: N802
        return self._answer(request, context, self._classify)

    def Regress(self, request, context):  # noqa: N802
        return self._answer(request, context, self._regress)

    def MultiInference(self, request, context):  # noqa: N802
        return self._answer(request, context, self._multi_inference)

    def GetModelMetadata(self, request, context):  # noqa: N802
        if request.model_spec.version_label not in ("", self.label):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Unrecognized servable version label")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.version.value = 7
        response.metadata["signature_def"].Pack(signature_defs())
        return response

    def GetModelStatus(self, request, context):  # noqa: N802
        return self._answer(request, context, self._status)

    def _status(self, request):
        response = get_model_status_pb2.GetModelStatusResponse()
        available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        response.model_version_status.add(version=7, state=available)
        return response

    def _predict(self, request):
        inputs = {name: tensors.to_array(proto) for name, proto in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        for name, array in self._outputs(request.model_spec.signature_name, inputs).items():
            response.outputs[name].CopyFrom(tensors.to_proto(array, as_fields=True))
        return response

    def _outputs(self, signature_name, inputs):
        if signature_name == "from_ids":
            ids, counts = inputs["input_ids"], inputs["num_tokens"]
            counted = ids * (np.arange(ids.shape[1]) < counts[:, None])
            is_valid = (counts > 0) & (counted >= 0).all(1) & (counted < VOCABULARY).all(1)
            sizes = counted.sum(axis=1)
            outputs = self._labels(np.stack([5.5 - sizes, sizes - 5.5], 1).astype(np.float32))
            return blank(outputs, is_valid)
        rows = list(zip(*(inputs[name] for name in sorted(inputs)), strict=True))
        is_valid = np.array([is_short(*row) for row in rows], bool)
        if signature_name in ("tokenize", "mnli_tokenize"):
            words = [[b"[CLS]", *b" ".join(row).split()][:MAX_LENGTH] for row in rows]
            counts = np.int32([len(row) for row in words])
            padded = [row + [b"[PAD]"] * (MAX_LENGTH - len(row)) for row in words]
            ids = np.int32([[0 if word == b"[PAD]" else len(word) for word in w] for w in padded])
            tokens = np.array(padded, object)
            outputs = {"input_ids": ids, "num_tokens": counts, "tokens": tokens}
        elif signature_name == "encode":
            cls = np.float32([[size_of(*row), 0.5, -1.0] for row in rows])
            outputs = {"cls_embedding": cls, "mean_embedding": 2 * cls}
        elif signature_name == "fill_mask":
            counts = np.array([row[0].count(b"[MASK]") for row in rows])
            is_valid &= counts <= MAX_MASKS
            shape = (len(rows), MAX_MASKS, 2)
            tokens, scores = np.full(shape, b"", object), np.zeros(shape, np.float32)
            ids = np.zeros(shape, np.int32)
            for b, count in enumerate(counts * is_valid):
                for m in range(count):
                    tokens[b, m], ids[b, m], scores[b, m] = ["bé", "to"], [m, 9], [0.5, 0.25]
            outputs = {"tokens": tokens, "token_ids": ids, "scores": scores}
        else:
            outputs = self._labels(np.stack([logits_of(*row) for row in rows]))
        return blank(outputs, is_valid)

    def _labels(self, logits):
        ids = logits.argmax(axis=1).astype(np.int32)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return {
            "label": np.array([LABELS[i] for i in ids], object),
            "label_id": ids,
            "probabilities": weights / weights.sum(axis=1, keepdims=True),
            "logits": logits,
        }

    def _rows(self, request):
        for example in request.input.example_list.examples:
            feature = example.features.feature
            yield [
                feature[name].bytes_list.value[0]
                for name in ("text", "text_pair")
                if name in feature
            ]

    def _classify(self, request):
        response = classification_pb2.ClassificationResponse()
        self._add_classes(request, response.result)
        return response

    def _add_classes(self, request, result):
        for row in self._rows(request):
            classes = result.classifications.add()
            for label, score in zip(LABELS, logits_of(*row), strict=True):
                if is_short(*row):
                    classes.classes.add(label=label, score=score)
                else:
                    classes.classes.add(label="", score=np.nan)

    def _regress(self, request):
        response = regression_pb2.RegressionResponse()
        self._add_values(request, response.result)
        return response

    def _add_values(self, request, result):
        for row in self._rows(request):
            result.regressions.add(value=size_of(*row) if is_short(*row) else np.nan)

    def _multi_inference(self, request):
        response = inference_pb2.MultiInferenceResponse()
        for task in request.tasks:
            result = response.results.add(model_spec=task.model_spec)
            if task.method_name == "tensorflow/serving/classify":
                self._add_classes(request, result.classification_result)
            else:
                self._add_values(request, result.regression_result)
        return response


def start(servicer, address="127.0.0.1:0", credentials=None, options=()):
    """Starts a server; returns it and its port."""
    server = grpc.server(futures.ThreadPoolExecutor(16), options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, credentials)
    server.start()
    return server, port
