"""A client for models exported by this package, on TF Serving or on the local server.

It needs gRPC, NumPy and TF Serving's protocol buffers; it imports neither `distilbert_tf` nor
TensorFlow itself (see `export.protos`), so it starts in well under a second. For asyncio there is
`export.async_client`.

Shape legend: B texts, T tokens, C classes.
"""

import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from export.calls import answers, methods, requests
from export.calls.channel import ChannelSettings, Tls
from export.calls.client_base import Asked, BaseClient, Options, Readiness, read_answer
from export.calls.connection import Attempts, Connection, PredictError, map_in_order
from export.calls.requests import Rows
from export.results import (
    Classification,
    Classifications,
    Embedding,
    Embeddings,
    MaskAnswer,
    ModelMetadata,
    Prediction,
    Predictions,
    SignatureInfo,
    TokenizedText,
    VersionStatus,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["PredictClient", "PredictError", "Tls"]


# A str is a Sequence[str], too; of overloads the first that fits counts.
# mypy: disable-error-code="overload-overlap"
class PredictClient(BaseClient):
    """Sends texts to a server and returns answers. Threads may share one.

        with PredictClient("127.0.0.1:8500") as client:
            client.predict("A fine film.").label
            client.predict("It rains.", "It is wet.", signature_name="mnli").label
            client.encode(texts, batch_size=64, concurrency=4).mean

    Methods that take rows give one answer for one row, and answers in order for a list of any
    length; their keyword arguments are those of `client_base.Options`: `signature_name`,
    `batch_size`, `concurrency` and `timeout_s`. They raise `ValueError` for input that cannot be
    sent or that the signature does not take, and `PredictError` if the server gave an error, or
    none answered within the deadline.

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
            that gives them, asked each time.

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
        """Gives a number for each text by TF Serving's Regress. As `predict`."""
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
            What `classify` or `regress` give, by signature.
        """
        method = methods.multi_inference(classify, regress)
        return self._ask(method, requests.text_rows(texts, text_pairs), **options)

    @overload
    def encode(self, texts: str, **options: "Unpack[Options]") -> Embedding: ...

    @overload
    def encode(self, texts: Sequence[str], **options: "Unpack[Options]") -> Embeddings: ...

    def encode(self, texts: Any, **options: Any) -> Any:
        """Gives the vectors of texts.

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
        """Gives the token ids, mask and tokens that the model makes of texts, without padding."""
        return self._ask(methods.TOKENIZE, requests.text_rows(texts, text_pairs), **options)

    @overload
    def fill_mask(self, texts: str, **options: "Unpack[Options]") -> list[list[MaskAnswer]]: ...

    @overload
    def fill_mask(
        self, texts: Sequence[str], **options: "Unpack[Options]"
    ) -> list[list[list[MaskAnswer]]]: ...

    def fill_mask(self, texts: Any, **options: Any) -> Any:
        """Gives, for each [MASK] of each text, the most probable tokens, the best first."""
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
            attention_mask: 1 for each id, 0 for padding; by default nothing is padding.
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
            The answer to each row, in order: what the method gives for one text.
        """
        asked = Asked(self.signature_name, methods.text_method(method), **options)
        batches = requests.batch_stream(rows, asked.batch_size)
        for part in map_in_order(
            lambda batch: self._answer(asked, batch), batches, asked.concurrency
        ):
            yield from part

    def call(
        self,
        inputs: Mapping[str, Any],
        *,
        signature_name: str | None = None,
        outputs: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs any signature on any tensors, in one request.

        Args:
            inputs: Arrays by input name, or what `np.asarray` makes them from; strings as str or
                bytes.
            signature_name: The endpoint; by default the client's.
            outputs: The outputs wanted; by default all.
            timeout_s: The deadline in seconds; by default the client's.

        Returns:
            Arrays by output name, strings as objects of type bytes.
        """
        spec = self._spec(signature_name or self.signature_name)
        request = requests.predict_arrays(spec, inputs, outputs)
        response = self._connection.send("Predict", request, self._connection.attempts(timeout_s))
        return read_answer(self._connection, answers.read_outputs, response)

    def metadata(self, timeout_s: float | None = None) -> ModelMetadata:
        """Asks for the model's signatures, within the client's deadline unless told otherwise."""
        response = self._connection.send(
            "GetModelMetadata", self._metadata_request(), self._connection.attempts(timeout_s)
        )
        self._metadata = read_answer(self._connection, answers.read_metadata, response)
        return self._metadata

    def model_status(self, timeout_s: float | None = None) -> list[VersionStatus]:
        """Asks which versions the server has, and in which state.

        A version label does not count here: TF Serving lists all versions.
        """
        response = self._connection.send(
            "GetModelStatus", self._status_request(), self._connection.attempts(timeout_s)
        )
        return read_answer(self._connection, answers.read_status, response)

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
        parts = map_in_order(
            lambda batch: self._answer(asked, batch),
            rows.batches(asked.batch_size),
            asked.concurrency,
        )
        signature = None
        if len(rows) == 0 and method.has_inputs:
            signature = self._signature(asked, rows, self._connection.attempts(asked.timeout_s))
        return asked.result(rows, list(parts), signature)

    def _answer(self, asked: Asked, batch: Rows) -> Any:
        """Asks about one batch, within one deadline."""
        attempts = self._connection.attempts(asked.timeout_s)
        if asked.method.has_inputs:
            self._signature(asked, batch, attempts)
        request = asked.method.make_request(self._spec(asked.signature_name), batch)
        response = self._connection.send(asked.method.rpc, request, attempts)
        return read_answer(self._connection, asked.method.read, response, len(batch))

    def _signature(self, asked: Asked, rows: Rows, attempts: Attempts) -> SignatureInfo:
        """Gives the signature if it takes these rows, and complains otherwise."""
        name, columns = asked.signature_name, rows.columns
        if (known := self._known_signature(name, columns)) is None:
            self.metadata(attempts.remaining_s)
            if (known := self._known_signature(name, columns)) is None:
                raise self._wrong_signature(name, columns)
        return known
