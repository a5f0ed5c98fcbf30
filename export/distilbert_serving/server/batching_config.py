"""From TF Serving's BatchingParameters to how this server merges requests.

`batch_timeout_micros` is read, but not used: here a thread that is free runs what waits at once.
"""

import os

from absl import logging

from distilbert_serving.server.batching_options import BatchingOptions
from distilbert_serving.tf_serving.batching_parameters import (
    FILLING_WARNING,
    find_skipped_sizes,
    number_of,
    read_batching_parameters,
    run_size_of,
)
from distilbert_serving.tf_serving.config_files import ConfigError

# Each is a thread here; TF Serving has its threads in C++.
_MAX_THREADS = 64


def read_batching_options(path: str | os.PathLike[str]) -> BatchingOptions:
    """Reads a `BatchingParameters` file, and warns of one under which a server can die.

    Raises:
        OSError: It cannot be read.
        ConfigError: It is no BatchingParameters, or a field has a senseless value; the message
            names file and field.
    """
    parameters = read_batching_parameters(path)
    num_threads = number_of(parameters, "num_batch_threads")
    if num_threads > _MAX_THREADS:
        raise ConfigError(
            f"{os.fspath(path)}: num_batch_threads is {num_threads}; at most {_MAX_THREADS} make "
            "sense"
        )
    skipped_sizes = find_skipped_sizes(parameters)
    if skipped_sizes:
        logging.warning(
            "%s: no batch may have %d rows: %s", path, skipped_sizes[0], FILLING_WARNING
        )
    return BatchingOptions(
        max_batch_size=number_of(parameters, "max_batch_size"),
        max_execution_batch_size=run_size_of(parameters),
        enable_large_batch_splitting=parameters.enable_large_batch_splitting.value,
        max_enqueued_batches=number_of(parameters, "max_enqueued_batches"),
        # A list of every size is as good as none.
        allowed_batch_sizes=tuple(parameters.allowed_batch_sizes) if skipped_sizes else (),
        pad_variable_length_inputs=parameters.pad_variable_length_inputs,
        num_threads=num_threads,
    )
