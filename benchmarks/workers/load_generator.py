"""Clients that send one text after another: one process, one event loop, prepared requests.

Nothing but what a request needs is done while the clock runs: bytes out, bytes in, and a look at
the answer. The server's memory and CPU time are read beside.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import grpc
import numpy as np
import psutil
from distilbert_serving.client.async_predict_client import AsyncPredictClient, PredictError
from distilbert_serving.protos import predict_pb2
from distilbert_serving.tensors import to_proto

from benchmarks.workers.protocol import serve

SAMPLE_EVERY_S = 1.0
PAUSE_AFTER_ERROR_S = 0.1
MAX_OVERTIME_S = 10.0  # beyond the deadline, a call counts as hung
MODEL_NAME = "distilbert"
PREDICT_METHOD = "/tensorflow.serving.PredictionService/Predict"


class Answer(NamedTuple):
    """What a server said of a text; version 0 if it has none."""

    label: str
    score: float
    version: int


class GrpcClient:
    """Asks over gRPC, on a connection of its own, with bytes that are made before."""

    def __init__(self, port: int, texts: Sequence[str], timeout_s: float) -> None:
        # Without this, channels to one address share one connection.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options)
        self._call = self._channel.unary_unary(PREDICT_METHOD)
        self._requests = [_predict_request(text) for text in texts]
        self._timeout_s = timeout_s

    async def ask(self, index: int) -> bytes:
        """Sends a text, and gives the answer's bytes."""
        return await self._call(self._requests[index], timeout=self._timeout_s)

    @staticmethod
    def read(data: bytes) -> Answer:
        """Reads an answer."""
        response = predict_pb2.PredictResponse.FromString(data)
        return Answer(
            response.outputs["label"].string_val[0].decode(),
            max(response.outputs["probabilities"].float_val),
            response.model_spec.version.value,
        )

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()


def _predict_request(text: str) -> bytes:
    request = predict_pb2.PredictRequest(output_filter=["label", "probabilities"])
    request.model_spec.name = MODEL_NAME
    request.inputs["text"].CopyFrom(to_proto([text]))
    return request.SerializeToString()


class HttpError(Exception):
    """A status other than 200."""


