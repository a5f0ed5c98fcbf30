"""TF Serving's gRPC services: bytes in, the core's answer out, or its status.

The requests are parsed here and not by gRPC, which would call a damaged one INTERNAL: it is the
client's mistake, and INVALID_ARGUMENT says so.

Reference: tensorflow_serving/apis/prediction_service.proto and model_service.proto.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
from absl import logging
from google.protobuf import message

from distilbert_serving.protos import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)
from distilbert_serving.server import status
from distilbert_serving.server.core import ServerCore
from distilbert_serving.server.metrics import Metrics

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"


class _Method(NamedTuple):
    """A method of a service: what it takes, and what of the core answers it."""

    service: str
    name: str
    request_class: Any
    answer: Callable[[ServerCore, Any, grpc.ServicerContext], Any]


_METHODS = (
    _Method(
        PREDICTION_SERVICE,
        "Predict",
        predict_pb2.PredictRequest,
        lambda core, request, context: core.predict(request, context.is_active),
    ),
    _Method(
        PREDICTION_SERVICE,
        "Classify",
        classification_pb2.ClassificationRequest,
        lambda core, request, context: core.classify(request, context.is_active),
    ),
    _Method(
        PREDICTION_SERVICE,
        "Regress",
        regression_pb2.RegressionRequest,
        lambda core, request, context: core.regress(request, context.is_active),
    ),
    _Method(
        PREDICTION_SERVICE,
        "MultiInference",
        inference_pb2.MultiInferenceRequest,
        lambda core, request, context: core.multi_inference(request, context.is_active),
    ),
    _Method(
        PREDICTION_SERVICE,
        "GetModelMetadata",
        get_model_metadata_pb2.GetModelMetadataRequest,
        lambda core, request, context: core.get_model_metadata(request),
    ),
    _Method(
        MODEL_SERVICE,
        "GetModelStatus",
        get_model_status_pb2.GetModelStatusRequest,
        lambda core, request, context: core.get_model_status(request),
    ),
    _Method(
        MODEL_SERVICE,
        "HandleReloadConfigRequest",
        model_management_pb2.ReloadConfigRequest,
        lambda core, request, context: core.reload_config(request),
    ),
)


def make_handlers(
    core: ServerCore, metrics: Metrics, stopping: threading.Event
) -> list[grpc.GenericRpcHandler]:
    """Makes what a `grpc.Server` calls for each service.

    Args:
        core: What answers.
        metrics: Hears of every request.
        stopping: Once it is set, new requests get UNAVAILABLE.
    """
    return [
        grpc.method_handlers_generic_handler(
            service,
            {
                method.name: grpc.unary_unary_rpc_method_handler(
                    _handle(method, core, metrics, stopping)
                )
                for method in _METHODS
                if method.service == service
            },
        )
        for service in (PREDICTION_SERVICE, MODEL_SERVICE)
    ]


def _handle(
    method: _Method, core: ServerCore, metrics: Metrics, stopping: threading.Event
) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    """Makes the function that answers one method."""

    def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
        started_s = time.monotonic()
        failure = None
        answer = b""
        model_name = ""
        try:
            if stopping.is_set():
                raise status.unavailable("The server is shutting down")
            request = _parse(method, data)
            model_name = _model_name(request)
            answer = method.answer(core, request, context).SerializeToString()
        except status.RequestError as error:
            failure = error
        except Exception as error:
            logging.exception("A request failed unexpectedly")
            failure = status.internal(error)
        code = grpc.StatusCode.OK if failure is None else failure.code
        metrics.observe_request(model_name, method.name, code, time.monotonic() - started_s, "GRPC")
        if failure is not None:
            context.abort(failure.code, failure.message)
        return answer

    return handle


def _parse(method: _Method, data: bytes) -> Any:
    try:
        return method.request_class.FromString(data)
    except message.DecodeError as error:
        raise status.invalid(
            f"The {len(data)} bytes received are no {method.request_class.DESCRIPTOR.name}: {error}"
        ) from error


def _model_name(request: Any) -> str:
    if "model_spec" in request.DESCRIPTOR.fields_by_name:
        return request.model_spec.name
    tasks = getattr(request, "tasks", ())
    return tasks[0].model_spec.name if tasks else ""
