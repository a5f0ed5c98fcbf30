"""The local server: TF Serving's API for a laptop, a notebook and tests, in one process."""

import errno
import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
from absl import logging
from google.protobuf import message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from distilbert_serving.protos import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_server_config_pb2,
    predict_pb2,
    regression_pb2,
)
from distilbert_serving.server import status
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.server.options import ServerOptions
from distilbert_serving.server.request_handler import RequestHandler, spec_of
from distilbert_serving.server.rest import RestServer
from distilbert_serving.tf_serving.ssl_config import server_credentials

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"

_SIGNAL_POLL_S = 0.2
_DRAIN_S = 0.25


class ModelServer:
    """A server in this process.

        with ModelServer("models/sst2") as server:
            client = PredictClient(f"127.0.0.1:{server.port}")

    Args:
        model_base_path: The directory whose sub-directories with numbers for names are versions.
            New ones are loaded when they appear, without a request failing.
        model_name: The name that requests use.
        host: The address to listen on; "0.0.0.0" for all.
        port: The port to listen on; 0 picks a free one, see the attribute `port`.
        metrics: What counts requests, runs and loads.
        **settings: See `ServerOptions`, such as `rest_port`.

    Raises:
        ValueError: Settings contradict each other.
    """

    def __init__(
        self,
        model_base_path: str | os.PathLike[str] | None = None,
        model_name: str = ServerOptions.model_name,
        host: str = ServerOptions.host,
        port: int = ServerOptions.port,
        *,
        metrics: Metrics | None = None,
        **settings: Any,
    ) -> None:
        self._options = ServerOptions(model_base_path, model_name, host, port, **settings)
        self.port = port
        self.rest_port = self._options.rest_port
        self._metrics = metrics or Metrics()
        self._stopping = threading.Event()
        self._health = health.HealthServicer()
        self._handler: RequestHandler | None = None
        self._grpc: grpc.Server | None = None
        self._rest: RestServer | None = None

    def start(self) -> "ModelServer":
        """Loads the models, then listens: whoever can connect gets answers.

        Raises:
            OSError, ValueError: No version of a model can be loaded, or the port is taken.
        """
        options = self._options
        config = options.models or model_server_config_pb2.ModelServerConfig()
        if options.model_base_path is not None:
            config.model_config_list.config.add(
                name=options.model_name,
                base_path=os.fspath(options.model_base_path),
                model_platform="tensorflow",
            )
        _check_free(options.host, self.port, "port=0 takes a free one")
        if self.rest_port is not None:
            _check_free(options.host, self.rest_port, "choose another rest_port (--rest_api_port)")
        self._stopping.clear()
        self._handler = RequestHandler(config, options, self._metrics)
        try:
            if self.rest_port is not None:
                self._rest = RestServer(
                    self._handler,
                    self._metrics,
                    options.host,
                    self.rest_port,
                    monitoring_path=options.monitoring_path,
                ).start()
                self.rest_port = self._rest.port
            self._start_grpc(self._handler)
        except BaseException:
            self._close(grace_s=0.0)
            raise
        logging.info("Serving on %s:%d", options.host, self.port)
        return self

    def _start_grpc(self, handler: RequestHandler) -> None:
        options = self._options
        server = grpc.server(
            # Threads are made when they are needed first. A request holds one while it waits.
            futures.ThreadPoolExecutor(options.grpc_max_threads, thread_name_prefix="request"),
            options=[
                ("grpc.max_receive_message_length", options.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Two servers must not share a port by accident.
                ("grpc.so_reuseport", 0),
            ],
            # Of those that find no thread, too, only so many wait: more get RESOURCE_EXHAUSTED.
            maximum_concurrent_rpcs=2 * options.grpc_max_threads,
        )
        address = f"{options.host}:{self.port}"
        try:
            self.port = (
                server.add_secure_port(address, server_credentials(options.ssl_config))
                if options.ssl_config
                else server.add_insecure_port(address)
            )
        except RuntimeError as error:
            raise OSError(f"Cannot listen on {address}: {error}") from error
        server.add_generic_rpc_handlers(_make_handlers(handler, self._metrics, self._stopping))
        if options.enable_health_service:
            self._health = health.HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
            for name in ("", PREDICTION_SERVICE, MODEL_SERVICE):
                self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        server.start()
        self._grpc = server

    def stop(self, grace_s: float | None = None, drain_s: float = 0.0) -> None:
        """Takes no more requests, finishes those that are here, and stops.

        Args:
            grace_s: How long requests may take to finish, in seconds; then they are cancelled.
            drain_s: How long to answer UNAVAILABLE before that, in seconds: who comes in the very
                moment of closing hears CANCELLED from gRPC.
        """
        self._health.enter_graceful_shutdown()
        self._stopping.set()
        time.sleep(drain_s)
        self._close(self._options.grace_s if grace_s is None else grace_s)

    def _close(self, grace_s: float) -> None:
        stopped = self._grpc.stop(grace_s) if self._grpc else None
        if self._rest:
            self._rest.stop(grace_s)
        if stopped:
            stopped.wait()
        if self._handler:
            self._handler.close()
        self._grpc = self._rest = self._handler = None

    def __enter__(self) -> "ModelServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _check_free(host: str, port: int, remedy: str) -> None:
    """Finds out before models are loaded, and more clearly than gRPC does, that a port is taken.

    Raises:
        OSError: It is.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:  # which is bound, but does not listen: nobody can connect
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            # Of what else is wrong, whoever listens says more.
            if error.errno == errno.EADDRINUSE:
                raise OSError(
                    f"port {port} of {host} is in use, perhaps by another server: {remedy}."
                ) from error


def serve(server: ModelServer, grace_s: float | None = None) -> None:
    """Runs a server until SIGINT or SIGTERM, then finishes open requests and returns.

    To be called from the main thread, the only one that may handle signals. For `grace_s` see
    `ModelServer.stop`.
    """
    stop_signals: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: stop_signals.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with server:
            # Half a million objects, most of them TensorFlow's, stay until the end. Looking for
            # garbage among them stops all threads for 0.2 s, under load every few seconds.
            gc.collect()
            gc.freeze()
            # Any thread may be the one that a signal interrupts, but only this one runs handlers:
            # it has to wake up by itself.
            while not stop_signals:
                time.sleep(_SIGNAL_POLL_S)
            logging.info("Stopping: finishing open requests")
            server.stop(grace_s, _DRAIN_S)
    finally:
        gc.unfreeze()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _make_handlers(
    handler: RequestHandler, metrics: Metrics, stopping: threading.Event
) -> list[grpc.GenericRpcHandler]:
    """Makes what a `grpc.Server` calls for each service; once it is stopping, all UNAVAILABLE."""

    def make(name: str, request_class: Any, answer: Callable[..., Any]) -> grpc.RpcMethodHandler:
        def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
            started_s = time.monotonic()
            model_name, response, failure = "", b"", None
            try:
                if stopping.is_set():
                    raise status.unavailable("The server is shutting down")
                request = request_class.FromString(data)
                model_name = spec_of(request).name
                response = answer(request, context.is_active).SerializeToString()
            except status.RequestError as error:
                failure = _status_of(error, context)
            except message.DecodeError as error:  # gRPC would call a damaged request INTERNAL
                kind = request_class.DESCRIPTOR.name
                failure = status.invalid(f"The {len(data)} bytes received are no {kind}: {error}")
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
        return status.RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, "Its deadline has passed")
    return status.RequestError(error.code, error.message)
