"""A channel to a server: deadlines, retries, and errors that say who answered what.

What the channels of threads and of asyncio share stands here, too.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any, TypeVar

import grpc

from distilbert_serving.client.channel import FIRST_BACKOFF_S, MAX_BACKOFF_S, ChannelSettings
from distilbert_serving.protos import model_service_pb2_grpc, prediction_service_pb2_grpc

_Code = grpc.StatusCode
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_PREDICTION_RPCS = ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata")
_MODEL_RPCS = ("GetModelStatus",)


class PredictError(RuntimeError):
    """The server did not answer, or answered with an error.

    Args:
        code: The gRPC status code; INTERNAL, too, for an answer that cannot be right.
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


class Attempts:
    """The attempts to get one answer: how much time is left, and whether there is another one.

    Args:
        timeout_s: The time for all of them, in seconds.
        max_attempts: How many there may be; None: any number.
    """

    def __init__(self, timeout_s: float, max_attempts: int | None = None) -> None:
        self._end_s = time.monotonic() + timeout_s
        self._left = max_attempts
        self._backoff_s = FIRST_BACKOFF_S

    @property
    def remaining_s(self) -> float:
        """The time left, in seconds."""
        return max(self._end_s - time.monotonic(), 0.0)

    def pause_s(self, code: grpc.StatusCode) -> float | None:
        """Gives the pause before the next attempt, in seconds; None if there is none.

        Args:
            code: What the last attempt ended with.
        """
        if self._left is not None:
            self._left -= 1
        pause_s = self._backoff_s * random.uniform(0.5, 1.0)
        self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)
        if code != _Code.UNAVAILABLE or self._left == 0 or pause_s >= self.remaining_s:
            return None
        return pause_s


class BaseConnection:
    """What connections of both kinds share.

    Args:
        settings: The server's address, and how to speak with it.
    """

    def __init__(self, settings: ChannelSettings) -> None:
        self.settings = settings

    def attempts(self, timeout_s: float | None) -> Attempts:
        """Starts the clock of a request, with this timeout or the connection's."""
        return Attempts(
            self.settings.timeout_s if timeout_s is None else timeout_s, self.settings.max_attempts
        )

    def error(self, code: grpc.StatusCode, details: str) -> PredictError:
        """Makes an error that names the server and the model."""
        return PredictError(code, details, self.settings.target, self.settings.model_name)

    def rpc_error(self, error: grpc.RpcError) -> PredictError:
        """Makes of gRPC's error one that says what to change, where that is known."""
        code, details = error.code(), error.details() or "no details"
        limit = self.settings.max_message_bytes
        if code == _Code.RESOURCE_EXHAUSTED and "message larger than max" in details:
            # Servers with an older gRPC do not say that it is theirs.
            if "CLIENT:" in details or details.startswith("Sent"):
                advice = (
                    f"the limit is the client's max_message_bytes={limit}: raise it, or send "
                    "fewer or shorter texts (batch_size)"
                )
            else:
                advice = "the limit is the server's: send fewer or shorter texts (batch_size)"
            details = f"{details}; {advice}"
        elif code == _Code.INTERNAL and "xception serializing request" in details:
            # Protocol buffers end at 2 GiB, whatever gRPC's limit.
            code = _Code.RESOURCE_EXHAUSTED
            details = f"{details} It is too large: send fewer or shorter texts (batch_size)"
        return self.error(code, details)


class Connection(BaseConnection):
    """Sends requests to one server, from any thread.

    Args:
        settings: The server's address, and how to speak with it.

    Raises:
        OSError, ValueError: the TLS files cannot be used.
    """

    def __init__(self, settings: ChannelSettings) -> None:
        super().__init__(settings)
        target, options = settings.target, settings.options()
        if settings.tls is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            self._channel = grpc.secure_channel(target, settings.tls.credentials(), options)
        self._rpcs = bind_rpcs(self._channel)
        self._is_closed = False

    def send(self, rpc: str, request: Any, attempts: Attempts) -> Any:
        """Sends a request, again while the server is UNAVAILABLE and there is time.

        Args:
            rpc: The method's name.
            request: Its request message.
            attempts: The request's clock.

        Returns:
            The answer.

        Raises:
            PredictError: the server gave an error, or none answered within the deadline.
            ValueError: the connection is closed.
        """
        while True:
            if self._is_closed:
                raise ValueError("This client is closed")
            try:
                return self._rpcs[rpc](
                    request, timeout=attempts.remaining_s, metadata=self.settings.call_metadata()
                )
            except grpc.RpcError as error:
                pause_s = attempts.pause_s(error.code())
                if pause_s is None:
                    raise self.rpc_error(error) from error
            time.sleep(pause_s)

    def close(self) -> None:
        """Closes the channel; requests on their way end with CANCELLED."""
        self._is_closed = True
        self._channel.close()


def bind_rpcs(channel: Any) -> Mapping[str, Callable[..., Any]]:
    """Gives TF Serving's methods on a channel of either kind, by name."""
    prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    model = model_service_pb2_grpc.ModelServiceStub(channel)
    return {name: getattr(prediction, name) for name in _PREDICTION_RPCS} | {
        name: getattr(model, name) for name in _MODEL_RPCS
    }


def map_in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item], concurrency: int
) -> Iterator[_Result]:
    """Calls a function for each item, some at a time, and gives the results in order.

    It reads at most `2 * concurrency` items ahead. After an error nothing new is started.
    """
    if concurrency == 1:
        yield from map(function, items)
        return
    pool = futures.ThreadPoolExecutor(concurrency, "predict")
    pending: deque[futures.Future[_Result]] = deque()
    try:
        for item in items:
            while pending and (len(pending) == 2 * concurrency or pending[0].done()):
                yield pending.popleft().result()
            pending.append(pool.submit(function, item))
        while pending:
            yield pending.popleft().result()
    finally:
        # Calls on their way have deadlines, and end at once when the client is closed.
        pool.shutdown(wait=False, cancel_futures=True)
