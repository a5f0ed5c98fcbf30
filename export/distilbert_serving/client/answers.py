"""What the servers answer, read into results; an answer that cannot be right is a ValueError.

Shape legend: B rows, L tokens, C classes, D the encoder's width, M masked tokens, K answers for
each.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from distilbert_serving import signatures, tensors
from distilbert_serving.client.results import (
    Classifications,
    Embeddings,
    MaskAnswer,
    ModelMetadata,
    Predictions,
    SignatureInfo,
    TensorInfo,
    TokenizedText,
    VersionStatus,
    is_valid,
)
from distilbert_serving.protos import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    meta_graph_pb2,
    predict_pb2,
    regression_pb2,
    types_pb2,
)

SIGNATURE_DEF = "signature_def"  # the only metadata field that there is

_STRING, _FLOAT, _INT = np.dtype(object), np.dtype(np.float32), np.dtype(np.int32)


def read_predictions(response: predict_pb2.PredictResponse, size: int) -> Predictions:
    """Reads a classifier's answer for `size` rows."""
    labels = _output(response, signatures.LABEL, _STRING, size)
    probabilities = _output(response, signatures.PROBABILITIES, _FLOAT, size, rank=2)
    logits = _output(response, signatures.LOGITS, _FLOAT, size, rank=2)
    if signatures.LABEL_ID in response.outputs:
        label_ids = _output(response, signatures.LABEL_ID, _INT, size)
    else:  # an older export
        label_ids = logits.argmax(axis=1).astype(np.int32)
    return Predictions(_decode(labels), label_ids, probabilities, logits)


def read_embeddings(response: predict_pb2.PredictResponse, size: int) -> Embeddings:
    """Reads an encoder's answer."""
    return Embeddings(
        _output(response, signatures.CLS_EMBEDDING, _FLOAT, size, rank=2),
        _output(response, signatures.MEAN_EMBEDDING, _FLOAT, size, rank=2),
    )


def read_tokens(response: predict_pb2.PredictResponse, size: int) -> list[TokenizedText]:
    """Reads a tokenizer's answer, and takes the padding off."""
    ids = _output(response, signatures.INPUT_IDS, _INT, size, rank=2)
    counts = _output(response, signatures.NUM_TOKENS, _INT, size)
    tokens = _output(response, signatures.TOKENS, _STRING, size, rank=2)
    counts = counts.clip(min=0)  # a row that cannot be computed has none
    return [
        TokenizedText(row_ids[:count].tolist(), [1] * count, _decode(row_tokens[:count]))
        for row_ids, row_tokens, count in zip(ids, tokens, counts.tolist(), strict=True)
    ]


def read_mask_answers(
    response: predict_pb2.PredictResponse, size: int
) -> list[list[list[MaskAnswer]]]:
    """Reads a masked-language model's answer: of each text, each mask, the best tokens first."""
    tokens = _output(response, signatures.TOKENS, _STRING, size, rank=3)
    ids = _output(response, signatures.TOKEN_IDS, _INT, size, rank=3)
    scores = _output(response, signatures.SCORES, _FLOAT, size, rank=3)
    return [
        [
            list(map(MaskAnswer, _decode(tokens[b, m]), ids[b, m].tolist(), scores[b, m].tolist()))
            # A row with fewer masks than M ends with scores of 0.
            for m in range(scores.shape[1])
            if scores[b, m].any()
        ]
        for b in range(size)
    ]


def read_classifications(
    response: classification_pb2.ClassificationResponse | inference_pb2.InferenceResult, size: int
) -> Classifications:
    """Reads the answer of Classify, or that part of MultiInference's."""
    result = (
        response.result
        if isinstance(response, classification_pb2.ClassificationResponse)
        else response.classification_result
    )
    rows = [row.classes for row in result.classifications]
    _check_size("classifications", len(rows), size)
    counts = {len(row) for row in rows}
    if len(counts) > 1 or 0 in counts:
        raise ValueError(f"the rows' classes are not equally many, or none: {sorted(counts)}")
    scores = np.array([[item.score for item in row] for row in rows], np.float32)
    classes = [[item.label for item in row] for row in rows]
    return Classifications(classes, scores.reshape(size, max(counts, default=0)))


def read_regressions(
    response: regression_pb2.RegressionResponse | inference_pb2.InferenceResult, size: int
) -> list[float]:
    """Reads the answer of Regress, or that part of MultiInference's."""
    result = (
        response.result
        if isinstance(response, regression_pb2.RegressionResponse)
        else response.regression_result
    )
    _check_size("regressions", len(result.regressions), size)
    return [item.value for item in result.regressions]


