"""Reads TF Serving's BatchingParameters, the contents of `batching_params.pbtxt`.

What the file doesn't set has TF Serving's default. Two things differ from TF Serving: a request
waits for company only while all threads are busy, and `max_enqueued_batches` counts rows, so that
a queue of batches that are not full holds more requests.

Reference: session_bundle_config.proto and bundle_factory_util.h in
tensorflow_serving/servables/tensorflow; shared_batch_scheduler.h in
tensorflow/core/kernels/batching_util for defaults and checks.
"""

import os
import pathlib
from typing import Any

from absl import logging
from google.protobuf import text_format

from export.config_protos import BatchingParameters
from export.server.batching_options import BatchingOptions

BATCHING_FILE = "batching_params.pbtxt"

_MICROSECONDS_PER_S = 1_000_000
_DEFAULTS = {
    "max_batch_size": 1000,
    "batch_timeout_micros": 0,
    "max_enqueued_batches": 10,
    "num_batch_threads": os.cpu_count() or 1,
}

# Each is a thread here; TF Serving has its threads in C++.
_MAX_THREADS = 64


def read_batching_options(path: str | os.PathLike[str]) -> BatchingOptions:
    """Reads a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no BatchingParameters, or a field has a senseless value; the message
            names file and field.
    """
    path = pathlib.Path(path)
    try:
        parameters = text_format.Parse(path.read_text(encoding="utf-8"), BatchingParameters())
        return _to_options(parameters)
    except (text_format.ParseError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"Batching parameters file {path}: {error}") from error


def _to_options(parameters: Any) -> BatchingOptions:
    max_batch_size = _read(parameters, "max_batch_size", 1)
    batch_timeout_micros = _read(parameters, "batch_timeout_micros", 0)
    max_enqueued_batches = _read(parameters, "max_enqueued_batches", 1)
    num_threads = _read(parameters, "num_batch_threads", 1)
    if parameters.pad_variable_length_inputs:
        # Without it the answers are the same, from more runs.
        logging.warning("pad_variable_length_inputs: only inputs of equal shape are merged here")
    if num_threads > _MAX_THREADS:
        raise ValueError(f"num_batch_threads is {num_threads}; at most {_MAX_THREADS} make sense")
    run_size = max_batch_size
    if parameters.enable_large_batch_splitting.value:
        if parameters.HasField("max_execution_batch_size"):
            run_size = _read(parameters, "max_execution_batch_size", 1)
            if run_size > max_batch_size:
                raise ValueError(
                    f"max_execution_batch_size is {run_size}; it must be at most max_batch_size, "
                    f"{max_batch_size}"
                )
    elif parameters.HasField("max_execution_batch_size"):
        raise ValueError("max_execution_batch_size needs enable_large_batch_splitting")
    allowed = tuple(parameters.allowed_batch_sizes)
    if allowed and (allowed[0] < 1 or list(allowed) != sorted(set(allowed))):
        raise ValueError(
            f"allowed_batch_sizes are {list(allowed)}; they must ascend from 1 or more"
        )
    if allowed and allowed[-1] != run_size:
        raise ValueError(
            "Last entry in allowed_batch_sizes must match max_batch_size (or, with "
            f"enable_large_batch_splitting, max_execution_batch_size); last entry was "
            f"{allowed[-1]}; expected {run_size}"
        )
    max_queue_rows = max_enqueued_batches * run_size
    return BatchingOptions(
        max_batch_size=run_size,
        batch_timeout_s=batch_timeout_micros / _MICROSECONDS_PER_S,
        max_queue_length=max_queue_rows,
        max_queue_rows=max_queue_rows,
        max_request_rows=max_batch_size,
        allowed_batch_sizes=allowed,
        num_threads=num_threads,
    )


def _read(parameters: Any, name: str, least: int) -> int:
    """Reads a number, or its default, and checks that it is not too small."""
    if not parameters.HasField(name):
        return _DEFAULTS[name]
    value = getattr(parameters, name).value
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")
    return value
