"""Single JSON values as elements of tensors and features: strings, numbers, truth values.

Readers raise ValueError, with a message that quotes the value.

Reference: tensorflow_serving/util/json_tensor.cc.
"""

import base64
import binascii
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from distilbert_serving import tensors
from distilbert_serving.protos import types_pb2

_MAX_QUOTE = 80  # characters of a value that an error quotes
_KINDS = {bool: "Bool", dict: "Object", list: "Array", str: "String", type(None): "Null"}

# Half a unit in the last place beyond the greatest float32: from there on, rounding gives infinity.
_FLOAT32_END = float(2**128 - 2**103)


def is_base64(value: Any) -> bool:
    """Says whether a value stands for bytes: `{"b64": "..."}`."""
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def encode(text: str, errors: str = "strict") -> bytes:
    """Writes a string as UTF-8."""
    try:
        return text.encode("utf-8", errors)
    except UnicodeEncodeError as error:
        raise ValueError(
            "JSON Parse error: The surrogate pair in string is invalid: "
            f"{quote(text[error.start : error.end])}"
        ) from error


def _decode_base64(value: dict[str, Any]) -> bytes:
    if not is_base64(value):
        raise ValueError(f"JSON Value: {quote(value)} not formatted correctly for base64 data")
    digits = "".join(value["b64"].split()).rstrip("=")
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"Unable to base64 decode {quote(value['b64'])}: {error}") from error


def _wrong_type(value: Any, wanted: str) -> ValueError:
    return ValueError(
        f"JSON Value: {quote(value)} Type: {kind(value)} is not of expected type: {wanted}"
    )


def kind(value: Any) -> str:
    """Gives the name of a value's type, as in TF Serving's errors."""
    return _KINDS.get(type(value), "Number")


def quote(value: Any) -> str:
    """Writes a value for an error, cut short."""
    if isinstance(value, str):
        value = value[: _MAX_QUOTE + 1]
    elif isinstance(value, list):
        value = value[: _MAX_QUOTE // 2]
    try:
        text = json.dumps(value)
    except RecursionError:  # nested almost too deeply to be read
        return f"{kind(value)} of {kind(value)}..."
    return text if len(text) <= _MAX_QUOTE else text[:_MAX_QUOTE] + "..."


def read_string(value: Any) -> bytes:
    """Reads a string, or bytes in base64."""
    if isinstance(value, str):
        return encode(value, "surrogateescape")
    if isinstance(value, dict):
        return _decode_base64(value)
    raise _wrong_type(value, "string")


def _read_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type(value, "bool")
    return value


def _integer_reader(data_type: int, dtype: type[np.integer]) -> Callable[[Any], int]:
    name, limits = tensors.data_type_name(data_type), np.iinfo(dtype)
    least, greatest = int(limits.min), int(limits.max)

    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= greatest:
            raise _wrong_type(value, name)
        return value

    return read


def _float_reader(name: str, digits: int, end: float) -> Callable[[Any], float]:
    greatest_integer = 2**digits - 1  # up to it, every integer has a float of its own

    def read(value: Any) -> float:
        if type(value) is int:
            is_exact = abs(value) <= greatest_integer
        elif type(value) is float:
            is_exact = abs(value) < end or not math.isfinite(value)
        else:
            raise _wrong_type(value, name)
        if not is_exact:
            raise ValueError(
                f"Cannot convert JSON value: {quote(value)} to {name} without loss of precision."
            )
        return value

    return read


def read_int64(value: int) -> int:
    """Reads a whole number, true or false for a feature."""
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"has {value}, which is no int64")
    return int(value)


read_float = _float_reader("float", 24, _FLOAT32_END)
_INTEGERS: dict[int, tuple[str, type[np.integer]]] = {
    types_pb2.DT_INT8: ("int_val", np.int8),
    types_pb2.DT_INT16: ("int_val", np.int16),
    types_pb2.DT_INT32: ("int_val", np.int32),
    types_pb2.DT_INT64: ("int64_val", np.int64),
    types_pb2.DT_UINT8: ("int_val", np.uint8),
    types_pb2.DT_UINT32: ("uint32_val", np.uint32),
    types_pb2.DT_UINT64: ("uint64_val", np.uint64),
}

# For each type that JSON can say: the field of TensorProto, and what reads a value for it.
READERS: dict[int, tuple[str, Callable[[Any], Any]]] = {
    types_pb2.DT_BOOL: ("bool_val", _read_bool),
    types_pb2.DT_DOUBLE: ("double_val", _float_reader("double", 53, math.inf)),
    types_pb2.DT_FLOAT: ("float_val", read_float),
    types_pb2.DT_STRING: ("string_val", read_string),
    **{
        data_type: (field, _integer_reader(data_type, dtype))
        for data_type, (field, dtype) in _INTEGERS.items()
    },
}