class HttpClient:
    """Asks over HTTP/1.1, on a connection that stays open, with bytes that are made before.

    It has no deadline: a call that is not answered counts as hung in the end.
    """

    def __init__(self, port: int, texts: Sequence[str], timeout_s: float) -> None:
        self._port = port
        self._requests = [_post(json.dumps({"text": text}).encode()) for text in texts]
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, index: int) -> bytes:
        """Sends a text, and gives the answer's bytes."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(self._requests[index])
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
            body = await reader.readexactly(int(length))
        except (OSError, EOFError):
            await self.close()
            raise
        status = head[9:12]
        if status != b"200":
            raise HttpError(f"HTTP {status.decode()}")
        return body

    @staticmethod
    def read(data: bytes) -> Answer:
        """Reads an answer."""
        fields = json.loads(data)
        return Answer(fields["label"], fields["score"], 0)

    async def close(self) -> None:
        """Closes the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _post(body: bytes) -> bytes:
    head = (
        "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class PackageClient:
    """Asks as users do: this package's client, which sends again what is UNAVAILABLE."""

    def __init__(self, port: int, texts: Sequence[str], timeout_s: float) -> None:
        self._client = AsyncPredictClient(f"127.0.0.1:{port}", MODEL_NAME, timeout_s=timeout_s)
        self._texts = texts

    async def ask(self, index: int) -> Any:
        """Sends a text, and gives the prediction."""
        return await self._client.predict(self._texts[index])

    @staticmethod
    def read(prediction: Any) -> Answer:
        """Reads a prediction."""
        return Answer(prediction.label, float(max(prediction.probabilities)), 0)

    async def close(self) -> None:
        """Closes the client."""
        await self._client.close()


CLIENTS: dict[str, Callable[..., Any]] = {
    "grpc": GrpcClient, "http": HttpClient, "package": PackageClient
}  # fmt: skip


class Load:
    """A run of the generator: its clients, and what they met.

    Args:
        kind: How they ask; a key of `CLIENTS`.
        port: The server's.
        server_pid: The server's process; None if it will change.
        texts: What to ask.
        answers: The right answers: for each version a list, one for each text, of probabilities by
            label.
        clients: How many.
        timeouts_s: Their deadlines; the first client has the first, and so on around.
        seconds: How long to measure.
        warmup_s: How long to ask before.
        tolerance: By how much a right answer's probability may differ.
    """

    def __init__(
        self,
        kind: str,
        port: int,
        server_pid: int | None,
        texts: Sequence[str],
        answers: dict[str, list[dict[str, float]]],
        clients: int,
        timeouts_s: Sequence[float],
        seconds: float,
        warmup_s: float,
        tolerance: float,
    ) -> None:
        self._right = {int(version): rows for version, rows in answers.items()}
        self._right[0] = self._right[1]
        self._timeouts_s = [timeouts_s[number % len(timeouts_s)] for number in range(clients)]
        self._clients = [CLIENTS[kind](port, texts, timeout_s) for timeout_s in self._timeouts_s]
        self._texts = len(texts)
        self._server = None if server_pid is None else psutil.Process(server_pid)
        self._seconds, self._warmup_s, self._tolerance = seconds, warmup_s, tolerance
        self.records: list[tuple[float, float, str, float]] = []
        self.samples: list[tuple[float, float, float]] = []
        self.errors: dict[str, str] = {}

    async def run(self) -> dict[str, Any]:
        """Runs the load.

        Returns:
            `started_at`, the time on the clock when measuring began; `generator_cpu_s`; `hung`,
            calls that never ended; `errors`, an example of each.
        """
        self._start_s = time.perf_counter() + self._warmup_s
        tasks = [
            asyncio.create_task(self._ask_on(number, client))
            for number, client in enumerate(self._clients)
        ]
        await asyncio.sleep(self._warmup_s)
        started_at, cpu_s = time.time(), time.process_time()
        await self._sample()
        cpu_s = time.process_time() - cpu_s
        patience_s = max(self._timeouts_s) + MAX_OVERTIME_S
        done, hung = await asyncio.wait(tasks, timeout=patience_s)
        for task in hung:
            task.cancel()
        for client in self._clients:
            await client.close()
        for task in done:
            task.result()
        return {
            "started_at": started_at,
            "generator_cpu_s": cpu_s,
            "hung": len(hung),
            "errors": self.errors,
        }

    async def _ask_on(self, number: int, client: Any) -> None:
        """Asks one text after another until the time is over."""
        choose = random.Random(number)
        end_s = self._start_s + self._seconds
        while (begin_s := time.perf_counter()) < end_s:
            index = choose.randrange(self._texts)
            outcome = ""
            try:
                data = await client.ask(index)
            except (grpc.RpcError, PredictError, HttpError, OSError, EOFError) as error:
                outcome = self._name(error)
            now_s = time.perf_counter()
            outcome = outcome or self._check(index, client.read(data))
            self.records.append(
                (now_s - self._start_s, now_s - begin_s, outcome, self._timeouts_s[number])
            )
            if outcome in self.errors:
                await asyncio.sleep(PAUSE_AFTER_ERROR_S)

    def _check(self, index: int, answer: Answer) -> str:
        """Names an outcome: the version that answered rightly, or `wrong`."""
        right = self._right.get(answer.version, [{}] * self._texts)[index]
        is_right = abs(right.get(answer.label, -1.0) - answer.score) <= self._tolerance
        return f"version {answer.version}" if is_right else "wrong"

    def _name(self, error: Exception) -> str:
        code = getattr(error, "code", None)
        if code is None:
            name = str(error) if isinstance(error, HttpError) else type(error).__name__
        else:
            name = (code() if callable(code) else code).name
        self.errors.setdefault(name, str(error)[:300])
        return name

    async def _sample(self) -> None:
        """Reads the server's memory and CPU time until the time is over."""
        while True:
            now_s = time.perf_counter() - self._start_s
            if self._server is not None:
                rss_mib, cpu_s = _usage(self._server)
                self.samples.append((now_s, rss_mib, cpu_s))
            if now_s >= self._seconds:
                return
            await asyncio.sleep(min(SAMPLE_EVERY_S, self._seconds - now_s + 1e-4))


def _usage(process: psutil.Process) -> tuple[float, float]:
    """Reads resident MiB and CPU seconds of a process and its children."""
    rss, cpu_s = 0, 0.0
    for one in (process, *process.children(recursive=True)):
        rss += one.memory_info().rss
        times = one.cpu_times()
        cpu_s += times.user + times.system
    return rss / 2**20, cpu_s


def run(path: str, inputs: str, **arguments: Any) -> dict[str, Any]:
    """Runs the load.

    Args:
        path: Where to write the records, an .npz: `end_s`, `latency_s`, `outcome`, `timeout_s` of
            each call, `samples` of the server (seconds, MiB, CPU seconds).
        inputs: A JSON file with `texts` and `answers`.
        **arguments: The rest of `Load`'s.

    Returns:
        See `Load.run`.
    """
    with open(inputs, encoding="utf-8") as file:
        given = json.load(file)

    async def run_load() -> tuple[Load, dict[str, Any]]:
        load = Load(texts=given["texts"], answers=given["answers"], **arguments)
        return load, await load.run()

    load, result = asyncio.run(run_load())
    ends_s, latencies_s, outcomes, timeouts_s = (
        zip(*load.records, strict=True) if load.records else ((), (), (), ())
    )
    np.savez(
        path,
        end_s=np.array(ends_s, float),
        latency_s=np.array(latencies_s, float),
        outcome=np.array(outcomes, str),
        timeout_s=np.array(timeouts_s, float),
        samples=np.array(load.samples, float).reshape(-1, 3),
    )
    return result


if __name__ == "__main__":
    serve({"run": run})
