"""The HTTP server under the REST API: uvicorn, in a thread of this process."""

import asyncio
import socket
import threading
from concurrent import futures

import uvicorn
from absl import logging
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from distilbert_serving.server.metrics import Metrics
from distilbert_serving.server.request_handler import RequestHandler
from distilbert_serving.server.rest_api import RestApi, json_response


class RestServer:
    """A REST server in this process.

    Args:
        handler: What answers.
        metrics: Where requests are counted, and what the monitoring page shows.
        host: The address to listen on; "0.0.0.0" for all.
        port: The port to listen on; 0 picks a free one, see the attribute `port`.
        monitoring_path: The path of the page for Prometheus; None for no page.
        max_body_bytes: The largest body to accept; larger ones get 413.
        max_connections: While so many clients are connected, requests get 503.
    """

    def __init__(
        self,
        handler: RequestHandler,
        metrics: Metrics,
        host: str = "127.0.0.1",
        port: int = 8501,
        *,
        monitoring_path: str | None = None,
        max_body_bytes: int = 64 * 2**20,
        max_connections: int = 256,
    ) -> None:
        self.port = port
        self._host = host
        self._api = RestApi(handler, metrics)
        self._metrics = metrics
        self._monitoring_path = monitoring_path
        self._max_body_bytes = max_body_bytes
        # Requests wait for the model in threads, which are made when they are needed.
        self._pool = futures.ThreadPoolExecutor(max_connections, "rest-request")
        config = uvicorn.Config(
            self._answer,
            http="httptools",
            ws="none",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            limit_concurrency=max_connections,
            timeout_keep_alive=120,  # seconds: pools of clients keep connections for later
        )
        config.load()  # what cannot be imported is an error here, not in the thread
        self._server = uvicorn.Server(config)

    def start(self) -> "RestServer":
        """Starts to listen, and returns the server itself.

        Raises:
            OSError: the port is taken.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            listener = socket.create_server((self._host, self.port), family=family)
        except OSError as error:
            raise OSError(f"Cannot listen on {self._host}:{self.port}: {error}") from error
        # Its connections inherit it; asyncio does it only for sockets that name their protocol.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = listener.getsockname()[1]
        # uvicorn leaves signals alone outside of the main thread.
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="rest", daemon=True
        )
        self._thread.start()
        logging.info("REST API on http://%s:%d/v1/models", self._host, self.port)
        return self

    def stop(self, grace_s: float = 5.0) -> None:
        """Takes no more requests, and waits for those that are here; after the grace, 503."""
        # uvicorn passes it on to asyncio, which takes fractions as well.
        self._server.config.timeout_graceful_shutdown = grace_s
        self._server.should_exit = True
        self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> "RestServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request: the ASGI application."""
        try:
            response = await self._respond(Request(scope, receive))
        except ClientDisconnect:
            return
        except asyncio.CancelledError:  # the server stops, and the grace is over
            response = json_response(503, {"error": "The server is shutting down"})
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        path = request.scope["path"]
        if request.method == "GET" and path == self._monitoring_path:
            return Response(self._metrics.render(), media_type=CONTENT_TYPE_LATEST)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_body_bytes:
                text = f"The body has more than {self._max_body_bytes} bytes"
                return json_response(413, {"error": text})
        gone = threading.Event()
        # After the body, the only message is that the client has left.
        disconnect = asyncio.ensure_future(request.receive())
        disconnect.add_done_callback(lambda _: gone.set())
        arguments = (request.method, path, bytes(body), lambda: not gone.is_set())
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._api.answer, *arguments)
        finally:
            disconnect.cancel()
