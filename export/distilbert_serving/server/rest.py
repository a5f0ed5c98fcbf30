"""The HTTP server under the REST API.

A connection has a thread, and for how long is in `connections`: a slow or vanished client does not
hurt the others.
"""

import contextlib
import http.server
import io
import select
import socket
import socketserver
import ssl
import threading
from email.errors import MissingHeaderBodySeparatorDefect
from email.message import Message
from typing import Any

from absl import logging

from distilbert_serving.server import rest_api
from distilbert_serving.server.connections import Connections, Stream
from distilbert_serving.server.metrics import Metrics

MAX_BODY_BYTES = 64 * 2**20
MAX_CONNECTIONS = 256  # each takes a thread and a file descriptor

_IDLE_S = 120.0  # until the next request's first byte
_HEADER_S = 10.0  # from the first byte to the end of the header; for a handshake as well
_TRANSFER_S = 15.0  # for a body, and as much again for each megabyte and a half
_LEAST_BYTES_PER_S = 100_000.0
_LINGER_S = 2.0

_POLL_S = 0.1
# Linux says when a client has closed its side; elsewhere only a reset connection is noticed.
_CLOSED = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)


class RestServer:
    """A server in this process.

    Args:
        core: What answers, see `rest_api.Core`.
        metrics: Where requests are counted, and what the monitoring page shows.
        host: The address to listen on; "0.0.0.0" for all.
        port: The port to listen on; 0 picks a free one, see the attribute `port`.
        tls: What `tls.ssl_context` gives, for HTTPS; None for HTTP.
        monitoring_path: The path of the page for Prometheus; None for no page.
        max_body_bytes: The largest body to accept; larger ones get 413.
        max_connections: How many clients may be connected. Beyond it, the one that has been
            waited for longest is disconnected; when all wait for answers, the new one gets 503.
    """

    def __init__(
        self,
        core: rest_api.Core,
        metrics: Metrics,
        host: str = "127.0.0.1",
        port: int = 8501,
        *,
        tls: ssl.SSLContext | None = None,
        monitoring_path: str | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self.port = port
        self._host = host
        self._tls = tls
        self._api = rest_api.RestApi(core, metrics, monitoring_path)
        self._max_body_bytes = max_body_bytes
        self._max_connections = max_connections
        self._listener: _Listener | None = None

    def start(self) -> "RestServer":
        """Starts to listen.

        Returns:
            The server itself.

        Raises:
            OSError: the port is taken.
        """
        try:
            listener = _Listener(
                (self._host, self.port),
                self._api,
                self._tls,
                self._max_body_bytes,
                self._max_connections,
            )
        except OSError as error:
            raise OSError(f"Cannot listen on {self._host}:{self.port}: {error}") from error
        self.port = listener.server_address[1]
        self._listener = listener
        threading.Thread(
            target=listener.serve_forever, args=(_POLL_S,), name="rest", daemon=True
        ).start()
        scheme = "https" if self._tls else "http"
        logging.info("REST API on %s://%s:%d/v1/models", scheme, self._host, self.port)
        return self

    def stop(self, grace_s: float = 5.0) -> None:
        """Takes no more requests, finishes those that are here, and stops.

        Args:
            grace_s: How long requests may take to finish, in seconds; then they are cut off.
        """
        if self._listener is not None:
            self._listener.close(grace_s)
            self._listener = None

    def __enter__(self) -> "RestServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    b"Connection: close\r\n\r\n"
    + rest_api.error_answer(503, "All connections of this server are busy").body
)


