"""Tensors in messages, without TensorFlow: NumPy arrays to TensorProto and back, and SignatureDefs.

Strings are object arrays of bytes: NumPy's fixed-width "S" type drops trailing NUL bytes.

Reference: `Tensor::FromProto` in tensorflow/core/framework/tensor.cc. Reading is stricter in two
places: values beyond the shape's element count are an error instead of being ignored, and so is a
tiny message that asks for a giant tensor.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from distilbert_serving.protos import meta_graph_pb2, tensor_pb2, types_pb2
from distilbert_serving.signatures import SignatureInfo, TensorInfo

# A message may give fewer values than elements, and its last value is then repeated. This bounds
# the work that a few bytes can ask for: elements to be filled in, and the dimensions of a tensor
# without elements.
MAX_UNSENT_SIZE = 2**16


class _WireType(NamedTuple):
    """How one element type travels: as NumPy type, and in which repeated field."""

    dtype: np.dtype
    field: str


_WIRE_TYPES = {
    types_pb2.DT_BFLOAT16: _WireType(np.dtype(ml_dtypes.bfloat16), "half_val"),
    types_pb2.DT_BOOL: _WireType(np.dtype(np.bool_), "bool_val"),
    types_pb2.DT_DOUBLE: _WireType(np.dtype(np.float64), "double_val"),
    types_pb2.DT_FLOAT: _WireType(np.dtype(np.float32), "float_val"),
    types_pb2.DT_HALF: _WireType(np.dtype(np.float16), "half_val"),
    types_pb2.DT_INT16: _WireType(np.dtype(np.int16), "int_val"),
    types_pb2.DT_INT32: _WireType(np.dtype(np.int32), "int_val"),
    types_pb2.DT_INT64: _WireType(np.dtype(np.int64), "int64_val"),
    types_pb2.DT_INT8: _WireType(np.dtype(np.int8), "int_val"),
    types_pb2.DT_STRING: _WireType(np.dtype(object), "string_val"),
    types_pb2.DT_UINT16: _WireType(np.dtype(np.uint16), "int_val"),
    types_pb2.DT_UINT32: _WireType(np.dtype(np.uint32), "uint32_val"),
    types_pb2.DT_UINT64: _WireType(np.dtype(np.uint64), "uint64_val"),
    types_pb2.DT_UINT8: _WireType(np.dtype(np.uint8), "int_val"),
}
_DATA_TYPES = {wire_type.dtype: data_type for data_type, wire_type in _WIRE_TYPES.items()}


@functools.cache
def data_type_name(data_type: int) -> str:
    """Returns TensorFlow's short name of a DataType value, such as "float" or "string".

    A type that is newer than this TensorFlow has its number for a name.
    """
    if data_type in types_pb2.DataType.values():
        return types_pb2.DataType.Name(data_type).removeprefix("DT_").lower()
    return f"type {data_type}"


# NumPy's types by TensorFlow's short names, of all tensors that can be sent.
NUMPY_TYPES = {data_type_name(number): wire.dtype for number, wire in _WIRE_TYPES.items()}


def read_signature(proto: meta_graph_pb2.SignatureDef) -> SignatureInfo:
    """Reads names, types and shapes of a signature's inputs and outputs."""
    inputs, outputs = (
        {name: _read_info(info) for name, info in infos.items()}
        for infos in (proto.inputs, proto.outputs)
    )
    return SignatureInfo(inputs, outputs)


def _read_info(info: meta_graph_pb2.TensorInfo) -> TensorInfo:
    dtype = data_type_name(info.dtype)
    encoding = info.WhichOneof("encoding")
    if encoding in ("coo_sparse", "composite_tensor"):
        dtype = f"{encoding.removesuffix('_tensor').removeprefix('coo_')} {dtype}"
    if info.tensor_shape.unknown_rank:
        return TensorInfo(dtype, None)
    return TensorInfo(
        dtype, tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    )


def read_shape(proto: tensor_pb2.TensorProto) -> tuple[int, ...]:
    """Reads a TensorProto's shape.

    Raises:
        ValueError: the shape is not fully known.
    """
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise ValueError("its shape is not fully known")
    return shape


def to_array(proto: tensor_pb2.TensorProto) -> np.ndarray:
    """Reads a TensorProto.

    Returns:
        An array of the message's shape and type, strings as objects of type bytes.

    Raises:
        ValueError: the message contradicts itself, or its type is not supported.
    """
    shape = read_shape(proto)
    count = math.prod(shape)
    if proto.dtype not in _WIRE_TYPES:
        raise ValueError(f"tensors of type {data_type_name(proto.dtype)} are not supported")
    dtype, field = _WIRE_TYPES[proto.dtype]
    content = proto.tensor_content
    if content:
        if dtype.hasobject:
            raise ValueError("strings must be given in string_val, not in tensor_content")
        if len(content) != count * dtype.itemsize:
            raise ValueError(
                f"shape {shape} of {data_type_name(proto.dtype)} needs {count * dtype.itemsize} "
                f"bytes of tensor_content, but there are {len(content)}"
            )
        return np.frombuffer(content, dtype).reshape(shape)
    values = list(getattr(proto, field))
    if len(values) > count:
        raise ValueError(f"shape {shape} has {count} elements, but {field} has {len(values)}")
    if count == 0 and max(shape) > MAX_UNSENT_SIZE:
        raise ValueError(f"shape {shape} is too large for a tensor without elements")
    array = _from_field(values, dtype)
    if len(values) < count:
        if count - len(values) > MAX_UNSENT_SIZE:
            raise ValueError(f"shape {shape} has {count} elements, but {field} has {len(values)}")
        last = array[-1:] if values else np.array([b"" if dtype.hasobject else 0], dtype)
        array = np.concatenate([array, np.repeat(last, count - len(values))])
    return array.reshape(shape)


