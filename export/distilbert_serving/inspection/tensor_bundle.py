"""Lists the variables of a SavedModel from its files, without TensorFlow.

`variables.index` is a table in LevelDB's format: blocks of sorted keys, each written as what it
shares with the key before and the rest. The values are BundleEntryProtos. The numbers themselves
are in `variables.data-<shard>-of-<shards>` and are not read.

Reference: https://github.com/google/leveldb/blob/main/doc/table_format.md
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError

from distilbert_serving.protos import tensor_bundle_pb2
from distilbert_serving.tensors import data_type_name

_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # of each block: how it is compressed, and its checksum
_MAGIC = 0xDB4775248B80FB57
# TensorFlow's own entry: what belongs to which object. It is no weight.
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


class StoredVariable(NamedTuple):
    """A tensor in the variables' files.

    Attributes:
        name: Its key.
        data_type: As "float".
        shape: Its dimensions.
        num_bytes: Its size in the file.
    """

    name: str
    data_type: str
    shape: tuple[int, ...]
    num_bytes: int


class BundleError(ValueError):
    """Files of variables that are damaged or incomplete."""


def list_variables(prefix: Path) -> list[StoredVariable]:
    """Lists the variables under a prefix, and checks that their data files are whole.

    Args:
        prefix: As `<SavedModel>/variables/variables`.

    Returns:
        The variables by name; none if there are no such files.

    Raises:
        BundleError: The index cannot be read, or a data file is missing or too short.
    """
    index = prefix.with_name(f"{prefix.name}.index")
    if not index.exists():
        if shards := list(prefix.parent.glob(f"{prefix.name}.data-*")):
            raise BundleError(f"{index.name} is missing, but {shards[0].name} is there")
        return []
    header, entries = tensor_bundle_pb2.BundleHeaderProto(), {}
    try:
        for key, value in _read_table(index.read_bytes()):
            if key:
                entries[key.decode()] = tensor_bundle_pb2.BundleEntryProto.FromString(value)
            else:
                header.ParseFromString(value)
    except (struct.error, IndexError, UnicodeDecodeError, DecodeError, ValueError) as error:
        raise BundleError(f"{index.name} is damaged: {error}") from error
    _check_shards(prefix, header.num_shards, entries)
    return [
        StoredVariable(
            name,
            data_type_name(entry.dtype),
            tuple(dim.size for dim in entry.shape.dim),
            entry.size,
        )
        for name, entry in sorted(entries.items())
        if name != _OBJECT_GRAPH
    ]


def _check_shards(prefix: Path, num_shards: int, entries: dict) -> None:
    for shard in range(num_shards):
        file = prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{num_shards:05d}")
        if not file.exists():
            raise BundleError(f"{file.name} is missing")
        needed = max(
            (entry.offset + entry.size for entry in entries.values() if entry.shard_id == shard),
            default=0,
        )
        if (size := file.stat().st_size) < needed:
            raise BundleError(f"{file.name} is cut off: it has {size} bytes of {needed}")


def _read_table(contents: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields keys and values."""
    if len(contents) < _FOOTER_BYTES or struct.unpack("<Q", contents[-8:])[0] != _MAGIC:
        raise ValueError("it does not end as a table does")
    footer = contents[-_FOOTER_BYTES:]
    position = 0
    for _ in range(2):  # skip the meta index
        _, position = _read_varint(footer, position)
    for _, handle in _read_block(contents, *_read_handle(footer, position)):
        yield from _read_block(contents, *_read_handle(handle, 0))


def _read_handle(data: bytes, position: int) -> tuple[int, int]:
    offset, position = _read_varint(data, position)
    size, _ = _read_varint(data, position)
    return offset, size


def _read_block(contents: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    if offset + size + _TRAILER_BYTES > len(contents):
        raise ValueError("a block lies outside of it")
    block = contents[offset : offset + size]
    if contents[offset + size]:
        raise ValueError("it is compressed, which TensorFlow does not do")
    (num_restarts,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 * (num_restarts + 1)
    position, key = 0, b""
    while position < end:
        shared, position = _read_varint(block, position)
        unshared, position = _read_varint(block, position)
        value_size, position = _read_varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + value_size]
        position += value_size


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Returns a number of seven bits a byte, and the position after it."""
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