class _Listener(socketserver.ThreadingTCPServer):
    """Accepts connections and gives each a thread."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        api: rest_api.RestApi,
        tls: ssl.SSLContext | None,
        max_body_bytes: int,
        max_connections: int,
    ) -> None:
        self.api = api
        self.max_body_bytes = max_body_bytes
        self.connections = Connections(max_connections)
        self._tls = tls
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self._tls is not None:
            # The handshake waits for the client: it is left to the connection's thread.
            connection = self._tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.connections.add(request):
            super().process_request(request, client_address)
            return
        if self._tls is None:
            request.setblocking(False)  # this thread waits for nobody; a new connection has room
            with contextlib.suppress(OSError):
                request.send(_FULL)
        self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        self.connections.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logging.exception("A REST connection failed unexpectedly")

    def close(self, grace_s: float) -> None:
        self.shutdown()
        self.server_close()
        self.connections.close(grace_s)


class _RefusedError(Exception):
    """A request whose body is not read."""

    def __init__(self, http_code: int, text: str) -> None:
        super().__init__(text)
        self.http_code = http_code


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection, with one request after the other."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # of requests too broken to tell: answers get a header
    disable_nagle_algorithm = True
    server: _Listener
    wfile: io.BytesIO

    def setup(self) -> None:
        self.connection = self.request
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._stream = Stream(self.connection)
        self.rfile = io.BufferedReader(self._stream, 65536)
        self.wfile = io.BytesIO()  # header and body are sent together, by `_flush`
        self._has_unread = False

    def handle(self) -> None:
        try:
            if isinstance(self.connection, ssl.SSLSocket):
                self.connection.settimeout(_HEADER_S)
                self.connection.do_handshake()
            self.close_connection = False
            while not self.close_connection and self._wait_for_request():
                self.handle_one_request()
            if self._has_unread:
                self._linger()
        except (OSError, ValueError) as error:
            # The client is gone, too slow, or was hung up on: nobody to answer to.
            logging.vlog(1, "REST connection from %s ended: %s", self.client_address, error)

    def finish(self) -> None:
        """Leaves the socket to the server, which closes it."""

    def _wait_for_request(self) -> bool:
        """Waits for the first byte; False if there is no other request."""
        connections = self.server.connections
        if not connections.wait_for_request(self.connection):
            return False
        self._stream.allow(_IDLE_S)
        if not self.rfile.peek(1):  # type: ignore[attr-defined]
            return False
        self._stream.allow(_HEADER_S)
        return connections.receive(self.connection)

    def _answer(self) -> None:
        try:
            body = self._read_body()
        except _RefusedError as error:
            self._has_unread = self.close_connection = True
            self._send(rest_api.error_answer(error.http_code, str(error)))
            return
        if self.server.connections.work(self.connection):
            self._send(self.server.api.answer(self.command, self.path, body, self._is_active))
        else:
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _answer  # noqa: N815

    def _read_body(self) -> bytes:
        length = self._body_length()
        self._stream.allow(_transfer_s(length))
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError(f"The body ended after {len(body)} of {length} bytes")
        return body

    def _body_length(self) -> int:
        """Gives the body's length.

        Raises:
            _RefusedError: the header doesn't say it or is malformed, or the body is too large or
                encoded.
        """
        headers: Message = self.headers
        if any(isinstance(defect, MissingHeaderBodySeparatorDefect) for defect in headers.defects):
            # The parser stops at a line that is no field, and drops those that follow: the body
            # would be taken for the next request.
            raise _RefusedError(400, "The header has a line that is no field")
        if "Transfer-Encoding" in headers:
            raise _RefusedError(411, "Content-Length is required: chunked bodies are not accepted")
        lengths = set(headers.get_all("Content-Length", []))
        if not lengths:
            if self.command in ("POST", "PUT", "PATCH"):
                raise _RefusedError(411, "Content-Length is required")
            return 0
        text = lengths.pop()
        if lengths or not (text.isascii() and text.isdigit()):
            raise _RefusedError(400, f"Content-Length is not one number: {text[:20]!r}")
        limit = self.server.max_body_bytes
        if len(text) > 18 or int(text) > limit:
            raise _RefusedError(
                413, f"The body has {text[:20]} bytes, more than this server's limit of {limit}"
            )
        encoding = headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise _RefusedError(415, f"Content-Encoding {encoding!r} is not accepted")
        return int(text)

    def handle_expect_100(self) -> bool:
        """Asks for the body, unless it will not be read."""
        try:
            self._body_length()
        except _RefusedError:
            return True  # the method gives the reason
        self.send_response_only(100)
        self.end_headers()
        self._flush()
        return True

    def _send(self, answer: rest_api.Answer) -> None:
        """Sends an answer: header and body in as few packets as can be."""
        if self.server.connections.is_closing:
            self.close_connection = True
        # The standard library has no name for 499.
        self.send_response(
            answer.http_code, "Client Closed Request" if answer.http_code == 499 else None
        )
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        self._flush()

    def _flush(self) -> None:
        data = self.wfile.getvalue()
        self.wfile = io.BytesIO()
        self._stream.allow(_transfer_s(len(data)))
        self._stream.send(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what the standard library could not parse."""
        self._has_unread = self.close_connection = True
        self._send(rest_api.error_answer(code, message or http.HTTPStatus(code).phrase))

    def _is_active(self) -> bool:
        """Says whether the client is still there."""
        poll = select.poll()
        poll.register(self.connection, _CLOSED)
        return not poll.poll(0)

    def _linger(self) -> None:
        """Reads on for a while: closing at once would destroy the answer on its way."""
        if not isinstance(self.connection, ssl.SSLSocket):
            self.connection.shutdown(socket.SHUT_WR)
        self._stream.allow(_LINGER_S)
        while self._stream.read(65536):
            pass

    def version_string(self) -> str:
        return "distilbert-tf"

    def log_message(self, format: str, *args: Any) -> None:
        logging.vlog(1, "REST %s: " + format, self.client_address, *args)


def _transfer_s(length: int) -> float:
    return _TRANSFER_S + length / _LEAST_BYTES_PER_S
