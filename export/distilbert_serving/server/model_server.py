"""The local server: TF Serving's API for a laptop, a notebook and tests.

It is a thin layer on TensorFlow and gRPC, in one process. Production is TF Serving's job: same
directory, same requests, same status codes.
"""

import functools
import os
import pathlib
import signal
import threading
import time
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import grpc
from absl import logging
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from distilbert_serving.server import services, tls
from distilbert_serving.server.batching_options import BatchingOptions
from distilbert_serving.server.core import ServerCore
from distilbert_serving.server.loading import load_version
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.server.model_config import ModelSettings
from distilbert_serving.server.models import Models
from distilbert_serving.server.rest import RestServer
from distilbert_serving.server.versions import LoadOptions

# TF Serving's own limit: the largest 32-bit integer.
MAX_MESSAGE_BYTES = 2**31 - 1

# A request holds a thread while it waits, so this bounds how many wait, too. Threads are made when
# they are needed first.
GRPC_MAX_THREADS = 320

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
        models: The models to serve, instead of `model_base_path` and `model_name`.
        batching: How concurrent requests are merged, for versions that don't say it themselves
            in their `batching_params.pbtxt`.
        enable_batching: Whether they are merged at all.
        loading: When to look for new versions, and how often to try.
        max_message_bytes: The largest request to accept, in bytes; larger ones get
            RESOURCE_EXHAUSTED. The default is TF Serving's.
        grpc_max_threads: Requests over gRPC that are worked on, or wait for the graph.
        allow_version_labels_for_unavailable_models: Accept labels of versions that are not loaded.
        enable_health_service: Whether to answer gRPC's health checks.
        rest_port: The port of the REST API; None for no REST API, 0 picks a free one, see the
            attribute `rest_port`.
        monitoring_path: The path of a page for Prometheus on the REST port; None for no page.
        ssl_config: An `SSLConfig`, for TLS on the gRPC port; not together with a REST port, which
            would be plain HTTP.
        metrics: Where requests, batches and loads are counted.
    """

    def __init__(
        self,
        model_base_path: str | os.PathLike[str] | None = None,
        model_name: str = "distilbert",
        host: str = "127.0.0.1",
        port: int = 8500,
        *,
        models: Sequence[ModelSettings] | None = None,
        batching: BatchingOptions | None = None,
        enable_batching: bool = True,
        loading: LoadOptions | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        grpc_max_threads: int = GRPC_MAX_THREADS,
        allow_version_labels_for_unavailable_models: bool = False,
        enable_health_service: bool = True,
        rest_port: int | None = None,
        monitoring_path: str | None = None,
        ssl_config: Any = None,
        metrics: Metrics | None = None,
    ) -> None:
        if (model_base_path is None) == (models is None):
            raise ValueError("Give either model_base_path or models.")
        if monitoring_path is not None and rest_port is None:
            raise ValueError("The page for Prometheus needs the REST API: give rest_port.")
        if ssl_config is not None and rest_port is not None:
            raise ValueError(
                "TLS is for the gRPC port only, as in TF Serving, and the REST API would be plain "
                "HTTP: leave out ssl_config or rest_port, or put a proxy with TLS before it."
            )
        if model_base_path is not None:
            models = [ModelSettings(model_name, pathlib.Path(model_base_path))]
        self.port = port
        self.rest_port = rest_port
        self._settings = list(models or ())
        self._host = host
        self._max_message_bytes = max_message_bytes
        self._grpc_max_threads = grpc_max_threads
        self._metrics = metrics or Metrics()
        options = (batching or BatchingOptions()) if enable_batching else None
        self._models = Models(
            functools.partial(load_version, options=options, metrics=self._metrics),
            loading or LoadOptions(),
            self._metrics,
            allow_labels_for_unavailable=allow_version_labels_for_unavailable_models,
        )
        self._monitoring_path = monitoring_path
        self._ssl_config = ssl_config
        self._enable_health_service = enable_health_service
        self._health: health.HealthServicer | None = None
        self._stopping = threading.Event()
        self._server: grpc.Server | None = None
        self._rest: RestServer | None = None

    def start(self) -> "ModelServer":
        """Loads the models, then listens: whoever can connect gets answers.

        Returns:
            The server itself.

        Raises:
            FileNotFoundError, NotADirectoryError: there is no version of a model.
            OSError, ValueError: no wanted version can be loaded, or the port is taken.
        """
        self._stopping.clear()
        self._models.apply(self._settings)
        try:
            core = ServerCore(self._models)
            self._start_rest(core)
            self._start_grpc(core)
        except BaseException:
            self._stop_rest(grace_s=0.0)
            self._models.close()
            raise
        for name, version in self._models.newest().items():
            logging.info(
                "Serving model %s version %d on %s:%d", name, version, self._host, self.port
            )
        return self

    def _start_rest(self, core: ServerCore) -> None:
        if self.rest_port is not None:
            self._rest = RestServer(
                core,
                self._metrics,
                self._host,
                self.rest_port,
                monitoring_path=self._monitoring_path,
            ).start()
            self.rest_port = self._rest.port

    def _start_grpc(self, core: ServerCore) -> None:
        server = grpc.server(
            futures.ThreadPoolExecutor(self._grpc_max_threads, thread_name_prefix="request"),
            options=[
                ("grpc.max_receive_message_length", self._max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Two servers must not share a port by accident.
                ("grpc.so_reuseport", 0),
            ],
            # Of those that find no thread, too, only so many wait: more get RESOURCE_EXHAUSTED.
            maximum_concurrent_rpcs=2 * self._grpc_max_threads,
        )
        address = f"{self._host}:{self.port}"
        try:
            port = (
                server.add_secure_port(address, tls.grpc_credentials(self._ssl_config))
                if self._ssl_config
                else server.add_insecure_port(address)
            )
        except RuntimeError as error:
            raise OSError(f"Cannot listen on {address}: {error}") from error
        self.port = port
        server.add_generic_rpc_handlers(services.make_handlers(core, self._metrics, self._stopping))
        if self._enable_health_service:
            self._health = health.HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
            for name in ("", services.PREDICTION_SERVICE, services.MODEL_SERVICE):
                self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        server.start()
        self._server = server

    def stop(self, grace_s: float = 5.0, drain_s: float = 0.0) -> None:
        """Takes no more requests, finishes those that are here, and stops.

        Args:
            grace_s: How long requests may take to finish, in seconds; then they are cancelled.
            drain_s: How long to go on telling clients UNAVAILABLE before closing, in seconds:
                gRPC answers CANCELLED to whoever comes in the very moment of closing, and
                clients that have been told don't.
        """
        if self._server is None:
            return
        if self._health is not None:
            self._health.enter_graceful_shutdown()
        self._stopping.set()
        if drain_s:
            time.sleep(drain_s)
        stopped = self._server.stop(grace_s)
        self._stop_rest(grace_s)
        stopped.wait()
        self._models.close()
        self._server = None

    def _stop_rest(self, grace_s: float) -> None:
        if self._rest is not None:
            self._rest.stop(grace_s)
            self._rest = None

    def __enter__(self) -> "ModelServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(server: ModelServer, grace_s: float = 5.0) -> None:
    """Runs a server until SIGINT or SIGTERM, then finishes open requests and returns.

    To be called from the main thread, the only one that may handle signals.

    Args:
        server: What to run.
        grace_s: How long open requests may take to finish, in seconds.

    Raises:
        OSError, ValueError: see `ModelServer.start`.
    """
    stop_signals: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: stop_signals.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with server:
            # Any thread may be the one that a signal interrupts, but only this one runs handlers:
            # it has to wake up by itself.
            while not stop_signals:
                time.sleep(_SIGNAL_POLL_S)
            logging.info("Stopping: finishing open requests")
            server.stop(grace_s, _DRAIN_S)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
