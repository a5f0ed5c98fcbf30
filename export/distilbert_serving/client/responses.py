"""Reads servers' responses into results; one that cannot be right is a ValueError."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from distilbert_serving import signatures, tensors
from distilbert_serving.client.results import (
    Classifications,
    Embeddings,
    MaskAnswer,
    ModelMetadata,
    Predictions,
    TokenizedText,
    is_valid,
)
from distilbert_serving.protos import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
    types_pb2,
)
from distilbert_serving.signatures import OUTPUTS, SignatureInfo, TensorInfo

SIGNATURE_DEF = "signature_def"  # the only metadata field that there is


def read_predictions(response: predict_pb2.PredictResponse, size: int) -> Predictions:
    """Reads a classifier's answer for `size` rows."""
    is_older_export = signatures.LABEL_ID not in response.outputs
    outputs = _read(
        response, signatures.CLASSIFY_TEXT, size, {signatures.LABEL_ID} if is_older_export else ()
    )
    logits = outputs[signatures.LOGITS]
    if is_older_export:
        outputs[signatures.LABEL_ID] = logits.argmax(axis=1).astype(np.int32)
    return Predictions(
        _decode(outputs[signatures.LABEL]),
        outputs[signatures.LABEL_ID],
        outputs[signatures.PROBABILITIES],
        logits,
    )


def read_embeddings(response: predict_pb2.PredictResponse, size: int) -> Embeddings:
    """Reads an encoder's answer."""
    outputs = _read(response, signatures.ENCODE, size)
    return Embeddings(outputs[signatures.CLS_EMBEDDING], outputs[signatures.MEAN_EMBEDDING])


def read_tokens(response: predict_pb2.PredictResponse, size: int) -> list[TokenizedText]:
    """Reads a tokenizer's answer, and takes the padding off."""
    outputs = _read(response, signatures.TOKENIZE, size)
    ids, tokens = outputs[signatures.INPUT_IDS], outputs[signatures.TOKENS]
    counts = outputs[signatures.NUM_TOKENS].clip(min=0)  # a row that cannot be computed has none
    return [
        TokenizedText(row_ids[:count].tolist(), [1] * count, _decode(row_tokens[:count]))
        for row_ids, row_tokens, count in zip(ids, tokens, counts.tolist(), strict=True)
    ]


def read_mask_answers(
    response: predict_pb2.PredictResponse, size: int
) -> list[list[list[MaskAnswer]]]:
    """Reads a masked-language model's answer: of each text, each mask, the best tokens first."""
    outputs = _read(response, signatures.FILL_MASK, size)
    names = (signatures.TOKENS, signatures.TOKEN_IDS, signatures.SCORES)
    return [
        [
            list(map(MaskAnswer, _decode(tokens), ids.tolist(), scores.tolist()))
            for tokens, ids, scores in zip(*row, strict=True)
            if scores.any()  # a row with fewer masks ends with scores of 0
        ]
        for row in zip(*(outputs[name] for name in names), strict=True)
    ]


def read_classifications(
    response: classification_pb2.ClassificationResponse | inference_pb2.InferenceResult, size: int
) -> Classifications:
    """Reads the answer of Classify, or that part of MultiInference's."""
    result = getattr(response, "result", None) or response.classification_result
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
    result = getattr(response, "result", None) or response.regression_result
    _check_size("regressions", len(result.regressions), size)
    return [item.value for item in result.regressions]


def read_outputs(response: predict_pb2.PredictResponse) -> dict[str, np.ndarray]:
    """Reads whatever a signature returns."""
    return {name: _array(response, name) for name in response.outputs}


def no_rows(signature: SignatureInfo, outputs: Iterable[str] = ()) -> predict_pb2.PredictResponse:
    """Makes the answer to a request without rows, which no server should have to answer.

    TF Serving's batching waits with it for another request, or ends the process.
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
            name: tensors.read_signature(proto)
            for name, proto in signature_defs.signature_def.items()
            # What initialises a SavedModel is listed as well, but cannot be called.
            if proto.method_name
        },
    )


def _read(
    response: predict_pb2.PredictResponse, endpoint: str, size: int, missing: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Reads an endpoint's outputs, which must be those of the contract, with a row for each row."""
    outputs = {}
    for name, contract in OUTPUTS[endpoint].items():
        if name in missing:
            continue
        array = _array(response, name)
        info = TensorInfo(tensors.data_type_name(response.outputs[name].dtype), array.shape)
        if not info.fits(contract):
            raise ValueError(
                f"output {name!r} is {info.dtype} of rank {array.ndim}, not {contract.dtype} of "
                f"rank {len(contract.shape or ())}"
            )
        _check_size(f"output {name!r}", len(array), size)
        outputs[name] = array
    return outputs


def _array(response: predict_pb2.PredictResponse, name: str) -> np.ndarray:
    if name not in response.outputs:
        raise ValueError(f"output {name!r} is missing; there are {sorted(response.outputs)}")
    try:
        return tensors.to_array(response.outputs[name])
    except ValueError as error:
        raise ValueError(f"output {name!r}: {error}") from error


def _check_size(what: str, found: int, size: int) -> None:
    if found != size:
        raise ValueError(f"{what} has {found} rows, but {size} were sent")


def _decode(strings: np.ndarray) -> list[str]:
    return [string.decode("utf-8", "replace") for string in strings.tolist()]
