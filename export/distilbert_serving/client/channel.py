"""How a client reaches a server: TLS, keep-alive, limits, headers, and pauses between retries."""

import dataclasses
import os
import pathlib
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from distilbert_serving.protos import model_service_pb2_grpc, prediction_service_pb2_grpc

# The pause before a retry grows from the first to the second of these, in seconds, and is then
# shortened at random, so that clients who lost a server together don't come back together.
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 1.0

# A stock gRPC server takes pings during a request every five minutes, and after three that come
# sooner closes the connection (ENHANCE_YOUR_CALM); pings without a request it takes every two
# hours, so there are none. Load balancers drop connections that idle for 350 s.
KEEPALIVE_S = 330.0
# How long a ping, or bytes sent, may stay unacknowledged before the connection counts as dead.
KEEPALIVE_TIMEOUT_S = 10.0

_PREDICTION_RPCS = ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata")
_Code = grpc.StatusCode

Path = str | os.PathLike[str]
Headers = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Tls:
    """What makes a connection secure; all files are PEM.

        PredictClient("example.org:443", tls=Tls(root_certificates="authority.pem"))

    Args:
        root_certificates: Who may have signed the server's certificate; by default those that gRPC
            comes with.
        client_key: For mutual TLS the client's private key.
        client_certificate: For mutual TLS the client's certificate, and its signers'.
        server_name: The name that the server's certificate must hold, if it is not the target's.
    """

    root_certificates: Path | None = None
    client_key: Path | None = None
    client_certificate: Path | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files.

        Raises:
            OSError: a file cannot be read.
            ValueError: a file is not PEM, or of key and certificate one is missing.
        """
        if (self.client_key is None) != (self.client_certificate is None):
            raise ValueError("Mutual TLS needs both client_key and client_certificate")
        return grpc.ssl_channel_credentials(
            _read_pem(self.root_certificates),
            _read_pem(self.client_key),
            _read_pem(self.client_certificate),
        )


@dataclasses.dataclass(frozen=True)
class ChannelSettings:
    """What a connection is made from.

    See `PredictClient` for the fields.

    Raises:
        ValueError: a number makes no sense.
    """

    target: str
    timeout_s: float
    max_attempts: int | None
    max_message_bytes: int
    keepalive_s: float
    tls: Tls | None
    headers: Headers | Callable[[], Headers]

    def __post_init__(self) -> None:
        for name in ("timeout_s", "keepalive_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {self.max_attempts}")
        if not 0 < self.max_message_bytes < 2**31:
            raise ValueError(
                f"max_message_bytes must be from 1 to 2**31 - 1, not {self.max_message_bytes}"
            )

    def options(self) -> list[tuple[str, int | str]]:
        """Returns the channel's options."""
        options: list[tuple[str, int | str]] = [
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            # gRPC waits ever longer before it connects again, up to two minutes; a retry before
            # that fails at once.
            ("grpc.initial_reconnect_backoff_ms", round(1000 * FIRST_BACKOFF_S)),
            ("grpc.min_reconnect_backoff_ms", round(1000 * KEEPALIVE_TIMEOUT_S)),
            ("grpc.max_reconnect_backoff_ms", round(1000 * MAX_BACKOFF_S)),
            ("grpc.keepalive_time_ms", round(1000 * self.keepalive_s)),
            ("grpc.keepalive_timeout_ms", round(1000 * KEEPALIVE_TIMEOUT_S)),
            # gRPC's own policy ends after five attempts, however much time is left: the clients
            # retry by themselves, and two layers of retries would multiply.
            ("grpc.enable_retries", 0),
        ]
        if self.tls is not None and self.tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return options

    def call_metadata(self) -> list[tuple[str, str]] | None:
        """Returns the headers of a request, in gRPC's form."""
        headers = self.headers() if callable(self.headers) else self.headers
        return [(name.lower(), value) for name, value in headers.items()] or None

    def open(self, api: Any, credentials: grpc.ChannelCredentials | None) -> Any:
        """Opens a channel of `grpc`, or of `grpc.aio` for the event loop that runs."""
        if credentials is None:
            return api.insecure_channel(self.target, self.options())
        return api.secure_channel(self.target, credentials, self.options())


def bind_rpcs(channel: Any) -> Mapping[str, Callable[..., Any]]:
    """Returns TF Serving's methods on a channel, by name."""
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    rpcs = {name: getattr(stub, name) for name in _PREDICTION_RPCS}
    rpcs["GetModelStatus"] = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus
    return rpcs


class RetryClock:
    """How much time is left to get one answer, and whether there is another attempt."""

    def __init__(self, timeout_s: float, max_attempts: int | None = None) -> None:
        self._end_s = time.monotonic() + timeout_s
        self._left = max_attempts
        self._backoff_s = FIRST_BACKOFF_S

    @property
    def remaining_s(self) -> float:
        """The time left, in seconds."""
        return max(self._end_s - time.monotonic(), 0.0)

    def pause_s(self, code: grpc.StatusCode) -> float | None:
        """Returns the pause after an attempt that failed, in seconds; None if it was the last."""
        if self._left is not None:
            self._left -= 1
        pause_s = self._backoff_s * random.uniform(0.5, 1.0)
        self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)
        if code != _Code.UNAVAILABLE or self._left == 0 or pause_s >= self.remaining_s:
            return None
        return pause_s


def _read_pem(path: Path | None) -> bytes | None:
    if path is None:
        return None
    content = pathlib.Path(path).read_bytes()
    if b"-----BEGIN " not in content:
        raise ValueError(f"{os.fspath(path)} is not PEM: it has no line -----BEGIN ...-----")
    return content
