"""A channel to a server: deadlines, retries, and errors that say who answered what."""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

# The pause before a retry grows from the first to the second of these, in seconds, and is then
# shortened at random, so that clients who lost a server together don't come back together.
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 1.0

_Response = TypeVar("_Response")


class PredictError(RuntimeError):
    """The server did not answer, or answered with an error.

    Args:
        code: The gRPC status code.
        details: The server's or gRPC's explanation.
        target: The server's address.
        model_name: The model that was asked.
    """

    def __init__(self, code: grpc.StatusCode, details: str, target: str, model_name: str) -> None:
        super().__init__(f"Model {model_name!r} at {target} gave {code.name}: {details}")
        self.code = code
        self.details = details
        self.target = target
        self.model_name = model_name


class Connection:
    """Sends requests about one model to one server.

    Args:
        target: The server's address.
        model_name: The model's name, for error messages.
        timeout_s: The deadline of each request, retries included, in seconds.
        max_attempts: How often a request may be sent while the server is UNAVAILABLE; None: as
            often as the deadline allows. Nothing else is retried.
        max_message_bytes: The largest request or answer, in bytes.

    Raises:
        ValueError: a number makes no sense.
    """

    def __init__(
        self,
        target: str,
        model_name: str,
        *,
        timeout_s: float,
        max_attempts: int | None,
        max_message_bytes: int,
    ) -> None:
        if timeout_s <= 0:
            raise ValueError(f"timeout_s must be positive, not {timeout_s}")
        if max_attempts is not None and max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {max_attempts}")
        self.target = target
        self.model_name = model_name
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts
        self.channel = grpc.insecure_channel(
            target,
            options=[
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.max_receive_message_length", max_message_bytes),
                # gRPC waits ever longer before it connects again, up to two minutes; a retry
                # before that fails at once.
                ("grpc.initial_reconnect_backoff_ms", round(1000 * FIRST_BACKOFF_S)),
                ("grpc.max_reconnect_backoff_ms", round(1000 * MAX_BACKOFF_S)),
                # Retries are counted here; two layers of them would multiply.
                ("grpc.enable_retries", 0),
            ],
        )

    def send(
        self, method: Callable[..., _Response], request: Any, timeout_s: float | None = None
    ) -> _Response:
        """Sends a request, again while the server is UNAVAILABLE and there is time.

        Args:
            method: A method of a stub on this connection's channel.
            request: Its request message.
            timeout_s: The deadline in seconds; by default the connection's.

        Returns:
            The answer.

        Raises:
            PredictError: the server gave an error, or none answered within the deadline.
        """
        end_s = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        attempt = 1
        while True:
            try:
                return method(request, timeout=max(end_s - time.monotonic(), 0.0))
            except grpc.RpcError as error:
                code = error.code()
                backoff_s = min(FIRST_BACKOFF_S * 2 ** (attempt - 1), MAX_BACKOFF_S)
                backoff_s *= random.uniform(0.5, 1.0)
                if (
                    code != grpc.StatusCode.UNAVAILABLE
                    or attempt == self._max_attempts
                    or time.monotonic() + backoff_s >= end_s
                ):
                    raise self.error(code, error.details() or "no details") from error
            time.sleep(backoff_s)
            attempt += 1

    def error(self, code: grpc.StatusCode, details: str) -> PredictError:
        """Makes an error that names the server and the model."""
        return PredictError(code, details, self.target, self.model_name)

    def close(self) -> None:
        """Closes the channel."""
        self.channel.close()
