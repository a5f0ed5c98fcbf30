"""The local server: TF Serving's gRPC API for a laptop, a notebook and tests.

It is a thin layer on TensorFlow and gRPC, with one model, the version that is newest when it
starts, and one thread that runs the graph. Production is TF Serving's job: same directory, same
requests, same status codes.
"""

import os
import signal
import time
from concurrent import futures
from types import TracebackType

import grpc
from absl import logging

from export.protos import model_service_pb2_grpc, prediction_service_pb2_grpc
from export.server import servable, services
from export.server.batching import Batcher, BatchingOptions

# TF Serving's own limit: the largest 32-bit integer.
MAX_MESSAGE_BYTES = 2**31 - 1

# Threads for requests that don't wait in the batcher's queue: metadata, status, bad requests.
_SPARE_THREADS = 16

_SIGNAL_POLL_S = 0.2


class ModelServer:
    """A server in this process.

        with ModelServer("models/sst2") as server:
            client = PredictClient(f"127.0.0.1:{server.port}")

    Args:
        model_base_path: The directory whose sub-directories with numbers for names are versions.
        model_name: The name that requests use.
        host: The address to listen on; "0.0.0.0" for all.
        port: The port to listen on; 0 picks a free one, see the attribute `port`.
        batching: How concurrent requests are merged.
        max_message_bytes: The largest request to accept, in bytes; larger ones get
            RESOURCE_EXHAUSTED. The default is TF Serving's.
    """

    def __init__(
        self,
        model_base_path: str | os.PathLike[str],
        model_name: str = "distilbert",
        host: str = "127.0.0.1",
        port: int = 8500,
        *,
        batching: BatchingOptions | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self.port = port
        self._model_base_path = model_base_path
        self._model_name = model_name
        self._host = host
        self._batching = batching or BatchingOptions()
        self._max_message_bytes = max_message_bytes
        self._server: grpc.Server | None = None
        self._batcher: Batcher | None = None

    def start(self) -> "ModelServer":
        """Loads the model, then listens: whoever can connect gets answers.

        Returns:
            The server itself.

        Raises:
            FileNotFoundError, NotADirectoryError: there is no version of the model.
            OSError, ValueError: the newest version cannot be loaded, or the port is taken.
        """
        model = servable.load_newest(self._model_base_path, self._model_name)
        batching = self._batching
        # A request holds a thread while it waits. With fewer threads than places in the queue,
        # gRPC's own queue, which has no limit, would fill up instead.
        max_threads = batching.max_queue_length + batching.max_batch_size + _SPARE_THREADS
        server = grpc.server(
            futures.ThreadPoolExecutor(max_threads, thread_name_prefix="request"),
            options=[
                ("grpc.max_receive_message_length", self._max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Two servers must not share a port by accident.
                ("grpc.so_reuseport", 0),
            ],
        )
        address = f"{self._host}:{self.port}"
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"Cannot listen on {address}: {error}") from error
        self.port = port
        self._batcher = Batcher(model.run, batching)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            services.PredictionService(model, self._batcher), server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            services.ModelService(model), server
        )
        server.start()
        self._server = server
        logging.info(
            "Serving model %s version %d on %s:%d", model.name, model.version, self._host, port
        )
        return self

    def stop(self, grace_s: float = 5.0) -> None:
        """Takes no more requests, finishes those that are here, and stops.

        Args:
            grace_s: How long requests may take to finish, in seconds; then they are cancelled.
        """
        if self._server is not None and self._batcher is not None:
            self._server.stop(grace_s).wait()
            self._batcher.close()
            self._server = self._batcher = None

    def __enter__(self) -> "ModelServer":
        return self.start()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def serve(
    model_base_path: str | os.PathLike[str],
    model_name: str = "distilbert",
    host: str = "127.0.0.1",
    port: int = 8500,
    *,
    batching: BatchingOptions | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    grace_s: float = 5.0,
) -> None:
    """Serves a model until SIGINT or SIGTERM, then finishes open requests and returns.

    To be called from the main thread, the only one that may handle signals.

    Args:
        model_base_path: See `ModelServer`, as for the next five arguments.
        model_name: The name that requests use.
        host: The address to listen on.
        port: The port to listen on.
        batching: How concurrent requests are merged.
        max_message_bytes: The largest request to accept, in bytes.
        grace_s: How long open requests may take to finish, in seconds.

    Raises:
        OSError, ValueError: see `ModelServer.start`.
    """
    stop_signals: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: stop_signals.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    server = ModelServer(
        model_base_path,
        model_name,
        host,
        port,
        batching=batching,
        max_message_bytes=max_message_bytes,
    )
    try:
        with server:
            # Any thread may be the one that a signal interrupts, but only this one runs handlers:
            # it has to wake up by itself.
            while not stop_signals:
                time.sleep(_SIGNAL_POLL_S)
            logging.info("Stopping: finishing open requests")
            server.stop(grace_s)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
