"""TF Serving's gRPC services on top of a Servable.

Reference: tensorflow_serving/apis/prediction_service.proto and model_service.proto; for the status
codes tensorflow_serving/model_servers/server_core.cc, get_model_status_impl.cc and
tensorflow_serving/servables/tensorflow/get_model_metadata_impl.cc.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from absl import logging

from export import signatures, tensors
from export.protos import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from export.server import servable, status
from export.server.batching import Batcher

_SIGNATURE_DEF = "signature_def"  # the only metadata field that there is

_Answer = TypeVar("_Answer")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers Predict and GetModelMetadata; the other methods say UNIMPLEMENTED.

    Args:
        model: The model that answers.
        batcher: What runs it.
    """

    def __init__(self, model: servable.Servable, batcher: Batcher) -> None:
        self._model = model
        self._batcher = batcher

    def Predict(  # noqa: N802 (gRPC's name)
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Runs an endpoint on the request's tensors."""
        return _answer(context, lambda: self._predict(request, context))

    def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Gives the model's SignatureDefs."""
        return _answer(context, lambda: self._metadata(request))

    def Classify(self, request: Any, context: grpc.ServicerContext) -> None:  # noqa: N802
        """Says UNIMPLEMENTED."""
        _unimplemented(context, "Classify")

    def Regress(self, request: Any, context: grpc.ServicerContext) -> None:  # noqa: N802
        """Says UNIMPLEMENTED."""
        _unimplemented(context, "Regress")

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> None:  # noqa: N802
        """Says UNIMPLEMENTED."""
        _unimplemented(context, "MultiInference")

    def _predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        _check_model_spec(request, self._model)
        signature = self._model.signature(
            request.model_spec.signature_name or signatures.SERVING_DEFAULT
        )
        inputs = signature.read_inputs(request.inputs)
        output_names = signature.check_outputs(list(request.output_filter))
        outputs = self._batcher.submit(
            signature.name, inputs, is_batched=signature.is_batched, is_active=context.is_active
        ).result()
        response = predict_pb2.PredictResponse(
            model_spec=_model_spec(self._model, signature_name=signature.name)
        )
        for name in output_names:
            response.outputs[name].CopyFrom(tensors.to_proto(outputs[name], as_fields=True))
        return response

    def _metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if not request.HasField("model_spec"):
            raise status.invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise status.invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != _SIGNATURE_DEF:
                raise status.invalid(f"Metadata field {field} is not supported")
        _check_model_spec(request, self._model)
        response = get_model_metadata_pb2.GetModelMetadataResponse(
            model_spec=_model_spec(self._model)
        )
        signature_defs = get_model_metadata_pb2.SignatureDefMap()
        for name, proto in self._model.signature_defs.items():
            signature_defs.signature_def[name].CopyFrom(proto)
        response.metadata[_SIGNATURE_DEF].Pack(signature_defs)
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Answers GetModelStatus; HandleReloadConfigRequest says UNIMPLEMENTED.

    Args:
        model: The model whose status is asked for.
    """

    def __init__(self, model: servable.Servable) -> None:
        self._model = model

    def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Says which version is loaded."""
        return _answer(context, lambda: self._status(request))

    def HandleReloadConfigRequest(  # noqa: N802
        self, request: Any, context: grpc.ServicerContext
    ) -> None:
        """Says UNIMPLEMENTED."""
        _unimplemented(context, "HandleReloadConfigRequest")

    def _status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        if not request.HasField("model_spec"):
            raise status.invalid("Missing ModelSpec")
        spec = request.model_spec
        if spec.version_label:
            raise status.invalid(f"Unrecognized servable version label: {spec.version_label}")
        if spec.HasField("version"):
            if (spec.name, spec.version.value) != (self._model.name, self._model.version):
                raise status.not_found(
                    f"Could not find version {spec.version.value} of model {spec.name}"
                )
        elif spec.name != self._model.name:
            raise status.not_found(f"Could not find any versions of model {spec.name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(
            version=self._model.version,
            state=get_model_status_pb2.ModelVersionStatus.AVAILABLE,
        ).status.SetInParent()  # a status of its own: OK, with no message
        return response


def _check_model_spec(request: Any, model: servable.Servable) -> None:
    """Checks that a request's `model_spec` means this model.

    Raises:
        RequestError: INVALID_ARGUMENT, there is no spec, it has no name, or it asks for a label;
            NOT_FOUND, it names another model or version.
    """
    if not request.HasField("model_spec"):
        raise status.invalid("Missing ModelSpec")
    spec = request.model_spec
    if not spec.name:
        raise status.invalid("ModelSpec has no name specified.")
    if spec.WhichOneof("version_choice") == "version_label":
        raise status.invalid(f"Unrecognized servable version label: {spec.version_label}")
    if spec.HasField("version"):
        if (spec.name, spec.version.value) != (model.name, model.version):
            raise status.not_found(
                f"Servable not found for request: Specific({spec.name}, {spec.version.value})"
            )
    elif spec.name != model.name:
        raise status.not_found(f"Servable not found for request: Latest({spec.name})")


def _model_spec(model: servable.Servable, signature_name: str = "") -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=model.name, signature_name=signature_name)
    spec.version.value = model.version
    return spec


def _answer(context: grpc.ServicerContext, call: Callable[[], _Answer]) -> _Answer:
    """Gives a call's result, or ends the request with the status of its error."""
    try:
        return call()
    except status.RequestError as error:
        failure = error
    except Exception as error:
        logging.exception("A request failed unexpectedly")
        failure = status.RequestError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
    return context.abort(failure.code, failure.message)


def _unimplemented(context: grpc.ServicerContext, method: str) -> None:
    context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        f"{method} is not implemented by the local server, which answers Predict, "
        "GetModelMetadata and GetModelStatus; TF Serving has all methods.",
    )
