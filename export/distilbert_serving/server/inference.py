"""Predict, Classify, Regress and MultiInference on one loaded version of a model.

Classify and Regress take tf.Examples, each of them a row, and a signature of the form

    inputs: string (B,)  ->  classes: string (B, C) and/or scores: float32 (B, C)     (Classify)
    inputs: string (B,)  ->  outputs: float32 (B,) or (B, 1)                           (Regress)

As in TF Serving, whose flag for it is off by default, the signature's method name doesn't matter:
TensorFlow 2 writes "predict" into all of them.

Reference: predict_util.cc, classifier.cc, regressor.cc, multi_inference.cc and util.cc in
tensorflow_serving/servables/tensorflow.
"""

import itertools
from collections.abc import Callable

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
from distilbert_serving.server.loaded_version import LoadedVersion
from distilbert_serving.server.signature import Arrays, Signature, braces


def predict(
    version: LoadedVersion, request: predict_pb2.PredictRequest, is_active: IsActive
) -> predict_pb2.PredictResponse:
    """Runs an endpoint on the request's tensors.

    Args:
        version: The version to run; the request's model spec is not looked at but for the
            signature, as in the following functions.
        request: The tensors.
        is_active: Says whether anybody still waits for the answer.

    Raises:
        RequestError: the request doesn't fit the endpoint, or its run failed.
    """
    signature = version.servable.signature(_signature_name(request.model_spec))
    inputs = signature.read_inputs(request.inputs)
    output_names = signature.check_outputs(list(request.output_filter))
    outputs = version.run(signature, inputs, is_active)
    response = predict_pb2.PredictResponse()
    _set_spec(response.model_spec, version, signature.name)
    for name in output_names:
        response.outputs[name].CopyFrom(tensors.to_proto(outputs[name], as_fields=True))
    return response


def classify(
    version: LoadedVersion, request: classification_pb2.ClassificationRequest, is_active: IsActive
) -> classification_pb2.ClassificationResponse:
    """Gives every example its classes and their scores.

    Raises:
        RequestError: see `predict`.
    """
    signature, rows, outputs = _run_examples(version, request, _check_classify, is_active)
    response = classification_pb2.ClassificationResponse()
    _set_spec(response.model_spec, version, signature.name)
    _write_classes(outputs, rows, response.result)
    return response


def regress(
    version: LoadedVersion, request: regression_pb2.RegressionRequest, is_active: IsActive
) -> regression_pb2.RegressionResponse:
    """Gives every example a number.

    Raises:
        RequestError: see `predict`.
    """
    signature, rows, outputs = _run_examples(version, request, _check_regress, is_active)
    response = regression_pb2.RegressionResponse()
    _set_spec(response.model_spec, version, signature.name)
    _write_values(outputs, rows, response.result)
    return response


def multi_inference(
    version: LoadedVersion, request: inference_pb2.MultiInferenceRequest, is_active: IsActive
) -> inference_pb2.MultiInferenceResponse:
    """Runs several endpoints of one model on the same examples.

    Raises:
        RequestError: see `predict`; none of the endpoints is run if one of them doesn't fit.
    """
    model_name = request.tasks[0].model_spec.name if request.tasks else ""
    tasks: dict[str, Signature] = {}
    for task in request.tasks:
        if not task.model_spec.name:
            raise status.invalid("Found ModelSpec with an empty model name.")
        if task.model_spec.name != model_name:
            raise status.invalid(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name: got "
                f"{model_name} and {task.model_spec.name}"
            )
        name = _signature_name(task.model_spec)
        if name in tasks:
            raise status.invalid(f"Duplicate evaluation of signature: {name}")
        tasks[name] = _find(version, name)
        if task.method_name == signatures.CLASSIFY_METHOD:
            _check_classify(tasks[name])
        elif task.method_name == signatures.REGRESS_METHOD:
            _check_regress(tasks[name])
        else:
            raise status.RequestError(
                grpc.StatusCode.UNIMPLEMENTED,
                f"Unsupported signature method_name: {task.method_name!r}; there are "
                f"{signatures.CLASSIFY_METHOD} and {signatures.REGRESS_METHOD}.",
            )
    examples = _read_examples(request.input)
    inputs = {signatures.EXAMPLES: examples}
    # All are queued before the first is waited for.
    waiting = [version.submit(signature, inputs, is_active) for signature in tasks.values()]
    response = inference_pb2.MultiInferenceResponse()
    for task, future in zip(request.tasks, waiting, strict=True):
        result = response.results.add()
        _set_spec(result.model_spec, version, _signature_name(task.model_spec))
        if task.method_name == signatures.CLASSIFY_METHOD:
            _write_classes(future.result(), len(examples), result.classification_result)
        else:
            _write_values(future.result(), len(examples), result.regression_result)
    return response


def _run_examples(
    version: LoadedVersion,
    request: classification_pb2.ClassificationRequest | regression_pb2.RegressionRequest,
    check: Callable[[Signature], None],
    is_active: IsActive,
) -> tuple[Signature, int, Arrays]:
    """Runs the signature of a request; gives it, the number of examples, and the outputs."""
    signature = _find(version, _signature_name(request.model_spec))
    check(signature)
    examples = _read_examples(request.input)
    outputs = version.run(signature, {signatures.EXAMPLES: examples}, is_active)
    return signature, len(examples), outputs


