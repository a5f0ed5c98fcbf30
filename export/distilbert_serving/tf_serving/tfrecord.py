"""TFRecord files without TensorFlow: small ones, such as warm-up requests.

A record is its length (8 bytes), a checksum of that, the bytes, and a checksum of those; numbers
are little-endian. A checksum is a CRC-32C, masked so that a checksum of data that hold checksums
stays useful.

Reference: tensorflow/core/lib/io/record_writer.cc; RFC 3720, B.4, for CRC-32C.
"""

import os
import struct
from collections.abc import Iterable
from pathlib import Path

_POLYNOMIAL = 0x82F63B78  # of CRC-32C, its bits reversed
_MASK_DELTA = 0xA282EAD8
_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER_BYTES = _LENGTH.size + _CHECKSUM.size


class CorruptFileError(ValueError):
    """A file that is no TFRecord file, or is damaged."""


def write_records(path: str | os.PathLike[str], records: Iterable[bytes]) -> None:
    """Writes a file of records.

    Args:
        path: The file; replaced if it is there.
        records: The bytes of each record.
    """
    with Path(path).open("wb") as file:
        for record in records:
            length = _LENGTH.pack(len(record))
            file.write(length + _checksum(length) + record + _checksum(record))


def read_records(path: str | os.PathLike[str]) -> list[bytes]:
    """Reads a file of records, and checks its checksums.

    Args:
        path: The file.

    Returns:
        The bytes of each record.

    Raises:
        CorruptFileError: It ends within a record, or a checksum is wrong.
    """
    contents = Path(path).read_bytes()
    records: list[bytes] = []
    start = 0
    while start < len(contents):
        where = f"{os.fspath(path)}: record {len(records)}, at byte {start}"
        header = contents[start : start + _HEADER_BYTES]
        length, checksum = header[: _LENGTH.size], header[_LENGTH.size :]
        if len(header) < _HEADER_BYTES:
            raise CorruptFileError(f"{where}: the file ends within the record's header.")
        if checksum != _checksum(length):
            raise CorruptFileError(
                f"{where}: the checksum of its length is wrong: damaged, or no TFRecord."
            )
        start += _HEADER_BYTES
        end = start + _LENGTH.unpack(length)[0]
        record, checksum = contents[start:end], contents[end : end + _CHECKSUM.size]
        start = end + _CHECKSUM.size
        if start > len(contents):
            raise CorruptFileError(f"{where}: the file ends within the record.")
        if checksum != _checksum(record):
            raise CorruptFileError(f"{where}: its checksum is wrong; the file is damaged.")
        records.append(record)
    return records


def _make_table() -> tuple[int, ...]:
    """Tabulates the CRC of every byte."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _make_table()


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return _CHECKSUM.pack((rotated + _MASK_DELTA) & 0xFFFFFFFF)
