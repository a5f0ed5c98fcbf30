"""Predict, Classify, Regress and MultiInference on one loaded version of a model.

Classify and Regress take tf.Examples, each of them a row, and a signature of the form

    inputs: string (B,)  ->  classes: string (B, C) and/or scores: float32 (B, C)     (Classify)
    inputs: string (B,)  ->  outputs: float32 (B,) or (B, 1)                           (Regress)

As in TF Serving, whose flag for it is off by default, the signature's method name doesn't matter:
TensorFlow 2 writes "predict" into all of them.

The functions raise `status.RequestError` if a request doesn't fit its signature, or its run fails.
Of a request's model spec they read the signature alone. `is_active` says whether anybody still
waits for the answer.

Reference: predict_util.cc, classifier.cc, regressor.cc, multi_inference.cc and util.cc in
tensorflow_serving/servables/tensorflow.
"""

import itertools

import grpc
import numpy as np

from distilbert_serving import signatures, tensors
from distilbert_serving.protos import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)
from distilbert_serving.server import status
from distilbert_serving.server.batching import IsActive
from distilbert_serving.server.merging import Arrays
from distilbert_serving.server.servable import Servable, Signature, braces


def predict(
    servable: Servable, request: predict_pb2.PredictRequest, is_active: IsActive
) -> predict_pb2.PredictResponse:
    """Runs a signature on the request's tensors."""
    name = _signature_name(request.model_spec)
    if name not in servable.signatures:
        raise status.failed_precondition(
            f'Serving signature key "{name}" not found. The model has '
            f"{braces(servable.signatures)}."
        )
    signature = servable.signatures[name]
    inputs = signature.read_inputs(request.inputs)
    output_names = signature.check_outputs(list(request.output_filter))
    outputs = servable.submit(signature, inputs, is_active)()
    response = predict_pb2.PredictResponse(model_spec=_spec_of(servable, name))
    for name in output_names:
        response.outputs[name].CopyFrom(tensors.to_proto(outputs[name], as_fields=True))
    return response


def classify(
    servable: Servable, request: classification_pb2.ClassificationRequest, is_active: IsActive
) -> classification_pb2.ClassificationResponse:
    """Returns every example's classes and their scores."""
    signature = _find_signature(servable, request.model_spec, signatures.CLASSIFY_METHOD)
    examples = _read_examples(request.input)
    outputs = servable.submit(signature, {signatures.EXAMPLES: examples}, is_active)()
    return classification_pb2.ClassificationResponse(
        model_spec=_spec_of(servable, signature.name), result=_classes_of(outputs, len(examples))
    )


def regress(
    servable: Servable, request: regression_pb2.RegressionRequest, is_active: IsActive
) -> regression_pb2.RegressionResponse:
    """Returns a number for every example."""
    signature = _find_signature(servable, request.model_spec, signatures.REGRESS_METHOD)
    examples = _read_examples(request.input)
    outputs = servable.submit(signature, {signatures.EXAMPLES: examples}, is_active)()
    return regression_pb2.RegressionResponse(
        model_spec=_spec_of(servable, signature.name), result=_values_of(outputs, len(examples))
    )


def multi_inference(
    servable: Servable, request: inference_pb2.MultiInferenceRequest, is_active: IsActive
) -> inference_pb2.MultiInferenceResponse:
    """Runs several signatures of one model on the same examples; none if one doesn't fit."""
    model_name = request.tasks[0].model_spec.name if request.tasks else ""
    found: dict[str, Signature] = {}
    for task in request.tasks:
        if not task.model_spec.name:
            raise status.invalid("Found ModelSpec with an empty model name.")
        if task.model_spec.name != model_name:
            raise status.invalid(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name: got "
                f"{model_name} and {task.model_spec.name}"
            )
        signature = _find_signature(servable, task.model_spec, task.method_name)
        if signature.name in found:
            raise status.invalid(f"Duplicate evaluation of signature: {signature.name}")
        found[signature.name] = signature
    inputs = {signatures.EXAMPLES: _read_examples(request.input)}
    rows = len(inputs[signatures.EXAMPLES])
    # All are queued before the first is waited for.
    waiting = [servable.submit(signature, inputs, is_active) for signature in found.values()]
    response = inference_pb2.MultiInferenceResponse()
    for task, name, wait in zip(request.tasks, found, waiting, strict=True):
        result = response.results.add(model_spec=_spec_of(servable, name))
        if task.method_name == signatures.CLASSIFY_METHOD:
            result.classification_result.CopyFrom(_classes_of(wait(), rows))
        else:
            result.regression_result.CopyFrom(_values_of(wait(), rows))
    return response


