"""A FastAPI server around a classifier, as one writes it for production: load.py's peers.

    python -m benchmarks.workers.web_server --model=torch --checkpoint=DIR --port=8000

A request is run by itself in FastAPI's thread pool, or, with --max_batch_size, waits in a queue
from which each of --runs threads takes all that are there: transformers' documentation on web
servers ("dynamic batching"), without its pause, as an idle server should answer at once.
"""

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio.to_thread
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.workers.web_models import LOADERS, Answer, Classify

_Waiting = tuple[str, "asyncio.Future[Answer]"]


class Body(BaseModel):
    """What a request says."""

    text: str


class MicroBatcher:
    """Runs what waits together, in threads beside the event loop's.

    Args:
        classify: Answers texts.
        max_batch_size: The most texts in a run.
        runs: Those at the same time.
    """

    def __init__(self, classify: Classify, max_batch_size: int, runs: int) -> None:
        self._classify, self._max_batch_size = classify, max_batch_size
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._threads = ThreadPoolExecutor(runs)
        self._runs = runs

    async def ask(self, text: str) -> Answer:
        """Waits for a text's answer."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((text, future))
        return await future

    async def run(self) -> None:
        """Runs batches until cancelled."""
        await asyncio.gather(*(self._run_one_by_one() for _ in range(self._runs)))

    async def _run_one_by_one(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self._max_batch_size and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            texts = [text for text, _ in batch]
            try:
                answers = await loop.run_in_executor(self._threads, self._classify, texts)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)


def make_app(classify: Classify, max_batch_size: int, runs: int) -> FastAPI:
    """Makes the application.

    Args:
        classify: Answers texts.
        max_batch_size: The most texts in a run; 0 to run each by itself.
        runs: Those at the same time.
    """
    batcher = MicroBatcher(classify, max_batch_size, runs)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = runs
        task = asyncio.create_task(batcher.run())
        yield
        task.cancel()

    app = FastAPI(lifespan=lifespan)

    # FastAPI runs `def` in its threads, `async def` in the event loop.
    if max_batch_size:

        @app.post("/predict")
        async def predict_in_batch(body: Body) -> Any:
            return await batcher.ask(body.text)
    else:

        @app.post("/predict")
        def predict(body: Body) -> Any:
            return classify([body.text])[0]

    return app


def main() -> None:
    """Serves until a signal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=LOADERS, required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--artefacts", default="")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    parser.add_argument("--runs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--max_batch_size", type=int, default=0, help="0: each by itself")
    flags = parser.parse_args()
    classify = LOADERS[flags.model](flags.checkpoint, flags.artefacts, flags.threads, flags.runs)
    classify(["warm", "warm up"])
    app = make_app(classify, flags.max_batch_size, flags.runs)
    uvicorn.run(app, host="127.0.0.1", port=flags.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
