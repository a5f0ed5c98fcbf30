"""Predict, Classify, Regress and MultiInference on one loaded version of a model.

Functions raise `status.RequestError` if a request doesn't fit its signature, or its run fails, with
TF Serving's codes and the gist of its messages. Of a request's model spec they read the signature.
The signature's method name doesn't matter: TensorFlow 2 writes "predict" into all of them.

Reference: predict_util.cc, classifier.cc, regressor.cc, multi_inference.cc and util.cc in
tensorflow_serving/servables/tensorflow; batching_session.cc for batch dimensions.
"""

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np

from distilbert_serving import signatures, tensors
from distilbert_serving.inspection.endpoint_contracts import show_tensors
from distilbert_serving.protos import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)
from distilbert_serving.server import status
from distilbert_serving.server.batching import Arrays, IsActive
from distilbert_serving.server.servable import Servable

_CALLS = {
    signatures.CLASSIFY_METHOD: signatures.CLASSIFY,
    signatures.REGRESS_METHOD: signatures.REGRESS,
}


def predict(
    servable: Servable, request: predict_pb2.PredictRequest, is_active: IsActive
) -> predict_pb2.PredictResponse:
    """Runs a signature on the request's tensors."""
    name = request.model_spec.signature_name or signatures.SERVING_DEFAULT
    if name not in servable.signatures:
        text = f'Serving signature key "{name}" not found. There are {list(servable.signatures)}.'
        raise status.failed_precondition(text)
    signature = servable.signatures[name]
    try:
        inputs = tensors.to_arrays(request.inputs, signature.inputs)
    except ValueError as error:
        raise status.invalid(str(error)) from error
    rows = {key: array.shape[:1] for key, array in inputs.items()}
    if not signature.unbatched and len(set(rows.values())) > 1:
        text = "Batching Run() input tensors must have equal 0th-dimension size, but have"
        raise status.invalid(f"{text} {rows}")
    wanted = list(request.output_filter) or sorted(signature.outputs)
    if not set(wanted).issubset(signature.outputs) or len(set(wanted)) < len(wanted):
        raise status.invalid(
            f"output tensor alias not found in signature, or named twice: {wanted} Outputs "
            f"expected to be in the set {sorted(signature.outputs)}."
        )
    outputs = servable.submit(name, inputs, is_active)()
    response = predict_pb2.PredictResponse(model_spec=_spec_of(servable, name))
    for output in wanted:
        response.outputs[output].CopyFrom(tensors.to_proto(outputs[output], as_fields=True))
    return response


def classify(
    servable: Servable, request: classification_pb2.ClassificationRequest, is_active: IsActive
) -> classification_pb2.ClassificationResponse:
    """Returns every example's classes and their scores."""
    name = _find_signature(servable, request.model_spec, signatures.CLASSIFY)
    result = _classify(*_submit_examples(servable, name, request.input, is_active))
    spec = _spec_of(servable, name)
    return classification_pb2.ClassificationResponse(model_spec=spec, result=result)


def regress(
    servable: Servable, request: regression_pb2.RegressionRequest, is_active: IsActive
) -> regression_pb2.RegressionResponse:
    """Returns a number for every example."""
    name = _find_signature(servable, request.model_spec, signatures.REGRESS)
    result = _regress(*_submit_examples(servable, name, request.input, is_active))
    spec = _spec_of(servable, name)
    return regression_pb2.RegressionResponse(model_spec=spec, result=result)