def _signature_name(spec: model_pb2.ModelSpec) -> str:
    return spec.signature_name or signatures.SERVING_DEFAULT


def _spec_of(servable: Servable, signature_name: str) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=servable.name, signature_name=signature_name)
    spec.version.value = servable.version
    return spec


def _find_signature(servable: Servable, spec: model_pb2.ModelSpec, method: str) -> Signature:
    """Finds a signature that fits Classify or Regress."""
    name = _signature_name(spec)
    if name not in servable.signatures:  # TF Serving has another code for it than in Predict
        raise status.invalid(f"No signature was found with the name: {name}")
    signature = servable.signatures[name]
    wanted = {
        signatures.CLASSIFY_METHOD: {signatures.CLASSES, signatures.SCORES},
        signatures.REGRESS_METHOD: {signatures.REGRESSION},
    }
    if method not in wanted:
        raise status.RequestError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"Unsupported signature method_name: {method!r}; there are {', '.join(wanted)}.",
        )
    if list(signature.inputs) != [signatures.EXAMPLES]:
        raise status.invalid(
            f"{method} wants the one input {signatures.EXAMPLES}, but signature {name} has "
            f"{braces(signature.inputs)}."
        )
    outputs = set(signature.outputs)
    if not outputs & wanted[method] or len(outputs) > len(wanted[method]):
        raise status.invalid(
            f"{method} wants outputs of {braces(wanted[method])}, but signature {name} has "
            f"{braces(signature.outputs)}."
        )
    return signature


def _read_examples(request_input: input_pb2.Input) -> np.ndarray:
    """Returns the serialized tf.Examples (B,); the context, if any, is merged into each."""
    kind = request_input.WhichOneof("kind")
    examples: list[bytes] = []
    if kind is not None:
        batch = getattr(request_input, kind)
        # Parsers merge concatenated messages.
        has_context = kind == "example_list_with_context"
        context = batch.context.SerializeToString() if has_context else b""
        examples = [context + example.SerializeToString() for example in batch.examples]
    if not examples:
        raise status.invalid("Input is empty.")
    return np.array(examples, object)


def _classes_of(outputs: Arrays, rows: int) -> classification_pb2.ClassificationResult:
    classes, scores = outputs.get(signatures.CLASSES), outputs.get(signatures.SCORES)
    for name, array, dtype in (
        (signatures.CLASSES, classes, np.dtype(object)),
        (signatures.SCORES, scores, np.dtype(np.float32)),
    ):
        if array is not None:
            _check_output(name, array, dtype, array.ndim == 2 and len(array) == rows)
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise status.invalid(
            f"{signatures.CLASSES} {classes.shape} and {signatures.SCORES} {scores.shape} should "
            "match in their shapes"
        )
    result = classification_pb2.ClassificationResult()
    for row in range(rows):
        # The message's field is text, so bytes that are none cannot be sent as they are.
        labels = [] if classes is None else [str(c, "utf-8", "replace") for c in classes[row]]
        values = [] if scores is None else scores[row].tolist()
        added = result.classifications.add()
        for label, score in itertools.zip_longest(labels, values):
            added.classes.add(label=label, score=score)
    return result


def _values_of(outputs: Arrays, rows: int) -> regression_pb2.RegressionResult:
    array = outputs[signatures.REGRESSION]
    fits = array.shape in ((rows,), (rows, 1))
    _check_output(signatures.REGRESSION, array, np.dtype(np.float32), fits)
    result = regression_pb2.RegressionResult()
    for value in array.ravel().tolist():
        result.regressions.add(value=value)
    return result


def _check_output(name: str, array: np.ndarray, dtype: np.dtype, fits: bool) -> None:
    if array.dtype != dtype or not fits:
        raise status.invalid(
            f"The signature's output {name} cannot be answered with: {array.dtype} {array.shape}"
        )
