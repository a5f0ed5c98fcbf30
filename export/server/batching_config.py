"""From TF Serving's BatchingParameters to how this server merges requests.

Two things differ from TF Serving: a request waits for company only while all threads are busy, and
`max_enqueued_batches` counts rows, so that a queue of batches that are not full holds more
requests.
"""

import os

from absl import logging

from export.configuration.batching_parameters import (
    PADDING_WARNING,
    number_of,
    read_batching_parameters,
    run_size_of,
)
from export.configuration.config_files import ConfigError
from export.server.batching_options import BatchingOptions

_MICROSECONDS_PER_S = 1_000_000

# Each is a thread here; TF Serving has its threads in C++.
_MAX_THREADS = 64


def read_batching_options(path: str | os.PathLike[str]) -> BatchingOptions:
    """Reads a `BatchingParameters` file.

    Raises:
        OSError: it cannot be read.
        ConfigError: it is no BatchingParameters, or a field has a senseless value; the message
            names file and field.
    """
    parameters = read_batching_parameters(path)
    num_threads = number_of(parameters, "num_batch_threads")
    if num_threads > _MAX_THREADS:
        raise ConfigError(
            f"{os.fspath(path)}: num_batch_threads is {num_threads}; at most {_MAX_THREADS} make "
            "sense"
        )
    if parameters.pad_variable_length_inputs:
        # The answers are right without it, from more runs.
        logging.warning("%s: %s. Only equal shapes are merged here.", path, PADDING_WARNING)
    run_size = run_size_of(parameters)
    max_queue_rows = number_of(parameters, "max_enqueued_batches") * run_size
    return BatchingOptions(
        max_batch_size=run_size,
        batch_timeout_s=number_of(parameters, "batch_timeout_micros") / _MICROSECONDS_PER_S,
        max_queue_length=max_queue_rows,
        max_queue_rows=max_queue_rows,
        max_request_rows=number_of(parameters, "max_batch_size"),
        allowed_batch_sizes=tuple(parameters.allowed_batch_sizes),
        num_threads=num_threads,
    )