def multi_inference(
    servable: Servable, request: inference_pb2.MultiInferenceRequest, is_active: IsActive
) -> inference_pb2.MultiInferenceResponse:
    """Runs several signatures of one model on the same examples; none if one doesn't fit."""
    names: list[str] = []
    models = {task.model_spec.name for task in request.tasks}
    if len(models) > 1:
        text = "All ModelSpecs in a MultiInferenceRequest must access the same model name"
        raise status.invalid(f"{text}: got {sorted(models)}")
    for task in request.tasks:
        if task.method_name not in _CALLS:
            text = f"Unsupported signature method_name: {task.method_name!r}; not in {list(_CALLS)}"
            raise status.RequestError(grpc.StatusCode.UNIMPLEMENTED, text)
        name = _find_signature(servable, task.model_spec, _CALLS[task.method_name])
        if name in names:
            raise status.invalid(f"Duplicate evaluation of signature: {name}")
        names.append(name)
    # All are queued before the first is waited for.
    waiting = [_submit_examples(servable, name, request.input, is_active) for name in names]
    response = inference_pb2.MultiInferenceResponse()
    for task, name, submitted in zip(request.tasks, names, waiting, strict=True):
        result = response.results.add(model_spec=_spec_of(servable, name))
        if task.method_name == signatures.CLASSIFY_METHOD:
            result.classification_result.CopyFrom(_classify(*submitted))
        else:
            result.regression_result.CopyFrom(_regress(*submitted))
    return response


def _spec_of(servable: Servable, signature_name: str) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=servable.name, signature_name=signature_name)
    spec.version.value = servable.version
    return spec


def _find_signature(servable: Servable, spec: model_pb2.ModelSpec, call: str) -> str:
    """Returns the name of a signature that fits Classify or Regress."""
    name = spec.signature_name or signatures.SERVING_DEFAULT
    if name not in servable.signatures:  # TF Serving has another code for it than in Predict
        raise status.invalid(f"No signature was found with the name: {name}")
    signature = servable.signatures[name]
    if call not in signature.calls:
        raise status.invalid(
            f"Signature {name} does not fit {call}: it takes {show_tensors(signature.inputs)} and "
            f"returns {show_tensors(signature.outputs)}"
        )
    return name


def _submit_examples(
    servable: Servable, name: str, request_input: input_pb2.Input, is_active: IsActive
) -> tuple[int, Callable[[], Arrays]]:
    """Queues tf.Examples; returns their number, and what waits for the outputs."""
    kind = request_input.WhichOneof("kind")
    batch: Any = getattr(request_input, kind) if kind else input_pb2.ExampleList()
    # The context, if any, is merged into each: parsers merge concatenated messages.
    has_context = kind == "example_list_with_context"
    context = batch.context.SerializeToString() if has_context else b""
    examples = [context + example.SerializeToString() for example in batch.examples]
    if not examples:
        raise status.invalid("Input is empty.")
    inputs = {signatures.EXAMPLES: np.array(examples, object)}
    return len(examples), servable.submit(name, inputs, is_active)


def _classify(rows: int, wait: Callable[[], Arrays]) -> classification_pb2.ClassificationResult:
    outputs = wait()
    shapes = {name: array.shape for name, array in outputs.items()}
    columns = next(iter(shapes.values()))[-1:]
    if set(shapes.values()) != {(rows, *columns)}:
        raise status.invalid(f"The outputs have the shapes {shapes} for {rows} examples")
    classes, scores = (outputs.get(name) for name in (signatures.CLASSES, signatures.SCORES))
    result = classification_pb2.ClassificationResult()
    for row in range(rows):
        added = result.classifications.add().classes
        for column in range(*columns):
            added.add()
            if classes is not None:
                # The field is text, so bytes that are none cannot be sent as they are.
                added[-1].label = str(classes[row, column], "utf-8", "replace")
            if scores is not None:
                added[-1].score = scores[row, column]
    return result


def _regress(rows: int, wait: Callable[[], Arrays]) -> regression_pb2.RegressionResult:
    values = wait()[signatures.REGRESSION]
    if values.shape not in ((rows,), (rows, 1)):
        raise status.invalid(f"The output has the shape {values.shape} for {rows} examples")
    regressions = [regression_pb2.Regression(value=value) for value in values.ravel()]
    return regression_pb2.RegressionResult(regressions=regressions)