def _signature_name(spec: model_pb2.ModelSpec) -> str:
    return spec.signature_name or signatures.SERVING_DEFAULT


def _set_spec(spec: model_pb2.ModelSpec, version: LoadedVersion, signature_name: str) -> None:
    spec.name = version.servable.name
    spec.version.value = version.servable.version
    spec.signature_name = signature_name


def _find(version: LoadedVersion, name: str) -> Signature:
    # Not the code that Predict gives, but TF Serving's.
    if not version.servable.has_signature(name):
        raise status.invalid(f"No signature was found with the name: {name}")
    return version.servable.signature(name)


def _check_classify(signature: Signature) -> None:
    _check_counts(signature, (1, 2), "one or two output Tensors")
    _check_input(signature, "classification")
    if not {signatures.CLASSES, signatures.SCORES} & set(signature.outputs):
        raise status.invalid(
            "Expected classification signature outputs to contain at least one of "
            f'"{signatures.CLASSES}" or "{signatures.SCORES}". Signature {signature.name} has '
            f"{braces(signature.outputs)}."
        )


def _check_regress(signature: Signature) -> None:
    _check_counts(signature, (1,), "one output Tensor")
    _check_input(signature, "regression")
    if signatures.REGRESSION not in signature.outputs:
        raise status.invalid(
            f"No regression outputs found in SignatureDef: {signature.name} has "
            f"{braces(signature.outputs)}, not {signatures.REGRESSION}."
        )


def _check_counts(signature: Signature, output_counts: tuple[int, ...], expected: str) -> None:
    if len(signature.inputs) != 1:
        raise status.invalid(
            f"Expected one input Tensor. Signature {signature.name} has {braces(signature.inputs)}."
        )
    if len(signature.outputs) not in output_counts:
        raise status.invalid(
            f"Expected {expected}, found {len(signature.outputs)}: signature {signature.name} has "
            f"{braces(signature.outputs)}."
        )


def _check_input(signature: Signature, kind: str) -> None:
    if signatures.EXAMPLES not in signature.inputs:
        raise status.invalid(
            f"No {kind} inputs found in SignatureDef: {signature.name} has "
            f"{braces(signature.inputs)}, not {signatures.EXAMPLES}."
        )


def _read_examples(request_input: input_pb2.Input) -> np.ndarray:
    """Gives the serialized tf.Examples (B,); the context, if any, is merged into each."""
    kind = request_input.WhichOneof("kind")
    context = b""
    examples: list[bytes] = []
    if kind is not None:
        batch = getattr(request_input, kind)
        if kind == "example_list_with_context":
            # Parsers merge concatenated messages.
            context = batch.context.SerializeToString()
        examples = [context + example.SerializeToString() for example in batch.examples]
    if not examples:
        raise status.invalid("Input is empty.")
    return np.array(examples, object)


def _write_classes(
    outputs: Arrays, rows: int, result: classification_pb2.ClassificationResult
) -> None:
    arrays = []
    for name, kind, type_name in (
        (signatures.CLASSES, "O", "DT_STRING"),
        (signatures.SCORES, "f", "DT_FLOAT"),
    ):
        array = outputs.get(name)
        if array is not None:
            if array.ndim != 2:
                raise status.invalid(
                    f"Expected Tensor shape: [batch_size num_classes] but got {array.shape} for "
                    f"{name}"
                )
            if array.dtype.kind != kind or (kind == "f" and array.dtype != np.float32):
                raise status.invalid(f"Expected {name} Tensor of {type_name}. Got: {array.dtype}")
            if len(array) != rows:
                raise status.invalid(
                    f"Expected {name} output batch size of {rows}. Got: {len(array)}"
                )
        arrays.append(array)
    classes, scores = arrays
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise status.invalid(
            f"Tensors {signatures.CLASSES} and {signatures.SCORES} should match in dim_size(1). "
            f"Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    for row in range(rows):
        added = result.classifications.add()
        labels = [] if classes is None else [_to_text(label) for label in classes[row]]
        values = [] if scores is None else scores[row].tolist()
        for label, score in itertools.zip_longest(labels, values):
            added.classes.add(label=label, score=score)


def _to_text(label: bytes) -> str:
    # The message's field is text, so bytes that are none cannot be sent as they are.
    return label.decode("utf-8", "replace")


def _write_values(outputs: Arrays, rows: int, result: regression_pb2.RegressionResult) -> None:
    array = outputs[signatures.REGRESSION]
    if array.ndim not in (1, 2) or array.shape[1:] not in ((), (1,)):
        raise status.invalid(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{array.shape}"
        )
    if len(array) != rows:
        raise status.invalid(
            f"Input batch size did not match output batch size: {rows} vs. {len(array)}"
        )
    if array.dtype != np.float32:
        raise status.invalid(f"Expected output Tensor of DT_FLOAT. Got: {array.dtype}")
    for value in array.ravel().tolist():
        result.regressions.add(value=value)
