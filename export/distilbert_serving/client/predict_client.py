"""A client for models exported by this package, on TF Serving or on the local server.

It needs gRPC, NumPy and TF Serving's protocol buffers; it imports neither `distilbert_tf` nor
TensorFlow itself (see `distilbert_serving.protos`), so it starts in well under a second. For
asyncio there is `async_predict_client`.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent import futures
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

__all__ = ["InvalidRowsError", "PredictClient", "PredictError", "Tls"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class PredictClient(BaseClient):
    """Sends texts to a server and returns answers. Threads may share one.

        with PredictClient("127.0.0.1:8500") as client:
            client.predict("A fine film.").label
            client.predict("It rains.", "It is wet.", signature_name="mnli").label
            client.encode(texts, batch_size=64, concurrency=4).mean

    Methods that take rows give one answer for one row, and answers in order for a list of any
    length; their keyword arguments are those of `client.queries.Options`: `signature_name`,
    `batch_size`, `concurrency`, `timeout_s` and `return_invalid`. No rows are answered without
    being sent. Errors are

    - `ValueError` for input that cannot be sent or that the signature does not take,
    - `InvalidRowsError`, a ValueError, too, for rows that the server could not compute, such as a
      text that is longer than the export takes. It names them and holds all answers.
    - `PredictError` if the server answered with an error, or not within the deadline.

    Args:
        target: The server's address.
        model_name: The model's name on the server.
        timeout_s: The deadline of each request, retries included, in seconds.
        version: The version to ask; by default the newest that is loaded.
        version_label: The label of the version to ask, instead of its number.
        signature_name: The endpoint that `predict` and `call` use unless told otherwise; of a
            model for several tasks, the task's name, and the other methods use that task's.
        max_attempts: How often a request may be sent while the server is UNAVAILABLE; None: as
            often as the deadline allows. Nothing else is retried.
        max_message_bytes: The largest request or answer, in bytes.
        keepalive_s: How often a connection is probed while it waits for an answer, in seconds;
            stock servers close it if that is less than 300.
        tls: Makes the connection secure, with a client's certificate if it has one.
        headers: Sent with each request, such as {"authorization": "Bearer ..."}; or a function
            that returns them, asked each time.

    Raises:
        OSError: A TLS file cannot be read.
        ValueError: Version and label are both given, or a setting makes no sense.
    """

    if TYPE_CHECKING:
        predict: PairMethod[Prediction, Predictions]
        classify: PairMethod[Classification, Classifications]
        regress: PairMethod[float, list[float]]
        encode: TextMethod[Embedding, Embeddings]
        tokenize: PairMethod[TokenizedText, list[TokenizedText]]
        fill_mask: TextMethod[list[list[MaskAnswer]], list[list[list[MaskAnswer]]]]
        multi_inference: Callable[..., dict[str, Any]]
        stream: Callable[..., Generator[Any, None, None]]
        call: Callable[..., dict[str, np.ndarray]]
        metadata: Callable[..., ModelMetadata]
        model_status: Callable[..., list[VersionStatus]]
        wait_until_ready: Callable[..., None]

    def _connect(self) -> None:
        self._open_channel(grpc)

    def close(self) -> None:
        """Closes the connection: requests on their way end with CANCELLED."""
        self._is_closed = True
        self._channel.close()

    def __enter__(self) -> "PredictClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, make_query: Callable[[], Query]) -> Any:
        query = make_query()
        return query.join(list(self._parts(query)))

    def _stream(self, make_query: Callable[[], Query]) -> Generator[Any, None, None]:
        query = make_query()
        for batch, part in self._parts(query):
            yield from query.each(batch, part)

    def _parts(self, query: Query) -> Iterator[tuple[Rows, Any]]:
        return _map_in_order(
            lambda batch: self._run(self._answer(query, batch)), query.batches(), query.concurrency
        )

    def _run(self, steps: Steps[_Result]) -> _Result:
        response: Any = None
        error: grpc.RpcError | None = None
        while True:
            try:
                step = steps.send(response) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            response = error = None
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                continue
            try:
                response = self._rpcs[step.rpc](
                    step.request, timeout=step.timeout_s, metadata=self._settings.call_metadata()
                )
            except grpc.RpcError as failure:
                error = failure


def _map_in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item], concurrency: int
) -> Iterator[_Result]:
    """Calls a function for each item, some at a time, and yields the results in order.

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
