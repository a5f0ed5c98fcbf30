"""TF Serving's JSON answers, written from protocol buffers.

Numbers are written with as few digits as give the same number again, floats always with a point
or an exponent. JSON has no NaN and infinities: like TF Serving, and most parsers, this writes
`NaN`, `Infinity` and `-Infinity`. Bytes that are not UTF-8 get replacement characters, except in
outputs whose name ends in `_bytes`, which are written in base64.

Reference: tensorflow_serving/g3doc/api_rest.md, tensorflow_serving/util/json_tensor.cc and
tensorflow_serving/model_servers/http_rest_api_util.cc.
"""

import base64
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from google.protobuf import json_format, message

from distilbert_serving import tensors
from distilbert_serving.protos import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    regression_pb2,
    tensor_pb2,
)
from distilbert_serving.server import status

_BYTES_SUFFIX = "_bytes"
_DIGITS = {np.dtype(np.float32): 9, np.dtype(np.float64): 17}  # enough for every number


def write_outputs(outputs: Mapping[str, tensor_pb2.TensorProto], is_rows: bool) -> str:
    """Writes the answer of Predict.

    Args:
        outputs: The outputs by name; a single one is written without its name.
        is_rows: Write `predictions`, a list with an element for each row, rather than `outputs`,
            the tensors as they are.

    Raises:
        RequestError: INVALID_ARGUMENT; there are no outputs, or they cannot be written as rows.
    """
    if not outputs:
        raise status.invalid("Cannot convert empty tensor map to JSON")
    names = sorted(outputs)
    if not is_rows:
        values = {
            name: _nest(_tokens(name, outputs[name]), _shape(outputs[name])) for name in names
        }
        if len(names) == 1:
            return _object({"outputs": values[names[0]]})
        return _object({"outputs": _object(values)})
    _check_rows(outputs)
    columns = [_rows(name, outputs[name]) for name in names]
    if len(names) == 1:
        return _list_of_rows("predictions", columns[0])
    return _list_of_rows(
        "predictions",
        (_object(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)),
    )


def write_classifications(result: classification_pb2.ClassificationResult) -> str:
    """Writes the answer of Classify: for each example, pairs of label and score."""
    if not result.classifications:
        raise status.invalid("Cannot convert empty ClassificationResults to JSON")
    rows = []
    for row in result.classifications:
        scores = _float_tokens(np.array([item.score for item in row.classes], np.float32))
        labels = [_string(item.label) for item in row.classes]
        pairs = (f"[{label}, {score}]" for label, score in zip(labels, scores, strict=True))
        rows.append(_list(pairs))
    return _list_of_rows("results", rows)


def write_regressions(result: regression_pb2.RegressionResult) -> str:
    """Writes the answer of Regress: a number for each example."""
    if not result.regressions:
        raise status.invalid("Cannot convert empty RegressionResults to JSON")
    values = np.array([item.value for item in result.regressions], np.float32)
    return _object({"results": _list(_float_tokens(values))})


def write_status(response: get_model_status_pb2.GetModelStatusResponse) -> str:
    """Writes the states of a model's versions."""
    return _write_proto(response)


def write_metadata(response: get_model_metadata_pb2.GetModelMetadataResponse) -> str:
    """Writes a model's signatures."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    metadata = _object({"signature_def": _write_proto(signatures)})
    return _object({"model_spec": _write_proto(response.model_spec), "metadata": metadata})


def write_error(text: str) -> str:
    """Writes an error."""
    return _object({"error": _string(text)})


def _check_rows(outputs: Mapping[str, tensor_pb2.TensorProto]) -> None:
    """Checks that every output has a row for each row put in."""
    count: int | None = None
    for name, proto in sorted(outputs.items()):
        shape = _shape(proto)
        if not shape:
            raise status.invalid(
                f"Tensor name: {name} has no shape information: a scalar has no rows; ask with "
                "'inputs' instead of 'instances'"
            )
        if count is not None and shape[0] != count:
            raise status.invalid(
                f"Tensor name: {name} has inconsistent batch size: {shape[0]} expecting: {count}; "
                "ask with 'inputs' instead of 'instances'"
            )
        count = shape[0]


def _rows(name: str, proto: tensor_pb2.TensorProto) -> list[str]:
    """Writes each row of a tensor."""
    count, *shape = _shape(proto)
    tokens, size = _tokens(name, proto), math.prod(shape)
    return [_nest(tokens[i * size : (i + 1) * size], shape) for i in range(count)]


def _nest(tokens: list[str], shape: Iterable[int]) -> str:
    """Puts a tensor's elements into nested lists."""
    shape = list(shape)
    for axis in reversed(range(len(shape))):
        size = shape[axis]
        tokens = [_list(tokens[i * size : (i + 1) * size]) for i in range(math.prod(shape[:axis]))]
    return tokens[0]


def _shape(proto: tensor_pb2.TensorProto) -> list[int]:
    return [dim.size for dim in proto.tensor_shape.dim]


def _tokens(name: str, proto: tensor_pb2.TensorProto) -> list[str]:
    """Writes a tensor's elements."""
    try:
        array = tensors.to_array(proto).ravel()
    except ValueError as error:
        raise status.invalid(f"Failed to write JSON value for tensor {name}: {error}") from error
    if array.dtype.hasobject:
        write = _base64 if name.endswith(_BYTES_SUFFIX) else _text
        return [write(value) for value in array]
    if array.dtype.kind in "biu":
        return [json.dumps(value) for value in array.tolist()]
    # float16 and bfloat16 have fewer digits than float32.
    return _float_tokens(array if array.dtype in _DIGITS else array.astype(np.float32))


def _float_tokens(array: np.ndarray) -> list[str]:
    """Writes floats: in six digits where that gives the same number again, as TF Serving does."""
    values = array.tolist()
    short = [f"{value:g}" for value in values]
    full = f".{_DIGITS[array.dtype]}g"
    # Texts far beyond float32 never come back: "short" is within half a unit of its sixth digit.
    with np.errstate(over="ignore"):
        is_same = np.array(short, np.float64).astype(array.dtype) == array
    return [
        _decimal(text if same else format(value, full))
        for text, same, value in zip(short, is_same.tolist(), values, strict=True)
    ]


def _decimal(text: str) -> str:
    if text[-1].isdigit():
        return text if "." in text or "e" in text else text + ".0"
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[text]


def _text(value: bytes) -> str:
    return _string(value.decode("utf-8", "replace"))


def _base64(value: bytes) -> str:
    return _object({"b64": _string(base64.b64encode(value).decode())})


def _string(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _list(tokens: Iterable[str]) -> str:
    return "[" + ", ".join(tokens) + "]"


def _object(fields: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{_string(name)}: {value}" for name, value in fields.items()) + "}"


def _list_of_rows(name: str, rows: Iterable[str]) -> str:
    """Writes an object with one list, each row on a line, for people who use curl."""
    return _object({name: "[\n    " + ",\n    ".join(rows) + "\n]"})


def _write_proto(proto: message.Message) -> str:
    """Writes a message with all its fields, as protocol buffers map to JSON."""
    text: Any = json_format.MessageToJson(
        proto,
        always_print_fields_with_no_presence=True,
        preserving_proto_field_name=True,
        ensure_ascii=False,
    )
    return text
