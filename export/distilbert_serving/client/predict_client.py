"""A client for models exported by this package, on TF Serving or on the local server.

It needs gRPC, NumPy and TF Serving's protocol buffers; it imports neither `distilbert_tf` nor
TensorFlow itself (see `distilbert_serving.protos`), so it starts in well under a second. For
asyncio there is `async_predict_client`.

Shape legend: B texts, T tokens, C classes.
"""

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from distilbert_serving.client import methods, requests
from distilbert_serving.client.base import (
    Asked,
    BaseClient,
    InvalidRowsError,
    Options,
    Readiness,
    Steps,
)
from distilbert_serving.client.channel import ChannelSettings, Tls
from distilbert_serving.client.connection import Connection, PredictError, map_in_order
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

__all__ = ["InvalidRowsError", "PredictClient", "PredictError", "Tls"]

_Result = TypeVar("_Result")


# A str is a Sequence[str], too; of overloads the first that fits counts.
# mypy: disable-error-code="overload-overlap"
class PredictClient(BaseClient):
    """Sends texts to a server and returns answers. Threads may share one.

        with PredictClient("127.0.0.1:8500") as client:
            client.predict("A fine film.").label
            client.predict("It rains.", "It is wet.", signature_name="mnli").label
            client.encode(texts, batch_size=64, concurrency=4).mean

    Methods that take rows give one answer for one row, and answers in order for a list of any
    length; their keyword arguments are those of `client.base.Options`: `signature_name`,
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
        OSError: a TLS file cannot be read.
        ValueError: version and label are both given, or a setting makes no sense.
    """

    _connection: Connection

    def _connect(self, settings: ChannelSettings) -> Connection:
        return Connection(settings)

    @overload
    def predict(
        self, texts: str, text_pairs: str | None = None, **options: "Unpack[Options]"
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        **options: "Unpack[Options]",
    ) -> Predictions: ...

    def predict(self, texts: Any, text_pairs: Any = None, **options: Any) -> Any:
        """Classifies texts or pairs of texts.

        Args:
            texts: B texts, or one.
            text_pairs: For pair tasks the second texts, as many.
            **options: See the class.
        """
        return self._ask(methods.PREDICT, requests.text_rows(texts, text_pairs), **options)

    @overload
    def classify(
        self, texts: str, text_pairs: str | None = None, **options: "Unpack[Options]"
    ) -> Classification: ...

    @overload
    def classify(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        **options: "Unpack[Options]",
    ) -> Classifications: ...

    def classify(self, texts: Any, text_pairs: Any = None, **options: Any) -> Any:
        """Classifies by TF Serving's Classify: every class with its score. As `predict`."""
        return self._ask(methods.CLASSIFY, requests.text_rows(texts, text_pairs), **options)

    @overload
    def regress(
        self, texts: str, text_pairs: str | None = None, **options: "Unpack[Options]"
    ) -> float: ...

    @overload
    def regress(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        **options: "Unpack[Options]",
    ) -> list[float]: ...

    def regress(self, texts: Any, text_pairs: Any = None, **options: Any) -> Any:
        """Returns a number for each text by TF Serving's Regress. As `predict`."""
        return self._ask(methods.REGRESS, requests.text_rows(texts, text_pairs), **options)

    def multi_inference(
        self,
        texts: str | Sequence[str],
        text_pairs: str | Sequence[str] | None = None,
        *,
        classify: Sequence[str] = (),
        regress: Sequence[str] = (),
        **options: "Unpack[Options]",
    ) -> dict[str, Any]:
        """Asks several signatures in one request, by TF Serving's MultiInference.

        Args:
            texts: B texts, or one.
            text_pairs: For pair tasks the second texts, as many.
            classify: Signatures that classify.
            regress: Signatures that regress.
            **options: See the class; without signature_name.

        Returns:
            What `classify` or `regress` return, by signature.
        """
        method = methods.multi_inference(classify, regress)
        return self._ask(method, requests.text_rows(texts, text_pairs), **options)

    @overload
    def encode(self, texts: str, **options: "Unpack[Options]") -> Embedding: ...

    @overload
    def encode(self, texts: Sequence[str], **options: "Unpack[Options]") -> Embeddings: ...

    def encode(self, texts: Any, **options: Any) -> Any:
        """Returns the vectors of texts.

        Args:
            texts: B texts, or one.
            **options: See the class.
        """
        return self._ask(methods.ENCODE, requests.text_rows(texts), **options)

    @overload
    def tokenize(
        self, texts: str, text_pairs: str | None = None, **options: "Unpack[Options]"
    ) -> TokenizedText: ...

    @overload
    def tokenize(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        **options: "Unpack[Options]",
    ) -> list[TokenizedText]: ...

    def tokenize(self, texts: Any, text_pairs: Any = None, **options: Any) -> Any:
        """Returns the token ids and tokens that the model makes of texts, without padding."""
        return self._ask(methods.TOKENIZE, requests.text_rows(texts, text_pairs), **options)

    @overload
    def fill_mask(self, texts: str, **options: "Unpack[Options]") -> list[list[MaskAnswer]]: ...

    @overload
    def fill_mask(
        self, texts: Sequence[str], **options: "Unpack[Options]"
    ) -> list[list[list[MaskAnswer]]]: ...

    def fill_mask(self, texts: Any, **options: Any) -> Any:
        """Returns, for each [MASK] of each text, the most probable tokens, the best first."""
        return self._ask(methods.FILL_MASK, requests.text_rows(texts), **options)

    def from_ids(
        self,
        input_ids: requests.Ids,
        attention_mask: requests.Ids | None = None,
        **options: "Unpack[Options]",
    ) -> Any:
        """Classifies what the caller has tokenized.

        Args:
            input_ids: Token ids of B rows of any lengths, or of one.
            attention_mask: For each row ones, and zeros where the ids are padding; by default
                nothing is padding.
            **options: See the class.

        Returns:
            `Predictions`; for one row a `Prediction`.
        """
        return self._ask(methods.FROM_IDS, requests.id_rows(input_ids, attention_mask), **options)

    def stream(
        self,
        rows: Iterable[str | tuple[str, str]],
        method: str = "predict",
        **options: "Unpack[Options]",
    ) -> Generator[Any, None, None]:
        """Asks about any number of rows in bounded memory.

        Args:
            rows: Texts, or pairs of texts; read as far ahead as `concurrency` needs.
            method: "predict", "classify", "regress", "encode", "tokenize" or "fill_mask".
            **options: See the class.

        Yields:
            The answer to each row, in order: what the method returns for one text. An
            `InvalidRowsError` names the row's number in the stream; all before it are answered.
        """
        asked = Asked(self.signature_name, methods.text_method(method), **options)
        for batch, part in self._parts(asked, requests.batch_stream(rows, asked.batch_size)):
            yield from asked.each(batch, part)

    def call(
        self,
        inputs: Mapping[str, Any],
        *,
        signature_name: str | None = None,
        outputs: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs any signature on any tensors, in one request, and returns what the server says.

        Nothing looks for rows that could not be computed: they hold NaN, "" and -1.

        Args:
            inputs: Arrays by input name, or what `np.asarray` makes them from; strings as str or
                bytes. Without rows they are not sent.
            signature_name: The endpoint; by default the client's.
            outputs: The outputs wanted; by default all. TF Serving makes a graph of its own for
                each new choice, and the first request waits for it, about 2 s: let the export's
                warm-up ask for it, or take all outputs.
            timeout_s: The deadline in seconds; by default the client's.

        Returns:
            Arrays by output name, strings as objects of type bytes.
        """
        return self._run(self._call(inputs, signature_name, outputs, timeout_s))

    def metadata(self, timeout_s: float | None = None) -> ModelMetadata:
        """Asks for the model's signatures, within the client's deadline unless told otherwise."""
        return self._run(self._ask_metadata(timeout_s))

    def model_status(self, timeout_s: float | None = None) -> list[VersionStatus]:
        """Asks which versions the server has, and in which state.

        A version label does not count here: TF Serving lists all versions.
        """
        return self._run(self._ask_status(timeout_s))

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Waits until the server is there, and the version that the client asks is loaded.

        Args:
            timeout_s: How long to wait, in seconds.

        Raises:
            PredictError: DEADLINE_EXCEEDED with the last state seen, or any other error that
                waiting won't mend.
        """
        has_label = self._version_label is not None
        readiness = Readiness(self._connection, timeout_s, has_label)
        while True:
            try:
                if readiness.is_ready(self.model_status(readiness.remaining_s)):
                    if has_label:
                        self.metadata(readiness.remaining_s)
                    return
            except PredictError as error:
                readiness.note(error)
            time.sleep(readiness.pause_s())

    def close(self) -> None:
        """Closes the connection; the client is of no use after that."""
        self._connection.close()

    def __enter__(self) -> "PredictClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, method: methods.Method, rows: Rows, **options: "Unpack[Options]") -> Any:
        asked = Asked(self.signature_name, method, **options)
        return asked.result(rows, list(self._parts(asked, rows.batches(asked.batch_size))))

    def _parts(self, asked: Asked, batches: Iterable[Rows]) -> Iterator[tuple[Rows, Any]]:
        return map_in_order(
            lambda batch: self._run(self._answer(asked, batch)), batches, asked.concurrency
        )

    def _run(self, steps: Steps[_Result]) -> _Result:
        """Sends what the steps want to be sent."""
        response = None
        while True:
            try:
                sending = steps.send(response)
            except StopIteration as end:
                return end.value
            response = self._connection.send(*sending)
