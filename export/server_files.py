"""Reads what a server looks for beside the graph: warm-up requests and batching parameters."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from export.config_protos import BatchingParameters
from export.protos import prediction_log_pb2

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
BATCHING_FILE = Path("batching_params.pbtxt")
MAX_WARMUP_RECORDS = 1000  # with more the server refuses the model


class ServerFileError(ValueError):
    """A file that would keep a server from loading the model."""


def read_warmup_requests(directory: Path) -> list[prediction_log_pb2.PredictionLog]:
    """Reads the warm-up requests of a SavedModel.

    Args:
        directory: The SavedModel.

    Returns:
        The requests; none if there is no such file.

    Raises:
        ServerFileError: The file is damaged, or holds more than a server accepts.
    """
    file = directory / WARMUP_FILE
    if not file.is_file():
        return []
    requests = []
    for number, record in enumerate(_read_records(file)):
        try:
            requests.append(prediction_log_pb2.PredictionLog.FromString(record))
        except DecodeError as error:
            raise ServerFileError(f"{WARMUP_FILE}: record {number} is no PredictionLog") from error
    if len(requests) > MAX_WARMUP_RECORDS:
        raise ServerFileError(
            f"{WARMUP_FILE} has {len(requests)} records; a server accepts {MAX_WARMUP_RECORDS}"
        )
    return requests


def read_batching_parameters(directory: Path) -> Any | None:
    """Reads a SavedModel's own batching parameters.

    Args:
        directory: The SavedModel.

    Returns:
        BatchingParameters; None if there is no such file.

    Raises:
        ServerFileError: A server would refuse them.
    """
    file = directory / BATCHING_FILE
    if not file.is_file():
        return None
    try:
        parameters = text_format.Parse(file.read_text(encoding="utf-8"), BatchingParameters())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ServerFileError(f"{BATCHING_FILE} cannot be read: {error}") from error
    sizes = list(parameters.allowed_batch_sizes)
    if sizes != sorted(set(sizes)):
        raise ServerFileError(f"{BATCHING_FILE}: allowed_batch_sizes {sizes} do not ascend")
    largest = parameters.max_batch_size.value
    if parameters.enable_large_batch_splitting.value and parameters.max_execution_batch_size.value:
        largest = parameters.max_execution_batch_size.value
    if sizes and largest and sizes[-1] != largest:
        raise ServerFileError(
            f"{BATCHING_FILE}: the last of allowed_batch_sizes must be {largest}; it is {sizes[-1]}"
        )
    return parameters


def _read_records(file: Path) -> Iterator[bytes]:
    """Gives the records of a TFRecord file: each has its length and a checksum before, one after.

    The checksums are left to the server.
    """
    contents = file.read_bytes()
    position = 0
    while position < len(contents):
        start = position + 12
        if start > len(contents):
            raise ServerFileError(f"{WARMUP_FILE} is cut off, or no TFRecord file")
        (size,) = struct.unpack_from("<Q", contents, position)
        position = start + size + 4
        if position > len(contents):
            raise ServerFileError(f"{WARMUP_FILE} is cut off, or no TFRecord file")
        yield contents[start : start + size]