def read_outputs(response: predict_pb2.PredictResponse) -> dict[str, np.ndarray]:
    """Reads whatever a signature returns."""
    return {name: _array(response, name) for name in response.outputs}


def no_rows(signature: SignatureInfo, outputs: Iterable[str] = ()) -> predict_pb2.PredictResponse:
    """Makes the answer to a request without rows, which no server should have to answer.

    TF Serving's batching waits with it for another request, or ends the process.

    Args:
        signature: The signature asked.
        outputs: The outputs wanted; by default all.

    Raises:
        ValueError: there is no such output.
    """
    response = predict_pb2.PredictResponse()
    for name in outputs or signature.outputs:
        if name not in signature.outputs:
            raise ValueError(f"There is no output {name!r}, but {sorted(signature.outputs)}")
        info = signature.outputs[name]
        proto = response.outputs[name]
        proto.dtype = types_pb2.DataType.Value(f"DT_{info.dtype.upper()}")
        for size in (0, *(info.shape or (0,))[1:]):
            proto.tensor_shape.dim.add(size=size or 0)
    return response


def join(parts: Sequence[Any]) -> Any:
    """Joins the answers to consecutive requests, all read by one function."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, dict):
        return {name: join([part[name] for part in parts]) for name in first}
    if isinstance(first, list):
        return [row for part in parts for row in part]
    if isinstance(first, np.ndarray):
        return np.concatenate(parts)
    columns = [field.name for field in dataclasses.fields(first)]
    return type(first)(*(join([getattr(part, name) for part in parts]) for name in columns))


def first_row(rows: Any) -> Any:
    """Takes the answer to the first row out of the answers to several."""
    if isinstance(rows, dict):
        return {name: first_row(part) for name, part in rows.items()}
    return rows[0]


def valid_rows(rows: Any) -> np.ndarray:
    """Says which rows the server could compute, bool (B,)."""
    if isinstance(rows, dict):
        return np.logical_and.reduce([valid_rows(part) for part in rows.values()])
    if isinstance(rows, list):
        return np.array(list(map(is_valid, rows)), bool)
    return rows.is_valid


def read_metadata(response: get_model_metadata_pb2.GetModelMetadataResponse) -> ModelMetadata:
    """Reads the model's signatures."""
    signature_defs = get_model_metadata_pb2.SignatureDefMap()
    if not response.metadata[SIGNATURE_DEF].Unpack(signature_defs):
        raise ValueError(f"metadata field {SIGNATURE_DEF!r} is missing")
    return ModelMetadata(
        response.model_spec.name,
        response.model_spec.version.value,
        {
            name: SignatureInfo(_tensor_infos(proto.inputs), _tensor_infos(proto.outputs))
            for name, proto in signature_defs.signature_def.items()
            # What initialises a SavedModel is listed as well, but cannot be called.
            if proto.method_name
        },
    )


def read_status(response: get_model_status_pb2.GetModelStatusResponse) -> list[VersionStatus]:
    """Reads the versions' states."""
    state_name = get_model_status_pb2.ModelVersionStatus.State.Name
    return [
        VersionStatus(version.version, state_name(version.state), version.status.error_message)
        for version in response.model_version_status
    ]


def _array(response: predict_pb2.PredictResponse, name: str) -> np.ndarray:
    if name not in response.outputs:
        raise ValueError(f"output {name!r} is missing; there are {sorted(response.outputs)}")
    try:
        return tensors.to_array(response.outputs[name])
    except ValueError as error:
        raise ValueError(f"output {name!r}: {error}") from error


def _output(
    response: predict_pb2.PredictResponse, name: str, dtype: np.dtype, size: int, rank: int = 1
) -> np.ndarray:
    """Reads an output of known type and rank that has a row for each row asked about."""
    array = _array(response, name)
    if array.dtype != dtype or array.ndim != rank:
        raise ValueError(
            f"output {name!r} is {array.dtype} of rank {array.ndim}, not {dtype} of rank {rank}"
        )
    _check_size(f"output {name!r}", len(array), size)
    return array


def _check_size(what: str, found: int, size: int) -> None:
    if found != size:
        raise ValueError(f"{what} has {found} rows, but {size} were sent")


def _decode(strings: np.ndarray) -> list[str]:
    return [string.decode("utf-8", "replace") for string in strings.tolist()]


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
