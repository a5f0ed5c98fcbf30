"""What the clients of threads and of asyncio share: settings, model, signatures, readiness."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import grpc

from export import signatures
from export.calls import answers
from export.calls.channel import FIRST_BACKOFF_S, KEEPALIVE_S, ChannelSettings, Headers, Tls
from export.calls.connection import Attempts, BaseConnection, PredictError
from export.calls.methods import Method
from export.calls.requests import Rows
from export.protos import get_model_metadata_pb2, get_model_status_pb2, model_pb2
from export.results import ModelMetadata, SignatureInfo, VersionStatus

if TYPE_CHECKING:
    from typing_extensions import Unpack

_Result = TypeVar("_Result")
_Code = grpc.StatusCode


class Options(TypedDict, total=False):
    """The keyword arguments of every method that takes rows.

    Args:
        signature_name: The endpoint; by default the method's, for the client's signature.
        batch_size: How many rows go into one request; 32.
        concurrency: How many requests may be on their way; 1.
        timeout_s: The deadline of each request, in seconds; by default the client's.
    """

    signature_name: str | None
    batch_size: int
    concurrency: int
    timeout_s: float | None


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

    def _metadata_request(self) -> get_model_metadata_pb2.GetModelMetadataRequest:
        return get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec(), metadata_field=[answers.SIGNATURE_DEF]
        )

    def _status_request(self) -> get_model_status_pb2.GetModelStatusRequest:
        return get_model_status_pb2.GetModelStatusRequest(model_spec=self._spec())

    def _known_signature(self, name: str, inputs: Mapping[str, Any]) -> SignatureInfo | None:
        """Gives a signature that takes exactly these inputs, if metadata lists it.

        None means to ask for metadata, even again: the server may have a new version by now.
        """
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
        kind = "texts" if signatures.TEXT in inputs else "token ids"
        return ValueError(f"{where} does not take {kind}, but {sorted(wanted)}: use call() instead")


class Asked:
    """One use of a client's method: which signature, in what parts.

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
        if options:
            raise TypeError(
                f"There are no options {list(options)}, but {[*Options.__annotations__]}"
            )
        for name in ("batch_size", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def result(self, rows: Rows, parts: list[Any], signature: SignatureInfo | None = None) -> Any:
        """Joins the answers to the parts."""
        if not parts:
            return self.method.nothing(signature)
        joined = parts[0] if len(parts) == 1 else self.method.join(parts)
        return self.method.first(joined) if rows.is_single else joined


def read_answer(
    connection: BaseConnection, read: Callable[..., _Result], *arguments: Any
) -> _Result:
    """Reads an answer; what is wrong with it is the server's fault.

    Raises:
        PredictError: INTERNAL, the answer cannot be right.
    """
    try:
        return read(*arguments)
    except ValueError as error:
        raise connection.error(_Code.INTERNAL, f"the answer cannot be read: {error}") from error


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
        """Gives the pause before the next look, in seconds.

        Raises:
            PredictError: DEADLINE_EXCEEDED with the last state seen.
        """
        if self._clock.remaining_s <= FIRST_BACKOFF_S:
            raise self._connection.error(
                _Code.DEADLINE_EXCEEDED,
                f"not ready within {self._timeout_s:g} s; last, {self._seen}",
            )
        return FIRST_BACKOFF_S
