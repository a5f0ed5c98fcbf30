"""A client for models exported by this package, on TF Serving or on the local server.

It needs gRPC, NumPy and TF Serving's protocol buffers; it imports neither `distilbert_tf` nor
TensorFlow itself (see `export.protos`), so it starts in well under a second.

Shape legend: B texts, C classes.
"""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, overload

import grpc
import numpy as np

from export import signatures, tensors
from export.connection import FIRST_BACKOFF_S, Connection, PredictError
from export.protos import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    meta_graph_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from export.results import (
    ModelMetadata,
    Prediction,
    Predictions,
    SignatureInfo,
    TensorInfo,
    VersionStatus,
)

__all__ = ["PredictClient", "PredictError"]

_SIGNATURE_DEF = "signature_def"
_OUTPUTS = (signatures.LABEL, signatures.PROBABILITIES, signatures.LOGITS)


class PredictClient:
    """Sends texts to a server and returns predictions. Threads may share one.

        with PredictClient("127.0.0.1:8500") as client:
            client.predict("A fine film.").label
            client.predict("It rains.", "It is wet.", signature_name="mnli").label

    Args:
        target: The server's address.
        model_name: The model's name on the server.
        timeout_s: The deadline of each request, retries included, in seconds.
        version: The version to ask; by default the newest that is loaded.
        version_label: The label of the version to ask, instead of its number.
        signature_name: The endpoint that `predict` and `call` use unless told otherwise; of a
            model for several tasks, the task's name.
        max_attempts: How often a request may be sent while the server is UNAVAILABLE; None: as
            often as the deadline allows. Nothing else is retried.
        max_message_bytes: The largest request or answer, in bytes.

    Raises:
        ValueError: version and label are both given, or a number makes no sense.
    """

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
    ) -> None:
        if version is not None and version_label is not None:
            raise ValueError("Give version or version_label, not both")
        self.target = target
        self.model_name = model_name
        self.signature_name = signature_name
        self._version = version
        self._version_label = version_label
        self._metadata: ModelMetadata | None = None
        self._connection = Connection(
            target,
            model_name,
            timeout_s=timeout_s,
            max_attempts=max_attempts,
            max_message_bytes=max_message_bytes,
        )
        channel = self._connection.channel
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._model = model_service_pb2_grpc.ModelServiceStub(channel)

    # A str is a Sequence[str], too; the first signature that fits counts.
    @overload
    def predict(  # type: ignore[overload-overlap]
        self,
        texts: str,
        text_pairs: str | None = None,
        *,
        signature_name: str | None = None,
        batch_size: int = 32,
        timeout_s: float | None = None,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        *,
        signature_name: str | None = None,
        batch_size: int = 32,
        timeout_s: float | None = None,
    ) -> Predictions: ...

    def predict(
        self,
        texts: str | Sequence[str],
        text_pairs: str | Sequence[str] | None = None,
        *,
        signature_name: str | None = None,
        batch_size: int = 32,
        timeout_s: float | None = None,
    ) -> Prediction | Predictions:
        """Classifies texts or pairs of texts.

        Args:
            texts: B texts, or one.
            text_pairs: For pair tasks the second texts, as many.
            signature_name: The endpoint; by default the client's.
            batch_size: How many go into one request.
            timeout_s: The deadline of each request, in seconds; by default the client's.

        Returns:
            Predictions in the order of the texts; for one text, one `Prediction`.

        Raises:
            ValueError: pairs are missing, superfluous or not as many as the texts.
            PredictError: the server gave an error, or none answered within the deadline.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        columns = {signatures.TEXT: [texts] if isinstance(texts, str) else list(texts)}
        if text_pairs is not None:
            if isinstance(texts, str) != isinstance(text_pairs, str):
                raise ValueError("Give one text and one pair, or a list of each")
            columns[signatures.TEXT_PAIR] = (
                [text_pairs] if isinstance(text_pairs, str) else list(text_pairs)
            )
        size = len(columns[signatures.TEXT])
        if any(len(column) != size for column in columns.values()):
            raise ValueError(
                f"There are {size} texts, but {len(columns[signatures.TEXT_PAIR])} text_pairs"
            )
        signature_name = signature_name or self.signature_name
        signature = self._check_inputs(signature_name, columns, timeout_s)
        parts = [
            self.call(
                {name: column[start : start + batch_size] for name, column in columns.items()},
                signature_name=signature_name,
                outputs=_OUTPUTS,
                timeout_s=timeout_s,
            )
            for start in range(0, size, batch_size)
        ]
        result = _join(parts) if parts else _no_predictions(signature)
        return result[0] if isinstance(texts, str) else result

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

        Raises:
            ValueError: an input's type cannot be sent.
            PredictError: the server gave an error, or none answered within the deadline.
        """
        request = predict_pb2.PredictRequest(
            model_spec=self._model_spec(signature_name or self.signature_name),
            output_filter=outputs,
        )
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tensors.to_proto(value))
        response = self._connection.send(self._prediction.Predict, request, timeout_s)
        return {name: tensors.to_array(proto) for name, proto in response.outputs.items()}

    def metadata(self, timeout_s: float | None = None) -> ModelMetadata:
        """Asks for the model's signatures.

        Args:
            timeout_s: The deadline in seconds; by default the client's.

        Raises:
            PredictError: the server gave an error, or none answered within the deadline.
        """
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._model_spec(), metadata_field=[_SIGNATURE_DEF]
        )
        response = self._connection.send(self._prediction.GetModelMetadata, request, timeout_s)
        signature_defs = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[_SIGNATURE_DEF].Unpack(signature_defs)
        self._metadata = ModelMetadata(
            response.model_spec.name,
            response.model_spec.version.value,
            {
                name: SignatureInfo(_tensor_infos(proto.inputs), _tensor_infos(proto.outputs))
                for name, proto in signature_defs.signature_def.items()
                # What initialises a SavedModel is listed as well, but cannot be called.
                if proto.method_name
            },
        )
        return self._metadata

    def model_status(self, timeout_s: float | None = None) -> list[VersionStatus]:
        """Asks which versions the server has, and in which state.

        Args:
            timeout_s: The deadline in seconds; by default the client's.

        Raises:
            PredictError: the server gave an error, or none answered within the deadline.
        """
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=self._model_spec())
        response = self._connection.send(self._model.GetModelStatus, request, timeout_s)
        state_name = get_model_status_pb2.ModelVersionStatus.State.Name
        return [
            VersionStatus(version.version, state_name(version.state), version.status.error_message)
            for version in response.model_version_status
        ]

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Waits until the server is there and the model is loaded.

        Args:
            timeout_s: How long to wait, in seconds.

        Raises:
            PredictError: DEADLINE_EXCEEDED with the last state seen, or any other error that
                waiting won't mend.
        """
        end_s = time.monotonic() + timeout_s
        while True:
            remaining_s = end_s - time.monotonic()
            try:
                states = self.model_status(max(remaining_s, 0.001))
                if any(version.state == "AVAILABLE" for version in states):
                    return
                seen = f"its versions are {states}"
            except PredictError as error:
                # A server that has just started does not know its models yet.
                if error.code not in (
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    grpc.StatusCode.NOT_FOUND,
                    grpc.StatusCode.UNAVAILABLE,
                ):
                    raise
                seen = f"{error.code.name}: {error.details}"
            if time.monotonic() + FIRST_BACKOFF_S >= end_s:
                raise self._connection.error(
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    f"not ready within {timeout_s:g} s; last, {seen}",
                )
            time.sleep(FIRST_BACKOFF_S)

    def close(self) -> None:
        """Closes the connection; the client is of no use after that."""
        self._connection.close()

    def __enter__(self) -> "PredictClient":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _model_spec(self, signature_name: str = "") -> model_pb2.ModelSpec:
        spec = model_pb2.ModelSpec(name=self.model_name, signature_name=signature_name)
        if self._version is not None:
            spec.version.value = self._version
        if self._version_label is not None:
            spec.version_label = self._version_label
        return spec

    def _check_inputs(
        self, signature_name: str, columns: Mapping[str, list[str]], timeout_s: float | None
    ) -> SignatureInfo:
        """Checks that the signature takes exactly these columns, and gives the signature.

        Metadata is asked for once. If it seems to contradict the inputs it is asked for again, for
        the server may have a new version by now.
        """
        is_fresh = self._metadata is None
        metadata = self._metadata or self.metadata(timeout_s)
        signature = metadata.signatures.get(signature_name)
        if signature is not None and set(signature.inputs) == set(columns):
            return signature
        if not is_fresh:
            self._metadata = None
            return self._check_inputs(signature_name, columns, timeout_s)
        where = f"Signature {signature_name!r} of model {self.model_name!r} at {self.target}"
        if signature is None:
            raise self._connection.error(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"there is no signature {signature_name!r}, but {sorted(metadata.signatures)}",
            )
        if set(signature.inputs) == {signatures.TEXT, signatures.TEXT_PAIR}:
            raise ValueError(f"{where} classifies pairs of texts: give text_pairs, too")
        if set(signature.inputs) == {signatures.TEXT}:
            raise ValueError(f"{where} classifies single texts: it takes no text_pairs")
        raise ValueError(
            f"{where} does not take texts, but {sorted(signature.inputs)}: use call() instead"
        )


def _tensor_infos(protos: Mapping[str, meta_graph_pb2.TensorInfo]) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(
            tensors.data_type_name(proto.dtype),
            None
            if proto.tensor_shape.unknown_rank
            else tuple(None if dim.size < 0 else dim.size for dim in proto.tensor_shape.dim),
        )
        for name, proto in protos.items()
    }


def _join(parts: Sequence[Mapping[str, np.ndarray]]) -> Predictions:
    """Joins the answers to consecutive requests."""
    labels, probabilities, logits = (
        np.concatenate([part[name] for part in parts]) for name in _OUTPUTS
    )
    return Predictions(
        [label.decode("utf-8", "replace") for label in labels.tolist()], probabilities, logits
    )


def _no_predictions(signature: SignatureInfo) -> Predictions:
    """Makes the answer to no texts; the number of classes is the signature's, if it tells."""
    shape = signature.outputs.get(signatures.PROBABILITIES, TensorInfo("float", None)).shape
    classes = (shape[-1] if shape else None) or 0
    empty = np.zeros((0, classes), np.float32)
    return Predictions([], empty, empty)
