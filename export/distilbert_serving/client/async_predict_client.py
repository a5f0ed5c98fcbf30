"""The client of `distilbert_serving.client.predict_client` for asyncio."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from distilbert_serving.client import methods, requests
from distilbert_serving.client.async_connection import AsyncConnection, map_in_order
from distilbert_serving.client.base import (
    Asked,
    BaseClient,
    InvalidRowsError,
    Options,
    Readiness,
    Steps,
)
from distilbert_serving.client.channel import ChannelSettings, Tls
from distilbert_serving.client.connection import PredictError
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

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["AsyncPredictClient", "InvalidRowsError", "PredictError", "Tls"]

_Result = TypeVar("_Result")


# A str is a Sequence[str], too; of overloads the first that fits counts.
# mypy: disable-error-code="overload-overlap"
class AsyncPredictClient(BaseClient):
    """`PredictClient` for asyncio: the same arguments, methods, answers and errors.

        async with AsyncPredictClient("127.0.0.1:8500") as client:
            (await client.predict("A fine film.")).label
            async for prediction in client.stream(lines, concurrency=8): ...

    A client belongs to the event loop that uses it first. A task that is cancelled cancels its
    requests.
    """

    _connection: AsyncConnection

    def _connect(self, settings: ChannelSettings) -> AsyncConnection:
        return AsyncConnection(settings)

    @overload
    async def predict(
        self, texts: str, text_pairs: str | None = None, **options: "Unpack[Options]"
    ) -> Prediction: ...

    @overload
    async def predict(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        **options: "Unpack[Options]",
    ) -> Predictions: ...

    async def predict(self, texts: Any, text_pairs: Any = None, **options: Any) -> Any:
        """As `PredictClient.predict`."""
        return await self._ask(methods.PREDICT, requests.text_rows(texts, text_pairs), **options)

    @overload
    async def classify(
        self, texts: str, text_pairs: str | None = None, **options: "Unpack[Options]"
    ) -> Classification: ...

    @overload
    async def classify(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        **options: "Unpack[Options]",
    ) -> Classifications: ...

    async def classify(self, texts: Any, text_pairs: Any = None, **options: Any) -> Any:
        """As `PredictClient.classify`."""
        return await self._ask(methods.CLASSIFY, requests.text_rows(texts, text_pairs), **options)

    @overload
    async def regress(
        self, texts: str, text_pairs: str | None = None, **options: "Unpack[Options]"
    ) -> float: ...

    @overload
    async def regress(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        **options: "Unpack[Options]",
    ) -> list[float]: ...

    async def regress(self, texts: Any, text_pairs: Any = None, **options: Any) -> Any:
        """As `PredictClient.regress`."""
        return await self._ask(methods.REGRESS, requests.text_rows(texts, text_pairs), **options)

    async def multi_inference(
        self,
        texts: str | Sequence[str],
        text_pairs: str | Sequence[str] | None = None,
        *,
        classify: Sequence[str] = (),
        regress: Sequence[str] = (),
        **options: "Unpack[Options]",
    ) -> dict[str, Any]:
        """As `PredictClient.multi_inference`."""
        method = methods.multi_inference(classify, regress)
        return await self._ask(method, requests.text_rows(texts, text_pairs), **options)

    @overload
    async def encode(self, texts: str, **options: "Unpack[Options]") -> Embedding: ...

    @overload
    async def encode(self, texts: Sequence[str], **options: "Unpack[Options]") -> Embeddings: ...

    async def encode(self, texts: Any, **options: Any) -> Any:
        """As `PredictClient.encode`."""
        return await self._ask(methods.ENCODE, requests.text_rows(texts), **options)

    @overload
    async def tokenize(
        self, texts: str, text_pairs: str | None = None, **options: "Unpack[Options]"
    ) -> TokenizedText: ...

    @overload
    async def tokenize(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        **options: "Unpack[Options]",
    ) -> list[TokenizedText]: ...

    async def tokenize(self, texts: Any, text_pairs: Any = None, **options: Any) -> Any:
        """As `PredictClient.tokenize`."""
        return await self._ask(methods.TOKENIZE, requests.text_rows(texts, text_pairs), **options)

    @overload
    async def fill_mask(
        self, texts: str, **options: "Unpack[Options]"
    ) -> list[list[MaskAnswer]]: ...

    @overload
    async def fill_mask(
        self, texts: Sequence[str], **options: "Unpack[Options]"
    ) -> list[list[list[MaskAnswer]]]: ...

    async def fill_mask(self, texts: Any, **options: Any) -> Any:
        """As `PredictClient.fill_mask`."""
        return await self._ask(methods.FILL_MASK, requests.text_rows(texts), **options)

    async def from_ids(
        self,
        input_ids: requests.Ids,
        attention_mask: requests.Ids | None = None,
        **options: "Unpack[Options]",
    ) -> Any:
        """As `PredictClient.from_ids`."""
        return await self._ask(
            methods.FROM_IDS, requests.id_rows(input_ids, attention_mask), **options
        )

    async def stream(
        self,
        rows: Iterable[str | tuple[str, str]],
        method: str = "predict",
        **options: "Unpack[Options]",
    ) -> AsyncGenerator[Any, None]:
        """As `PredictClient.stream`."""
        asked = Asked(self.signature_name, methods.text_method(method), **options)
        parts = self._parts(asked, requests.batch_stream(rows, asked.batch_size))
        async with contextlib.aclosing(parts):
            async for batch, part in parts:
                for answer in asked.each(batch, part):
                    yield answer

    async def call(
        self,
        inputs: Mapping[str, Any],
        *,
        signature_name: str | None = None,
        outputs: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> dict[str, np.ndarray]:
        """As `PredictClient.call`."""
        return await self._run(self._call(inputs, signature_name, outputs, timeout_s))

    async def metadata(self, timeout_s: float | None = None) -> ModelMetadata:
        """As `PredictClient.metadata`."""
        return await self._run(self._ask_metadata(timeout_s))

    async def model_status(self, timeout_s: float | None = None) -> list[VersionStatus]:
        """As `PredictClient.model_status`."""
        return await self._run(self._ask_status(timeout_s))

    async def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """As `PredictClient.wait_until_ready`."""
        has_label = self._version_label is not None
        readiness = Readiness(self._connection, timeout_s, has_label)
        while True:
            try:
                if readiness.is_ready(await self.model_status(readiness.remaining_s)):
                    if has_label:
                        await self.metadata(readiness.remaining_s)
                    return
            except PredictError as error:
                readiness.note(error)
            await asyncio.sleep(readiness.pause_s())

    async def close(self) -> None:
        """As `PredictClient.close`."""
        await self._connection.close()

    async def __aenter__(self) -> "AsyncPredictClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, method: methods.Method, rows: Rows, **options: "Unpack[Options]") -> Any:
        asked = Asked(self.signature_name, method, **options)
        parts = self._parts(asked, rows.batches(asked.batch_size))
        return asked.result(rows, [part async for part in parts])

    def _parts(
        self, asked: Asked, batches: Iterable[Rows]
    ) -> AsyncGenerator[tuple[Rows, Any], None]:
        return map_in_order(
            lambda batch: self._run(self._answer(asked, batch)), batches, asked.concurrency
        )

    async def _run(self, steps: Steps[_Result]) -> _Result:
        """Sends what the steps want to be sent."""
        response = None
        while True:
            try:
                sending = steps.send(response)
            except StopIteration as end:
                return end.value
            response = await self._connection.send(*sending)