def to_arrays(
    protos: Mapping[str, tensor_pb2.TensorProto], infos: Mapping[str, TensorInfo]
) -> dict[str, np.ndarray]:
    """Reads the tensors that a signature takes.

    Args:
        protos: What was sent, by name.
        infos: What the signature takes, by name.

    Returns:
        Arrays by name, in the order of `protos`.

    Raises:
        ValueError: Names, types, shapes or contents do not fit.
    """
    if protos.keys() != infos.keys():
        raise ValueError(
            f"input size does not match signature: {len(protos)}!={len(infos)} Sent extra: "
            f"{sorted(protos.keys() - infos.keys())}. Missing but required: "
            f"{sorted(infos.keys() - protos.keys())}."
        )
    for name, proto in protos.items():
        dtype, (wanted_dtype, wanted) = data_type_name(proto.dtype), infos[name]
        if dtype != wanted_dtype:
            raise ValueError(f"Expected input {name} to be {wanted_dtype} but get {dtype}.")
        # The shapes first: they cost nothing, and reading the values can cost a lot.
        try:
            shape = read_shape(proto)
        except ValueError as error:
            raise ValueError(f"tensor parsing error: {name}: {error}") from error
        if wanted is not None and not (
            len(shape) == len(wanted)
            and all(want in (None, have) for want, have in zip(wanted, shape, strict=True))
        ):
            raise ValueError(
                f"Input {name} has shape {shape}, which is incompatible with the signature's "
                f"shape {wanted} (None: any size)."
            )
    arrays = {}
    for name, proto in protos.items():
        try:
            arrays[name] = to_array(proto)
        except ValueError as error:
            raise ValueError(f"tensor parsing error: {name}: {error}") from error
    return arrays


def to_proto(array: Any, *, as_fields: bool = False) -> tensor_pb2.TensorProto:
    """Writes an array as TensorProto.

    Args:
        array: An array, or what `np.asarray` makes one of; strings as str (sent as UTF-8) or bytes.
        as_fields: Put numbers into the typed fields (`float_val`, ...), as TF Serving does in its
            answers, instead of the more compact `tensor_content`.

    Raises:
        ValueError: the array's type cannot be sent.
    """
    array = _to_numpy(array)
    if array.dtype.kind in "USO":
        return _string_proto(array)
    dtype = array.dtype.newbyteorder("=")
    if dtype not in _DATA_TYPES:
        raise ValueError(f"arrays of type {array.dtype} cannot be sent")
    proto = _empty_proto(_DATA_TYPES[dtype], array.shape)
    if as_fields:
        field = _WIRE_TYPES[proto.dtype].field
        flat = array.astype(dtype).ravel()
        getattr(proto, field).extend(
            (flat.view(np.uint16) if field == "half_val" else flat).tolist()
        )
    else:
        # The format is little-endian.
        proto.tensor_content = array.astype(dtype.newbyteorder("<")).tobytes()
    return proto


def _to_numpy(value: Any) -> np.ndarray:
    """Makes an array, and keeps NUL bytes at the ends of strings, which `np.asarray` drops."""
    if not isinstance(value, np.ndarray):
        objects = np.asarray(value, object)
        if any(isinstance(item, str | bytes) for item in objects.flat):
            return objects
    return np.asarray(value)


def _from_field(values: list[Any], dtype: np.dtype) -> np.ndarray:
    """Turns a repeated field's values into a flat array."""
    if dtype.itemsize == 2 and dtype.kind not in "iu":
        # half_val holds the bits of float16 and bfloat16.
        return np.array(values, np.int32).astype(np.uint16).view(dtype)
    if dtype.kind in "iu" and dtype.itemsize < 4:
        # int_val is wider than these types; TensorFlow wraps around as well.
        return np.array(values, np.int32).astype(dtype)
    return np.array(values, dtype)


def _string_proto(array: np.ndarray) -> tensor_pb2.TensorProto:
    """Writes an array of strings."""
    proto = _empty_proto(types_pb2.DT_STRING, array.shape)
    for value in array.ravel().tolist():
        if isinstance(value, str):
            value = value.encode()
        elif not isinstance(value, bytes):
            raise ValueError(
                f"arrays of objects must hold str or bytes, not {type(value).__name__}"
            )
        proto.string_val.append(value)
    return proto


def _empty_proto(data_type: int, shape: tuple[int, ...]) -> tensor_pb2.TensorProto:
    """Makes a TensorProto with type and shape, but no values."""
    proto = tensor_pb2.TensorProto(dtype=data_type)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto
