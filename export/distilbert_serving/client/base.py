"""What the clients of threads and of asyncio share: settings, model, signatures, readiness."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar

import grpc
import numpy as np

from distilbert_serving import signatures
from distilbert_serving.client import answers, requests
from distilbert_serving.client.channel import (
    FIRST_BACKOFF_S,
    KEEPALIVE_S,
    ChannelSettings,
    Headers,
    Tls,
)
from distilbert_serving.client.connection import Attempts, BaseConnection, PredictError
from distilbert_serving.client.methods import Method
from distilbert_serving.client.requests import Rows
from distilbert_serving.client.results import ModelMetadata, SignatureInfo, VersionStatus, is_valid
from distilbert_serving.protos import get_model_metadata_pb2, get_model_status_pb2, model_pb2

if TYPE_CHECKING:
    from typing_extensions import Unpack

_Result = TypeVar("_Result")
_Code = grpc.StatusCode
_MOST_NAMED_ROWS = 3  # in an error


class InvalidRowsError(ValueError):
    """The server could not compute some rows; it has answered the others.

    Args:
        message: Names the first of the rows, and what rows must keep to.
        rows: Their numbers among the rows that the caller gave, from 0.
        answers: What the method returns with `return_invalid=True`; in a stream, for this row.
    """

    def __init__(self, message: str, rows: tuple[int, ...], answers: Any) -> None:
        super().__init__(message)
        self.rows = rows
        self.answers = answers


class Sending(NamedTuple):
    """A request to send, and its clock."""

    rpc: str
    request: Any
    attempts: Attempts


# What happens between requests, the same for both clients: each request that it yields is to be
# sent, and the answer to be given to it.
Steps = Generator[Sending, Any, _Result]


class Options(TypedDict, total=False):
    """The keyword arguments of every method that takes rows.

    Args:
        signature_name: The endpoint; by default the method's, for the client's signature.
        batch_size: How many rows go into one request; 32.
        concurrency: How many requests may be on their way; 1.
        timeout_s: The deadline of each request, in seconds; by default the client's.
        return_invalid: Whether to return rows that cannot be computed, with NaN, "" and -1 (see
            `results.is_valid`), instead of raising an `InvalidRowsError`.
    """

    signature_name: str | None
    batch_size: int
    concurrency: int
    timeout_s: float | None
    return_invalid: bool


class BaseClient:
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
        self._connection = self._connect(
            ChannelSettings(
                target,
                model_name,
                timeout_s,
                max_attempts,
                max_message_bytes,
                keepalive_s,
                tls,
                headers or {},
            )
        )

    def _connect(self, settings: ChannelSettings) -> BaseConnection:
        """Makes the connection of the client's kind."""
        raise NotImplementedError

    def _spec(self, signature_name: str = "") -> model_pb2.ModelSpec:
        spec = model_pb2.ModelSpec(name=self.model_name, signature_name=signature_name)
        if self._version is not None:
            spec.version.value = self._version
        if self._version_label is not None:
            spec.version_label = self._version_label
        return spec

    def _answer(self, asked: "Asked", batch: Rows) -> Steps[tuple[Rows, Any]]:
        """Asks about one batch, within one deadline; a batch without rows is not sent.

        Returns:
            The batch and its answer.
        """
        attempts = self._connection.attempts(asked.timeout_s)
        signature = None
        if asked.method.has_inputs:
            signature = yield from self._signature(asked.signature_name, batch.columns, attempts)
        if len(batch):
            request = asked.method.make_request(self._spec(asked.signature_name), batch)
            response = yield Sending(asked.method.rpc, request, attempts)
        else:
            response = asked.method.no_rows(signature)
        return batch, self._read(asked.method.read, response, len(batch))

    def _call(
        self,
        inputs: Mapping[str, Any],
        signature_name: str | None,
        outputs: Sequence[str],
        timeout_s: float | None,
    ) -> Steps[dict[str, np.ndarray]]:
        name = signature_name or self.signature_name
        attempts = self._connection.attempts(timeout_s)
        request = requests.predict_arrays(self._spec(name), inputs, outputs)
        if inputs and not any(map(_has_rows, request.inputs.values())):
            signature = yield from self._signature(name, inputs, attempts)
            response = answers.no_rows(signature, outputs)
        else:
            response = yield Sending("Predict", request, attempts)
        return self._read(answers.read_outputs, response)

    def _ask_metadata(self, timeout_s: float | None = None) -> Steps[ModelMetadata]:
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec(), metadata_field=[answers.SIGNATURE_DEF]
        )
        attempts = self._connection.attempts(timeout_s)
        response = yield Sending("GetModelMetadata", request, attempts)
        self._metadata = self._read(answers.read_metadata, response)
        return self._metadata

    def _ask_status(self, timeout_s: float | None) -> Steps[list[VersionStatus]]:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=self._spec())
        attempts = self._connection.attempts(timeout_s)
        response = yield Sending("GetModelStatus", request, attempts)
        return self._read(answers.read_status, response)

    def _read(self, read: Callable[..., _Result], *arguments: Any) -> _Result:
        """Reads an answer; what is wrong with it is the server's fault.

        Raises:
            PredictError: INTERNAL, the answer cannot be right.
        """
        try:
            return read(*arguments)
        except ValueError as error:
            details = f"the answer cannot be read: {error}"
            raise self._connection.error(_Code.INTERNAL, details) from error

    def _signature(
        self, name: str, inputs: Mapping[str, Any], attempts: Attempts
    ) -> Steps[SignatureInfo]:
        """Finds the signature, and complains if it does not take exactly these inputs."""
        if (known := self._known_signature(name, inputs)) is None:
            # Perhaps it has been asked before, but the server has a new version by now.
            yield from self._ask_metadata(attempts.remaining_s)
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
            return self._connection.error(
                _Code.FAILED_PRECONDITION, f"there is no signature {name!r}, but {sorted(known)}"
            )
        where = f"Signature {name!r} of model {self.model_name!r} at {self.target}"
        wanted = known[name].inputs.keys()
        if wanted == {signatures.TEXT, signatures.TEXT_PAIR} and signatures.TEXT in inputs:
            return ValueError(f"{where} takes pairs of texts: give text_pairs, too")
        if wanted == {signatures.TEXT} and signatures.TEXT in inputs:
            return ValueError(f"{where} takes single texts: it takes no text_pairs")
        return ValueError(
            f"{where} takes {sorted(wanted)}, not {sorted(inputs)}; call() sends any inputs"
        )


class Asked:
    """One use of a client's method: which signature, in what parts, and what to do about bad rows.

    Args:
        client_signature: The client's signature.
        method: The way to ask.
        options: See `Options`.

    Raises:
        ValueError: a number makes no sense.
    """

    def __init__(self, client_signature: str, method: Method, **options: "Unpack[Options]") -> None:
        self.method = method
        self.signature_name = options.pop("signature_name", None) or method.signature_of(
            client_signature
        )
        self.batch_size = options.pop("batch_size", 32)
        self.concurrency = options.pop("concurrency", 1)
        self.timeout_s = options.pop("timeout_s", None)
        self.return_invalid = options.pop("return_invalid", False)
        if options:
            raise TypeError(
                f"There are no options {list(options)}, but {[*Options.__annotations__]}"
            )
        for name in ("batch_size", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def result(self, rows: Rows, parts: Sequence[tuple[Rows, Any]]) -> Any:
        """Joins the answers to all parts.

        Raises:
            InvalidRowsError: some rows could not be computed.
        """
        joined = answers.join([answer for _, answer in parts])
        result = answers.first_row(joined) if rows.is_single else joined
        if not self.return_invalid and not (valid := answers.valid_rows(joined)).all():
            raise self._error(rows, np.flatnonzero(~valid).tolist(), result)
        return result

    def each(self, batch: Rows, part: Any) -> Iterator[Any]:
        """Yields a batch's answers one by one.

        Raises:
            InvalidRowsError: the next row could not be computed.
        """
        for index, answer in enumerate(part):
            if not self.return_invalid and not is_valid(answer):
                raise self._error(batch, [index], answer)
            yield answer

    def _error(self, rows: Rows, invalid: list[int], result: Any) -> InvalidRowsError:
        named = ", ".join(map(rows.describe, invalid[:_MOST_NAMED_ROWS]))
        if (others := len(invalid) - _MOST_NAMED_ROWS) > 0:
            named += f" and {others} more"
        return InvalidRowsError(
            f"The server cannot compute {named}: {self.method.limits}",
            tuple(rows.start + index for index in invalid),
            result,
        )


def _has_rows(proto: Any) -> bool:
    """Says whether a TensorProto is a scalar, or has rows."""
    return not proto.tensor_shape.dim or proto.tensor_shape.dim[0].size > 0


class Readiness:
    """Decides, look after look, whether a server is ready, or the wait is over.

    Args:
        connection: Makes the error.
        timeout_s: How long to wait, in seconds.
        has_label: Whether a label is waited for, which servers assign after loading.
    """

    def __init__(self, connection: BaseConnection, timeout_s: float, has_label: bool) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._clock = Attempts(timeout_s)
        self._seen = "nothing"
        # A server that has just started does not know its models yet.
        self._passing = {_Code.DEADLINE_EXCEEDED, _Code.NOT_FOUND, _Code.UNAVAILABLE}
        if has_label:
            self._passing |= {_Code.INVALID_ARGUMENT, _Code.FAILED_PRECONDITION}

    @property
    def remaining_s(self) -> float:
        """The time left for a look, in seconds."""
        return max(self._clock.remaining_s, 0.001)

    def is_ready(self, states: list[VersionStatus]) -> bool:
        """Looks at the versions' states."""
        self._seen = f"its versions are {states}"
        return any(version.state == "AVAILABLE" for version in states)

    def note(self, error: PredictError) -> None:
        """Takes an error for a state, or raises it if waiting won't mend it."""
        if error.code not in self._passing:
            raise error
        self._seen = f"{error.code.name}: {error.details}"

    def pause_s(self) -> float:
        """Returns the pause before the next look, in seconds.

        Raises:
            PredictError: DEADLINE_EXCEEDED with the last state seen.
        """
        if self._clock.remaining_s <= FIRST_BACKOFF_S:
            raise self._connection.error(
                _Code.DEADLINE_EXCEEDED,
                f"not ready within {self._timeout_s:g} s; last, {self._seen}",
            )
        return FIRST_BACKOFF_S
