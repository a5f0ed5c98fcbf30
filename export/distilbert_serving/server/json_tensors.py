"""TF Serving's JSON: requests become tensors and tf.Examples, and outputs become answers.

JSON has one kind of number and one of string, so the types of a Predict request's tensors are
those of the signature's inputs. NaN and infinities, which JSON lacks, are read and written as
`NaN`, `Infinity` and `-Infinity`; bytes are `{"b64": "..."}`. Functions that read a request raise
RequestError, INVALID_ARGUMENT, and say where it is wrong.

Reference: tensorflow_serving/g3doc/api_rest.md and tensorflow_serving/util/json_tensor.cc.
"""

import base64
import json
import math
from collections.abc import Callable, Mapping
from reprlib import repr as quote
from typing import Any

import grpc
import numpy as np

from distilbert_serving import tensors
from distilbert_serving.protos import example_pb2, input_pb2, meta_graph_pb2, tensor_pb2
from distilbert_serving.server import status

Document = dict[str, Any]
Infos = Mapping[str, meta_graph_pb2.TensorInfo]

# The types that JSON has values for, by TensorFlow's names.
_NAMES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64")
_DTYPES = {name: np.dtype(name) for name in _NAMES}
_DTYPES |= {"float": np.dtype("float32"), "double": np.dtype("float64"), "string": np.dtype("O")}


