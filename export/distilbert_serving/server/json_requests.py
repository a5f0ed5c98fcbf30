"""TF Serving's JSON requests, read into protocol buffers.

JSON has one kind of number and one of string, so the types of a Predict request's tensors are
those of the signature's inputs. Errors are TF Serving's in code and gist, and say where they are.
Reading is stricter in that an integer must fit into its type, an input must be one of the
signature's in the column format as well.

Reference: tensorflow_serving/g3doc/api_rest.md and tensorflow_serving/util/json_tensor.cc.
"""

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from distilbert_serving import tensors
from distilbert_serving.protos import (
    example_pb2,
    input_pb2,
    meta_graph_pb2,
    predict_pb2,
    tensor_pb2,
)
from distilbert_serving.server import json_values, status

Document = dict[str, Any]


def parse_object(body: bytes) -> Document:
    """Parses a request's body.

    Raises:
        RequestError: INVALID_ARGUMENT; it is not JSON (the message says where), too deeply
            nested, or not an object.
    """
    if not body:
        raise status.invalid("JSON Parse error: The document is empty")
    try:
        # "-sig": some editors start files with a byte order mark. Bytes that are not UTF-8 are
        # passed on as they are, see `json_values.read_string`.
        document = json.loads(body.decode("utf-8-sig", "surrogateescape"))
    except json.JSONDecodeError as error:
        raise status.invalid(
            f"JSON Parse error: {error.msg} at offset: {error.pos} (line {error.lineno}, column "
            f"{error.colno})"
        ) from error
    except RecursionError as error:
        raise status.invalid("JSON Parse error: The document is nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits
        raise status.invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise status.invalid(f"JSON Value: {json_values.quote(document)} Is not object")
    return document


def read_signature_name(document: Document) -> str:
    """Gives the signature that a request names, or ""."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise status.invalid(
            f"JSON Value: {json_values.quote(name)} not formatted correctly. 'signature_name' key "
            "must be a string value."
        )
    try:
        json_values.encode(name)
    except ValueError as error:
        raise status.invalid(f"{error} (in 'signature_name')") from error
    return name


def fill_inputs(
    document: Document,
    infos: Mapping[str, meta_graph_pb2.TensorInfo],
    request: predict_pb2.PredictRequest,
) -> bool:
    """Reads the tensors of a Predict request.

    Args:
        document: The request's JSON, with `instances` (rows) or `inputs` (columns).
        infos: The signature's inputs, by name.
        request: Where to put the tensors.

    Returns:
        Whether the request is in row format, and wants such an answer.

    Raises:
        RequestError: INVALID_ARGUMENT or UNIMPLEMENTED; the JSON doesn't fit to the signature.
    """
    is_rows = "instances" in document
    if is_rows and "inputs" in document:
        raise status.invalid("Expecting only one of 'inputs' or 'instances' keys to exist")
    if not is_rows and "inputs" not in document:
        raise status.invalid("Missing 'inputs' or 'instances' key")
    columns: Mapping[str, Any]
    if is_rows:
        columns = _split_rows(document["instances"], infos)
    else:
        columns = _named_columns(document["inputs"], infos)
    for name, value in columns.items():
        request.inputs[name].CopyFrom(_read_tensor(name, value, infos[name].dtype))
    return is_rows


def read_examples(document: Document) -> input_pb2.Input:
    """Reads the tf.Examples of a Classify or Regress request, and their context if it has one.

    Raises:
        RequestError: INVALID_ARGUMENT; there are none, or one has a value that no feature can hold.
    """
    examples = document.get("examples")
    if not isinstance(examples, list):
        found = f", not {json_values.kind(examples)}" if "examples" in document else ""
        raise status.invalid(f"Expecting 'examples' value to be an list/array{found}")
    if not examples:
        raise status.invalid("'examples' value is an empty array")
    result = input_pb2.Input()
    if "context" in document:
        target = result.example_list_with_context.examples
        context = _read_example(document["context"], "context")
        result.example_list_with_context.context.CopyFrom(context)
    else:
        target = result.example_list.examples
    target.extend(
        _read_example(value, f"examples[{index}]") for index, value in enumerate(examples)
    )
    return result


def _split_rows(rows: Any, infos: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Turns `instances` into a list of values for each input."""
    if not isinstance(rows, list):
        raise status.invalid(
            f"Excepting 'instances' to be an list/array, not {json_values.kind(rows)}"
        )
    if not rows:
        raise status.invalid("No values in 'instances' array")
    are_objects = _is_named(rows[0])
    if not are_objects and len(infos) > 1:
        raise status.invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            f"required as per tensorinfo_map: {_names(infos)}"
        )
    for index, row in enumerate(rows):
        if _is_named(row) != are_objects:
            wanted, found = ("object", "list") if are_objects else ("value/list", "object")
            raise status.invalid(
                f"Expecting {wanted} but got {found} at item {index} of input list"
            )
        if are_objects and row.keys() != infos.keys():
            raise status.invalid(
                f"Failed to process element: {index} of 'instances' list. JSON object: "
                f"{json_values.quote(row)} keys must be equal to: {_names(infos)}"
            )
    if not are_objects:
        return {next(iter(infos)): rows}
    return {name: [row[name] for row in rows] for name in infos}


