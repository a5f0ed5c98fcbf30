"""TF Serving's gRPC services: bytes in, the handler's answer out, or its status.

The requests are parsed here and not by gRPC, which would call a damaged one INTERNAL: it is the
client's mistake, and INVALID_ARGUMENT says so.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
from absl import logging
from google.protobuf import message

from distilbert_serving.protos import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)
from distilbert_serving.server import status
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.server.request_handler import RequestHandler, spec_of

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"


def make_handlers(
    handler: RequestHandler, metrics: Metrics, stopping: threading.Event
) -> list[grpc.GenericRpcHandler]:
    """Makes what a `grpc.Server` calls for each service.

    Args:
        handler: What answers.
        metrics: Is told of every request.
        stopping: Once it is set, new requests get UNAVAILABLE.
    """

    def make(name: str, request_class: Any, answer: Callable[..., Any]) -> grpc.RpcMethodHandler:
        def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
            started_s = time.monotonic()
            model_name, response, failure = "", b"", None
            try:
                if stopping.is_set():
                    raise status.unavailable("The server is shutting down")
                request = _parse(request_class, data)
                model_name = spec_of(request).name
                response = answer(request, context.is_active).SerializeToString()
            except status.RequestError as error:
                failure = _status_of(error, context)
            except Exception as error:
                logging.exception("A request failed unexpectedly")
                failure = status.internal(error)
            code = failure.code if failure else grpc.StatusCode.OK
            metrics.observe_request(model_name, name, code, time.monotonic() - started_s, "GRPC")
            if failure:
                context.abort(failure.code, failure.message)
            return response

        return grpc.unary_unary_rpc_method_handler(handle)

    methods: dict[str, tuple[Any, Callable[..., Any]]] = {
        "Predict": (predict_pb2.PredictRequest, handler.predict),
        "Classify": (classification_pb2.ClassificationRequest, handler.classify),
        "Regress": (regression_pb2.RegressionRequest, handler.regress),
        "MultiInference": (inference_pb2.MultiInferenceRequest, handler.multi_inference),
        "GetModelMetadata": (
            get_model_metadata_pb2.GetModelMetadataRequest,
            lambda request, _: handler.get_model_metadata(request),
        ),
        "GetModelStatus": (
            get_model_status_pb2.GetModelStatusRequest,
            lambda request, _: handler.get_model_status(request),
        ),
    }
    predictions = {name: make(name, *method) for name, method in methods.items()}
    models = {"GetModelStatus": predictions.pop("GetModelStatus")}
    return [
        grpc.method_handlers_generic_handler(PREDICTION_SERVICE, predictions),
        grpc.method_handlers_generic_handler(MODEL_SERVICE, models),
    ]


def _status_of(error: status.RequestError, context: grpc.ServicerContext) -> status.RequestError:
    """Returns an error without its traceback, whose frames would keep the request in memory."""
    left_s = context.time_remaining()
    if error.code is grpc.StatusCode.CANCELLED and left_s is not None and left_s <= 0:
        text = "The deadline passed while the request waited in the queue"
        return status.RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, text)
    return status.RequestError(error.code, error.message)


def _parse(request_class: Any, data: bytes) -> Any:
    try:
        return request_class.FromString(data)
    except message.DecodeError as error:
        name = request_class.DESCRIPTOR.name
        raise status.invalid(f"The {len(data)} bytes received are no {name}: {error}") from error
