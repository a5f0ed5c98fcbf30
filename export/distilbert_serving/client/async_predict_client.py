"""The client of `distilbert_serving.client.predict_client` for asyncio."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import numpy as np

from distilbert_serving.client.base import (
    BaseClient,
    PairMethod,
    Pause,
    Steps,
    TextMethod,
)
from distilbert_serving.client.channel import Tls
from distilbert_serving.client.errors import InvalidRowsError, PredictError
from distilbert_serving.client.queries import Query
from distilbert_serving.client.requests import Rows
from distilbert_serving.client.results import (
    Classification,
    Classifications,
    Embedding,
    Embeddings,
    MaskAnswer,
    ModelMetadata,
    Prediction,
    Predictions,
    TokenizedText,
    VersionStatus,
)

__all__ = ["AsyncPredictClient", "InvalidRowsError", "PredictError", "Tls"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class AsyncPredictClient(BaseClient):
    """`PredictClient` for asyncio: the same arguments, methods, answers and errors.

        async with AsyncPredictClient("127.0.0.1:8500") as client:
            (await client.predict("A fine film.")).label
            async for prediction in client.stream(lines, concurrency=8): ...

    A client belongs to the event loop that uses it first. A task that is cancelled cancels its
    requests.
    """

    if TYPE_CHECKING:
        predict: PairMethod[Awaitable[Prediction], Awaitable[Predictions]]
        classify: PairMethod[Awaitable[Classification], Awaitable[Classifications]]
        regress: PairMethod[Awaitable[float], Awaitable[list[float]]]
        encode: TextMethod[Awaitable[Embedding], Awaitable[Embeddings]]
        tokenize: PairMethod[Awaitable[TokenizedText], Awaitable[list[TokenizedText]]]
        fill_mask: TextMethod[
            Awaitable[list[list[MaskAnswer]]], Awaitable[list[list[list[MaskAnswer]]]]
        ]
        multi_inference: Callable[..., Awaitable[dict[str, Any]]]
        stream: Callable[..., AsyncGenerator[Any, None]]
        call: Callable[..., Awaitable[dict[str, np.ndarray]]]
        metadata: Callable[..., Awaitable[ModelMetadata]]
        model_status: Callable[..., Awaitable[list[VersionStatus]]]
        wait_until_ready: Callable[..., Awaitable[None]]

    def _connect(self) -> None:
        # A channel belongs to the loop that runs when it is made, and maybe none does yet.
        self._channel = None

    async def close(self) -> None:
        """Closes the connection: requests on their way end with CANCELLED."""
        self._is_closed = True
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> "AsyncPredictClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, make_query: Callable[[], Query]) -> Any:
        query = make_query()
        return query.join([part async for part in self._parts(query)])

    async def _stream(self, make_query: Callable[[], Query]) -> AsyncGenerator[Any, None]:
        query = make_query()
        async with contextlib.aclosing(self._parts(query)) as parts:
            async for batch, part in parts:
                for answer in query.each(batch, part):
                    yield answer

    def _parts(self, query: Query) -> AsyncGenerator[tuple[Rows, Any], None]:
        return _map_in_order(
            lambda batch: self._run(self._answer(query, batch)), query.batches(), query.concurrency
        )

    async def _run(self, steps: Steps[_Result]) -> _Result:
        response: Any = None
        error: grpc.RpcError | None = None
        while True:
            try:
                step = steps.send(response) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            response = error = None
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                continue
            if self._channel is None:
                self._open_channel(grpc.aio)
            try:
                response = await self._rpcs[step.rpc](
                    step.request, timeout=step.timeout_s, metadata=self._settings.call_metadata()
                )
            except asyncio.CancelledError:
                # Closing the channel cancels its calls, but not the tasks that wait for them.
                if self._is_closed:
                    code = grpc.StatusCode.CANCELLED
                    raise self._error(code, "the client was closed") from None
                raise
            except grpc.RpcError as failure:
                error = failure


async def _map_in_order(
    function: Callable[[_Item], Awaitable[_Result]], items: Iterable[_Item], concurrency: int
) -> AsyncGenerator[_Result, None]:
    """Calls a function for each item, some at a time, and yields the results in order.

    It reads at most `concurrency` items ahead. After an error what is on its way is cancelled.
    """
    pending: deque[asyncio.Future[_Result]] = deque()
    try:
        for item in items:
            while pending and (len(pending) == concurrency or pending[0].done()):
                yield await pending.popleft()
            pending.append(asyncio.ensure_future(function(item)))
        while pending:
            yield await pending.popleft()
    finally:
        for future in pending:
            future.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
