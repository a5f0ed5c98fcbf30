"""A channel to a server for asyncio."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import grpc

from distilbert_serving.client.channel import ChannelSettings
from distilbert_serving.client.connection import Attempts, BaseConnection, bind_rpcs

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class AsyncConnection(BaseConnection):
    """Sends requests to one server, from the event loop that sends the first.

    Args:
        settings: The server's address, and how to speak with it.

    Raises:
        OSError, ValueError: the TLS files cannot be used.
    """

    def __init__(self, settings: ChannelSettings) -> None:
        super().__init__(settings)
        self._credentials = None if settings.tls is None else settings.tls.credentials()
        # A channel belongs to the loop that runs when it is made, and maybe none does yet.
        self._channel: grpc.aio.Channel | None = None
        self._rpcs: Mapping[str, Callable[..., Any]] = {}
        self._is_closed = False

    async def send(self, rpc: str, request: Any, attempts: Attempts) -> Any:
        """Sends a request as `Connection.send` does."""
        while True:
            if self._is_closed:
                raise ValueError("This client is closed")
            self._open()
            try:
                return await self._rpcs[rpc](
                    request, timeout=attempts.remaining_s, metadata=self.settings.call_metadata()
                )
            except asyncio.CancelledError:
                # Closing the channel cancels its calls, but not the tasks that wait for them.
                if self._is_closed:
                    raise self.error(grpc.StatusCode.CANCELLED, "the client was closed") from None
                raise
            except grpc.RpcError as error:
                pause_s = attempts.pause_s(error.code())
                if pause_s is None:
                    raise self.rpc_error(error) from error
            await asyncio.sleep(pause_s)

    async def close(self) -> None:
        """Closes the channel; requests on their way are cancelled."""
        self._is_closed = True
        if self._channel is not None:
            await self._channel.close()

    def _open(self) -> None:
        if self._channel is not None:
            return
        target, options = self.settings.target, self.settings.options()
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options)
        else:
            self._channel = grpc.aio.secure_channel(target, self._credentials, options)
        self._rpcs = bind_rpcs(self._channel)


async def map_in_order(
    function: Callable[[_Item], Awaitable[_Result]], items: Iterable[_Item], concurrency: int
) -> AsyncGenerator[_Result, None]:
    """Calls a function for each item, some at a time, and gives the results in order.

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