def parse_object(body: bytes) -> Document:
    """Parses a request's body; bytes in strings that are not UTF-8 stay, as in TF Serving."""
    try:
        # "-sig": some editors start files with a byte order mark.
        document = json.loads(body.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise status.invalid(f"JSON parse error: {error}") from error
    if not isinstance(document, dict):
        raise status.invalid(f"The body should be a JSON object, not {quote(document)}")
    return document


def read_inputs(document: Document, infos: Infos) -> tuple[dict[str, tensor_pb2.TensorProto], bool]:
    """Returns a Predict request's tensors by name, and whether it is in rows (`instances`)."""
    is_rows = "instances" in document
    if is_rows == ("inputs" in document):
        raise status.invalid("Give either 'instances' (a list of rows) or 'inputs' (columns)")
    if is_rows:
        columns = _split_rows(document["instances"], infos)
    else:
        columns = _name_inputs(document["inputs"], infos, "'inputs'")
    inputs = {name: _read_tensor(name, columns[name], infos[name].dtype) for name in infos}
    return inputs, is_rows


def _split_rows(rows: Any, infos: Infos) -> Document:
    """Returns the values of each input, given those of each row."""
    if not isinstance(rows, list) or not rows:
        raise status.invalid("'instances' should be a list with at least one row")
    if len({_is_named(row) for row in rows}) > 1:
        raise status.invalid("'instances' mixes objects with rows that name no inputs")
    named = [_name_inputs(row, infos, f"'instances'[{i}]") for i, row in enumerate(rows)]
    return {name: [row[name] for row in named] for name in infos}


def _name_inputs(value: Any, infos: Infos, place: str) -> Document:
    """Returns a value for each input; the name of an only input may be left out."""
    if not _is_named(value) and len(infos) == 1:
        return {next(iter(infos)): value}
    if not _is_named(value) or value.keys() != infos.keys():
        names = ", ".join(sorted(infos))
        raise status.invalid(f"{place} should be an object of {names}, not {quote(value)}")
    return value


def _is_named(value: Any) -> bool:
    """Returns whether a value is an object of inputs, rather than one input's value."""
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _read_tensor(name: str, value: Any, data_type: int) -> tensor_pb2.TensorProto:
    """Reads nested lists as a tensor of a given type."""
    type_name = tensors.data_type_name(data_type)
    if type_name not in _DTYPES:
        message = f"JSON has no values of type {type_name} (input {name})"
        raise status.RequestError(grpc.StatusCode.UNIMPLEMENTED, message)
    dtype, elements = _DTYPES[type_name], np.array(value, object)
    read, values = _reader(dtype), []
    for index, element in enumerate(elements.ravel().tolist()):
        if isinstance(element, list):  # what NumPy could not make a dimension of
            message = f"Input {name} has lists of unequal length or depth, as {quote(element)}"
            raise status.invalid(message)
        try:
            values.append(read(element))
        except ValueError as error:
            place = "".join(f"[{i}]" for i in np.unravel_index(index, elements.shape))
            raise status.invalid(f"{error} (input {name}{place})") from error
    return tensors.to_proto(np.array(values, dtype=dtype).reshape(elements.shape))


def _read_string(value: Any) -> bytes:
    """Reads a string, or bytes in base64."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if not _is_base64(value):
        raise ValueError(f"{quote(value)} is not of type string")
    digits = "".join(value["b64"].split()).rstrip("=")
    return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)


def _reader(dtype: np.dtype) -> Callable[[Any], Any]:
    """Returns what reads a value for a tensor; ValueError if it would become another one."""
    bounds: dict[type, tuple[float, float]]  # for JSON's values of each kind
    if dtype.hasobject:
        return _read_string
    if dtype.kind == "b":
        bounds = {bool: (False, True)}
    elif dtype.kind in "iu":
        bounds = {int: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))}
    else:
        info = np.finfo(dtype)
        exact = 2 ** (info.nmant + 1) - 1  # up to here, every integer has a float of its own
        end = float(info.max) * (1 + 2.0 ** -(info.nmant + 2))  # what still rounds to the greatest
        bounds = {int: (-exact, exact), float: (-end, end)}

    def read(value: Any) -> Any:
        if type(value) in bounds:
            least, greatest = bounds[type(value)]
            if least <= value <= greatest or (type(value) is float and not math.isfinite(value)):
                return value
        raise ValueError(f"{quote(value)} is not of type {dtype.name}")

    return read


_read_feature_float = _reader(_DTYPES["float"])


def read_examples(document: Document) -> input_pb2.Input:
    """Reads the tf.Examples of a Classify or Regress request, and their context if it has one."""
    values = document.get("examples")
    if not isinstance(values, list) or not values:
        raise status.invalid("'examples' should be a list with at least one example")
    examples = [_read_example(value, f"'examples'[{i}]") for i, value in enumerate(values)]
    if "context" not in document:
        return input_pb2.Input(example_list=input_pb2.ExampleList(examples=examples))
    context = _read_example(document["context"], "'context'")
    with_context = input_pb2.ExampleListWithContext(examples=examples, context=context)
    return input_pb2.Input(example_list_with_context=with_context)


def _read_example(value: Any, place: str) -> example_pb2.Example:
    """Reads a tf.Example: an object of features, each a value or a list."""
    if not isinstance(value, dict):
        raise status.invalid(f"{place} should be an object, not {quote(value)}")
    example = example_pb2.Example()
    for name, content in value.items():
        try:
            # A name with half a surrogate pair is a ValueError as well.
            _fill_feature(example.features.feature[name], content)
        except ValueError as error:
            raise status.invalid(f"{error} (feature {name} of {place})") from error
    return example


def _fill_feature(feature: Any, content: Any) -> None:
    """Puts one value, or a list of values of one type, into a feature."""
    values = content if isinstance(content, list) else [content]
    if all(isinstance(value, int) for value in values):  # true and false too: 1 and 0
        feature.int64_list.value.extend(map(int, values))
    elif all(isinstance(value, float) for value in values):
        feature.float_list.value.extend(map(_read_feature_float, values))
    else:
        feature.bytes_list.value.extend(map(_read_string, values))


def write_outputs(outputs: Mapping[str, tensor_pb2.TensorProto], is_rows: bool) -> Document:
    """Returns the answer of Predict, in rows or in columns; names no single output."""
    columns = {name: _write_tensor(name, outputs[name]) for name in sorted(outputs)}
    values = list(columns.values())
    if not is_rows:
        return {"outputs": columns if len(columns) > 1 else values[0]}
    if not all(isinstance(value, list) and len(value) == len(values[0]) for value in values):
        raise status.invalid("The outputs are not all rows: ask with 'inputs', not 'instances'")
    if len(columns) == 1:
        return {"predictions": values[0]}
    rows = zip(*values, strict=True)
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}


def _write_tensor(name: str, proto: tensor_pb2.TensorProto) -> Any:
    """Returns a tensor as nested lists; strings in base64 if the name ends in `_bytes`."""
    array = tensors.to_array(proto)
    if array.dtype.hasobject:
        values: list[Any] = [value.decode("utf-8", "replace") for value in array.flat]
        if name.endswith("_bytes"):
            values = [{"b64": base64.b64encode(value).decode()} for value in array.flat]
        array = np.array(values, object).reshape(array.shape)
    return array.tolist()
