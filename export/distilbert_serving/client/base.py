"""The one implementation of the clients: what they ask, when they retry, and what they return.

The clients for threads and for asyncio differ in how they send and wait. So whatever takes several
steps is a generator here: it yields the calls to make and the pauses to take, and each client runs
it in its own way.
"""

import abc
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, overload

import grpc
import numpy as np

from distilbert_serving import signatures
from distilbert_serving.client import endpoints, requests, responses
from distilbert_serving.client.channel import (
    FIRST_BACKOFF_S,
    KEEPALIVE_S,
    ChannelSettings,
    Headers,
    RetryClock,
    Tls,
    bind_rpcs,
)
from distilbert_serving.client.endpoints import Endpoint
from distilbert_serving.client.errors import PredictError, explain
from distilbert_serving.client.queries import Options, Query
from distilbert_serving.client.requests import Rows
from distilbert_serving.client.results import ModelMetadata
from distilbert_serving.protos import get_model_metadata_pb2, get_model_status_pb2, model_pb2
from distilbert_serving.signatures import SignatureInfo
from distilbert_serving.version_status import AVAILABLE, VersionStatus, read_statuses

if TYPE_CHECKING:
    from typing_extensions import Unpack

_Result = TypeVar("_Result")
_One = TypeVar("_One", covariant=True)
_Many = TypeVar("_Many", covariant=True)
_Code = grpc.StatusCode


class Call(NamedTuple):
    """A step: make a call, and send its response to the generator, or throw gRPC's error."""

    rpc: str
    request: Any
    timeout_s: float


class Pause(NamedTuple):
    """A step: wait."""

    seconds: float


Steps = Generator[Call | Pause, Any, _Result]


# A str is a Sequence[str], too; of overloads the first that fits counts.
# mypy: disable-error-code="overload-overlap"
class TextMethod(Protocol[_One, _Many]):
    """The type of a method that takes texts: one answer for one text."""

    @overload
    def __call__(self, texts: str, **options: "Unpack[Options]") -> _One: ...

    @overload
    def __call__(self, texts: Sequence[str], **options: "Unpack[Options]") -> _Many: ...


class PairMethod(Protocol[_One, _Many]):
    """The type of a method that takes texts or pairs of texts."""

    @overload
    def __call__(
        self, texts: str, text_pairs: str | None = None, **options: "Unpack[Options]"
    ) -> _One: ...

    @overload
    def __call__(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        **options: "Unpack[Options]",
    ) -> _Many: ...


