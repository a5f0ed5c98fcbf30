"""The clients of threads and of asyncio, asked in the same way."""

import asyncio
import functools
import inspect

from distilbert_serving.client.async_predict_client import AsyncPredictClient
from distilbert_serving.client.predict_client import PredictClient

KINDS = {"threads": PredictClient, "asyncio": AsyncPredictClient}


class Asker:
    """Calls the methods of a client of either kind, and waits for their answers.

    With `sink`, a list, what a stream yields goes there, so that it is kept if an error ends it.
    """

    def __init__(self, kind, target, **options):
        self.client = kind(target, **options)
        self.loop = asyncio.new_event_loop()

    def __getattr__(self, name):
        method = getattr(self.client, name)

        @functools.wraps(method)
        def call(*args, sink=None, **options):
            result = method(*args, **options)
            if inspect.isgenerator(result) and sink is not None:
                return sink.extend(result)
            if inspect.isasyncgen(result):
                return self.loop.run_until_complete(_collect(result, [] if sink is None else sink))
            return self.loop.run_until_complete(result) if inspect.isawaitable(result) else result

        return call


async def _collect(generator, items):
    async for item in generator:
        items.append(item)
    return items