def _named_columns(value: Any, infos: Mapping[str, Any]) -> Mapping[str, Any]:
    """Gives the values of `inputs` by name."""
    if not _is_named(value):
        if len(infos) > 1:
            raise status.invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                f"required as per tensorinfo_map: {_names(infos)}"
            )
        return {next(iter(infos)): value}
    for name in infos:
        if name not in value:
            raise status.invalid(f"Missing named input: {name} in 'inputs' object.")
    if extra := value.keys() - infos.keys():
        raise status.invalid(
            f"'inputs' object has {_names(extra)}, but the signature's inputs are: {_names(infos)}"
        )
    return value


def _is_named(value: Any) -> bool:
    """Says whether a value is an object of inputs, rather than one input's value."""
    return isinstance(value, dict) and not json_values.is_base64(value)


def _names(names: Any) -> str:
    return ",".join(sorted(names))


# Tensors.


def _read_tensor(name: str, value: Any, data_type: int) -> tensor_pb2.TensorProto:
    """Reads nested lists as a tensor of a given type."""
    if data_type not in json_values.READERS:
        raise status.RequestError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"Conversion of JSON Value: {json_values.quote(value)} to type: "
            f"{tensors.data_type_name(data_type)} (input {name})",
        )
    field, read = json_values.READERS[data_type]
    shape = _shape_of(value)
    leaves = _flatten(name, value, shape)
    proto = tensor_pb2.TensorProto(dtype=data_type)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    values = []
    for index, leaf in enumerate(leaves):
        try:
            values.append(read(leaf))
        except ValueError as error:
            raise status.invalid(f"{error} (input {_place(name, index, shape)})") from error
    getattr(proto, field).extend(values)
    return proto


def _shape_of(value: Any) -> list[int]:
    """Gives the shape that a value's first elements say it has."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _flatten(name: str, value: Any, shape: list[int]) -> list[Any]:
    """Lists the elements of nested lists, all of which must have the shape."""
    items = [value]
    for level, size in enumerate(shape):
        for index, item in enumerate(items):
            if not isinstance(item, list):
                raise status.invalid(
                    f"JSON Value: {json_values.quote(item)} found at incorrect level: {level + 1} "
                    f"in the JSON DOM. Expected at level: {len(shape)} (input "
                    f"{_place(name, index, shape[:level])})"
                )
            if len(item) != size:
                raise status.invalid(
                    f"Encountered list at unexpected size: {len(item)} at level: {level} expected "
                    f"size: {size} (input {_place(name, index, shape[:level])})"
                )
        items = list(itertools.chain.from_iterable(items))
    for index, item in enumerate(items):
        if isinstance(item, list):
            raise status.invalid(
                f"Encountered list at unexpected level: {len(shape)} expected < {len(shape)} "
                f"(input {_place(name, index, shape)})"
            )
    return items


def _place(name: str, index: int, shape: list[int]) -> str:
    """Writes where an element is: `text[3][0]`."""
    parts = []
    for size in reversed(shape):
        index, part = divmod(index, size)
        parts.append(f"[{part}]")
    return name + "".join(reversed(parts))


# Examples.


def _read_example(value: Any, place: str) -> example_pb2.Example:
    """Reads a tf.Example: an object of features, each a value or a list."""
    if not isinstance(value, dict):
        raise status.invalid(
            f"Example must be JSON object but got JSON {json_values.kind(value)} (in {place})"
        )
    example = example_pb2.Example()
    for name, content in value.items():
        try:
            json_values.encode(name)
            feature = example.features.feature[name]
            for element in content if isinstance(content, list) else [content]:
                _add_to_feature(feature, element)
        except ValueError as error:
            raise status.invalid(f"Feature: {name} {error} (in {place})") from error
    return example


def _add_to_feature(feature: Any, value: Any) -> None:
    """Appends a value; all of a feature have one kind, which the first one says."""
    kind: str
    read: Callable[[Any], Any]
    if isinstance(value, str) or json_values.is_base64(value):
        kind, read = "bytes_list", json_values.read_string
    elif isinstance(value, int):  # true and false too: 1 and 0
        kind, read = "int64_list", json_values.read_int64
    elif isinstance(value, float):
        kind, read = "float_list", json_values.read_float
    else:
        raise ValueError(f"has element with unexpected JSON type: {json_values.kind(value)}")
    if feature.WhichOneof("kind") not in (None, kind):
        has = feature.WhichOneof("kind").removesuffix("_list")
        raise ValueError(
            f"has unexpected element type: {json_values.quote(value)}, expecting type: {has}"
        )
    getattr(feature, kind).value.append(read(value))