class BaseClient(abc.ABC):
    """What the clients share. See `PredictClient` for the arguments."""

    def __init__(
        self,
        target: str = "127.0.0.1:8500",
        model_name: str = "distilbert",
        *,
        timeout_s: float = 10.0,
        version: int | None = None,
        version_label: str | None = None,
        signature_name: str = signatures.SERVING_DEFAULT,
        max_attempts: int | None = None,
        max_message_bytes: int = 2**31 - 1,
        keepalive_s: float = KEEPALIVE_S,
        tls: Tls | None = None,
        headers: Headers | Callable[[], Headers] | None = None,
    ) -> None:
        if version is not None and version_label is not None:
            raise ValueError("Give version or version_label, not both")
        self.target = target
        self.model_name = model_name
        self.signature_name = signature_name
        self._version = version
        self._version_label = version_label
        self._metadata: ModelMetadata | None = None
        self._settings = ChannelSettings(
            target, timeout_s, max_attempts, max_message_bytes, keepalive_s, tls, headers or {}
        )
        self._credentials = None if tls is None else tls.credentials()
        self._is_closed = False
        self._channel: Any = None
        self._rpcs: Mapping[str, Callable[..., Any]] = {}
        self._connect()

    def predict(self, texts: Any, text_pairs: Any = None, **options: "Unpack[Options]") -> Any:
        """Classifies texts or pairs of texts.

        Args:
            texts: B texts, or one.
            text_pairs: For pair tasks the second texts, as many.
            **options: See the class.

        Returns:
            `Predictions`; for one text a `Prediction`.
        """
        return self._ask_texts(endpoints.PREDICT, texts, text_pairs, options)

    def classify(self, texts: Any, text_pairs: Any = None, **options: "Unpack[Options]") -> Any:
        """Classifies by TF Serving's Classify: every class with its score. As `predict`."""
        return self._ask_texts(endpoints.CLASSIFY, texts, text_pairs, options)

    def regress(self, texts: Any, text_pairs: Any = None, **options: "Unpack[Options]") -> Any:
        """Returns a number for each text by TF Serving's Regress. As `predict`."""
        return self._ask_texts(endpoints.REGRESS, texts, text_pairs, options)

    def encode(self, texts: Any, **options: "Unpack[Options]") -> Any:
        """Returns the vectors of texts.

        Args:
            texts: B texts, or one.
            **options: See the class.
        """
        return self._ask_texts(endpoints.ENCODE, texts, None, options)

    def tokenize(self, texts: Any, text_pairs: Any = None, **options: "Unpack[Options]") -> Any:
        """Returns the token ids and tokens that the model makes of texts, without padding."""
        return self._ask_texts(endpoints.TOKENIZE, texts, text_pairs, options)

    def fill_mask(self, texts: Any, **options: "Unpack[Options]") -> Any:
        """Returns, for each [MASK] of each text, the most probable tokens, the best first."""
        return self._ask_texts(endpoints.FILL_MASK, texts, None, options)

    def multi_inference(
        self,
        texts: str | Sequence[str],
        text_pairs: str | Sequence[str] | None = None,
        *,
        classify: Sequence[str] = (),
        regress: Sequence[str] = (),
        **options: "Unpack[Options]",
    ) -> Any:
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
        return self._ask(
            lambda: Query(
                self.signature_name,
                endpoints.multi_inference(classify, regress),
                requests.text_rows(texts, text_pairs),
                **options,
            )
        )

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
        return self._ask(
            lambda: Query(
                self.signature_name,
                endpoints.FROM_IDS,
                requests.id_rows(input_ids, attention_mask),
                **options,
            )
        )

    def stream(
        self,
        rows: Iterable[str | tuple[str, str]],
        method: str = "predict",
        **options: "Unpack[Options]",
    ) -> Any:
        """Asks about any number of rows in bounded memory.

        Args:
            rows: Texts, or pairs of texts; read as far ahead as `concurrency` needs.
            method: "predict", "classify", "regress", "encode", "tokenize" or "fill_mask".
            **options: See the class.

        Yields:
            The answer to each row, in order: what the method returns for one text. An
            `InvalidRowsError` names the row's number in the stream; all before it are answered.
        """
        return self._stream(
            lambda: Query(self.signature_name, endpoints.text_endpoint(method), rows, **options)
        )

    def call(
        self,
        inputs: Mapping[str, Any],
        *,
        signature_name: str | None = None,
        outputs: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Any:
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
        return self._run(
            self._call(inputs, signature_name or self.signature_name, outputs, timeout_s)
        )

    def metadata(self, timeout_s: float | None = None) -> Any:
        """Returns the model's signatures, a `ModelMetadata`.

        Args:
            timeout_s: The deadline in seconds; by default the client's.
        """
        return self._run(self._ask_metadata(timeout_s))

    def model_status(self, timeout_s: float | None = None) -> Any:
        """Returns which versions the server has, and in which state: a list of `VersionStatus`.

        A version label does not count here: TF Serving lists all versions.

        Args:
            timeout_s: The deadline in seconds; by default the client's.
        """
        return self._run(self._ask_status(timeout_s))

    def wait_until_ready(self, timeout_s: float = 60.0) -> Any:
        """Waits until the server is there, and the version that the client asks is loaded.

        Args:
            timeout_s: How long to wait, in seconds.

        Raises:
            PredictError: DEADLINE_EXCEEDED with the last state seen, or any other error that
                waiting does not cure.
        """
        return self._run(self._wait_until_ready(timeout_s))

    @abc.abstractmethod
    def _connect(self) -> None:
        """Opens the channel, if that is possible yet."""

    def _open_channel(self, api: Any) -> None:
        self._channel = self._settings.open(api, self._credentials)
        self._rpcs = bind_rpcs(self._channel)

    @abc.abstractmethod
    def _ask(self, make_query: Callable[[], Query]) -> Any:
        """Answers a query, batch by batch."""

    @abc.abstractmethod
    def _stream(self, make_query: Callable[[], Query]) -> Any:
        """Yields the answer to each row of a query."""

    @abc.abstractmethod
    def _run(self, steps: Steps[Any]) -> Any:
        """Takes the steps, and returns their result."""

    def _ask_texts(self, endpoint: Endpoint, texts: Any, text_pairs: Any, options: Options) -> Any:
        return self._ask(
            lambda: Query(
                self.signature_name, endpoint, requests.text_rows(texts, text_pairs), **options
            )
        )

    def _answer(self, query: Query, batch: Rows) -> Steps[tuple[Rows, Any]]:
        """Asks about one batch, within one deadline; returns the batch and its answer."""
        clock, endpoint = self._start_clock(query.timeout_s), query.endpoint
        signature = None
        if endpoint.rpc == "Predict":
            signature = yield from self._signature(query.signature_name, batch.columns, clock)
        if len(batch):
            request = endpoint.make_request(self._spec(query.signature_name), batch)
            response = yield from self._send(endpoint.rpc, request, clock)
        else:  # TF Serving's batching does not survive a request without rows
            response = responses.no_rows(signature) if signature else endpoint.empty
        return batch, self._read(endpoint.read, response, len(batch))

    def _call(
        self,
        inputs: Mapping[str, Any],
        signature_name: str,
        outputs: Sequence[str],
        timeout_s: float | None,
    ) -> Steps[dict[str, np.ndarray]]:
        clock = self._start_clock(timeout_s)
        request = requests.predict_arrays(self._spec(signature_name), inputs, outputs)
        if inputs and not any(map(_has_rows, request.inputs.values())):
            signature = yield from self._signature(signature_name, inputs, clock)
            response = responses.no_rows(signature, outputs)
        else:
            response = yield from self._send("Predict", request, clock)
        return self._read(responses.read_outputs, response)

    def _ask_metadata(self, timeout_s: float | None = None) -> Steps[ModelMetadata]:
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec(), metadata_field=[responses.SIGNATURE_DEF]
        )
        clock = self._start_clock(timeout_s)
        response = yield from self._send("GetModelMetadata", request, clock)
        self._metadata = self._read(responses.read_metadata, response)
        return self._metadata

    def _ask_status(self, timeout_s: float | None) -> Steps[list[VersionStatus]]:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=self._spec())
        clock = self._start_clock(timeout_s)
        return read_statuses((yield from self._send("GetModelStatus", request, clock)))

    def _wait_until_ready(self, timeout_s: float) -> Steps[None]:
        # A server that has just started does not know its models yet.
        passing = {_Code.DEADLINE_EXCEEDED, _Code.NOT_FOUND, _Code.UNAVAILABLE}
        has_label = self._version_label is not None
        if has_label:  # servers assign labels after loading
            passing |= {_Code.INVALID_ARGUMENT, _Code.FAILED_PRECONDITION}
        clock = RetryClock(timeout_s)
        while True:
            try:
                statuses = yield from self._ask_status(max(clock.remaining_s, 0.001))
                seen = f"its versions are {statuses}"
                if any(status.state == AVAILABLE for status in statuses):
                    if has_label:
                        yield from self._ask_metadata(max(clock.remaining_s, 0.001))
                    return
            except PredictError as error:
                if error.code not in passing:
                    raise
                seen = f"{error.code.name}: {error.details}"
            if clock.remaining_s <= FIRST_BACKOFF_S:
                details = f"not ready within {timeout_s:g} s; last, {seen}"
                raise self._error(_Code.DEADLINE_EXCEEDED, details)
            yield Pause(FIRST_BACKOFF_S)

    def _send(self, rpc: str, request: Any, clock: RetryClock) -> Steps[Any]:
        """Sends a request, again while the server is UNAVAILABLE and there is time."""
        while True:
            if self._is_closed:
                raise ValueError("This client is closed")
            try:
                return (yield Call(rpc, request, clock.remaining_s))
            except grpc.RpcError as error:
                pause_s = clock.pause_s(error.code())
                if pause_s is None:
                    code, details = explain(error, self._settings.max_message_bytes)
                    raise self._error(code, details) from error
            yield Pause(pause_s)

    def _start_clock(self, timeout_s: float | None) -> RetryClock:
        settings = self._settings
        return RetryClock(
            settings.timeout_s if timeout_s is None else timeout_s, settings.max_attempts
        )

    def _error(self, code: grpc.StatusCode, details: str) -> PredictError:
        return PredictError(code, details, self.target, self.model_name)

    def _spec(self, signature_name: str = "") -> model_pb2.ModelSpec:
        spec = model_pb2.ModelSpec(name=self.model_name, signature_name=signature_name)
        if self._version is not None:
            spec.version.value = self._version
        if self._version_label is not None:
            spec.version_label = self._version_label
        return spec

    def _read(self, read: Callable[..., _Result], *arguments: Any) -> _Result:
        """Reads a response; what is wrong with it is the server's fault: INTERNAL."""
        try:
            return read(*arguments)
        except ValueError as error:
            raise self._error(_Code.INTERNAL, f"the answer cannot be read: {error}") from error

    def _signature(
        self, name: str, inputs: Mapping[str, Any], clock: RetryClock
    ) -> Steps[SignatureInfo]:
        """Finds the signature, and complains if it does not take exactly these inputs."""
        if (known := self._known_signature(name, inputs)) is None:
            # Perhaps it has been asked before, but the server has a new version by now.
            yield from self._ask_metadata(clock.remaining_s)
            if (known := self._known_signature(name, inputs)) is None:
                raise self._wrong_signature(name, inputs)
        return known

    def _known_signature(self, name: str, inputs: Mapping[str, Any]) -> SignatureInfo | None:
        signature = self._metadata and self._metadata.signatures.get(name)
        return signature if signature and signature.inputs.keys() == inputs.keys() else None

    def _wrong_signature(self, name: str, inputs: Mapping[str, Any]) -> Exception:
        """Says why fresh metadata does not fit the inputs."""
        assert self._metadata is not None
        known = self._metadata.signatures
        if name not in known:
            return self._error(
                _Code.FAILED_PRECONDITION, f"there is no signature {name!r}, but {sorted(known)}"
            )
        where = f"Signature {name!r} of model {self.model_name!r} at {self.target}"
        wanted = known[name].inputs
        if signatures.TEXT in inputs:
            kind = signatures.kind_of_inputs(wanted)
            if kind == "pairs":
                return ValueError(f"{where} takes pairs of texts: give text_pairs, too")
            if kind == "texts":
                return ValueError(f"{where} takes single texts: it takes no text_pairs")
        return ValueError(
            f"{where} takes {sorted(wanted)}, not {sorted(inputs)}; call() sends any inputs"
        )


def _has_rows(proto: Any) -> bool:
    """Says whether a TensorProto is a scalar, or has rows."""
    return not proto.tensor_shape.dim or proto.tensor_shape.dim[0].size > 0
