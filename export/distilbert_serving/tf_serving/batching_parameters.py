"""TF Serving's BatchingParameters, the contents of `batching_params.pbtxt`: makes and reads them.

Reference: session_bundle_config.proto and bundle_factory_util.cc in
tensorflow_serving/servables/tensorflow; shared_batch_scheduler.h in
tensorflow/core/kernels/batching_util for defaults and checks.
"""

import os
from collections.abc import Sequence
from typing import Any, Literal

from absl import logging

from distilbert_serving.tf_serving.config_files import (
    ConfigError,
    check_positive,
    errors_name,
    read_config,
)
from distilbert_serving.tf_serving.config_protos import BatchingParameters

BATCHING_FILE = "batching_params.pbtxt"

EVERY_SIZE = "all"

FILLING_WARNING = (
    "a server fills up a batch of another size with copies of a row, which are computed for "
    "nothing, and dies if the row should come from a request without rows: leave "
    "allowed_batch_sizes out, or list every size from 1 on"
)

# How many full batches may wait for each thread. If a batch of 32 takes 0.2 s, a client that waits
# 2 s still gets its answer behind eight of them; whoever comes later gets UNAVAILABLE at once,
# and can try another replica.
_ENQUEUED_PER_THREAD = 8
_USUAL_THREADS = 8
_REQUEST_ROWS = 1024

# The server's, for what a file does not set.
_DEFAULTS = {
    "max_batch_size": 1000,
    "batch_timeout_micros": 0,
    "max_enqueued_batches": 10,
    "num_batch_threads": os.cpu_count() or 1,
}


def batching_parameters(
    max_batch_size: int = 32,
    max_latency_ms: float = 5.0,
    threads: int | None = None,
    *,
    max_request_rows: int | None = None,
    allowed_batch_sizes: Sequence[int] | Literal["all"] | None = None,
) -> Any:
    """Makes the parameters of a server's batching.

    A request of many rows fills up the open batch, and goes on in the next
    (`enable_large_batch_splitting`), so it may have more rows than a batch. Rows of token ids that
    differ in length are padded (`pad_variable_length_inputs`), with the first id of their request,
    which exports of this package never look at.

    A batch may have any number of rows. A GPU or XLA may want few sizes, each of which is compiled
    or tuned once; but mind `FILLING_WARNING`, which is logged where sizes are left out.

    Args:
        max_batch_size: Rows in one run of the graph.
        max_latency_ms: What batching may add to a request's latency, in milliseconds: how long the
            first of a batch waits for others. A batch that is full does not wait.
        threads: How many batches run at once. By default the server's number of processors; set it
            where a container has fewer than its machine. It counts in the server's own file
            alone (`--batching_parameters_file`): models share the threads.
        max_request_rows: Rows in one request, at least `max_batch_size`; more is INVALID_ARGUMENT.
            By default 1024, or `max_batch_size` if that is more.
        allowed_batch_sizes: The sizes that a run may have, up to `max_batch_size`, or "all" for
            each; by default they are not listed, and any will do.

    Returns:
        A `BatchingParameters` message.

    Raises:
        ConfigError: A number makes no sense.
    """
    check_positive("max_batch_size", max_batch_size)
    if max_request_rows is None:
        max_request_rows = max(_REQUEST_ROWS, max_batch_size)
    check_positive("max_request_rows", max_request_rows)
    if not 0 <= max_latency_ms < float("inf"):
        raise ConfigError(f"max_latency_ms must be at least 0, not {max_latency_ms}.")
    if max_request_rows < max_batch_size:
        raise ConfigError(
            f"max_request_rows must be at least max_batch_size, {max_batch_size}; it is "
            f"{max_request_rows}."
        )
    parameters = BatchingParameters()
    if threads is not None:
        check_positive("threads", threads)
        parameters.num_batch_threads.value = threads
    parameters.max_batch_size.value = max_request_rows
    parameters.max_execution_batch_size.value = max_batch_size
    parameters.enable_large_batch_splitting.value = True
    parameters.batch_timeout_micros.value = round(1000 * max_latency_ms)
    # At least two of the largest requests, or they would never be let in.
    parameters.max_enqueued_batches.value = max(
        _ENQUEUED_PER_THREAD * (threads or _USUAL_THREADS),
        2 * -(-max_request_rows // max_batch_size),
    )
    parameters.pad_variable_length_inputs = True
    if allowed_batch_sizes is not None:
        if allowed_batch_sizes == EVERY_SIZE:
            allowed_batch_sizes = range(1, max_batch_size + 1)
        parameters.allowed_batch_sizes.extend(int(size) for size in allowed_batch_sizes)
    check_batching_parameters(parameters)
    if skipped := find_skipped_sizes(parameters):
        logging.warning("No batch may have %s rows: %s.", skipped[0], FILLING_WARNING)
    return parameters


def find_skipped_sizes(parameters: Any) -> list[int]:
    """Lists the sizes that a batch may not have though a larger one may: it is filled up.

    Args:
        parameters: A `BatchingParameters` message.

    Returns:
        The sizes, ascending; none if `allowed_batch_sizes` is empty.
    """
    sizes = set(parameters.allowed_batch_sizes)
    return [size for size in range(1, max(sizes, default=0)) if size not in sizes]


def read_batching_parameters(path: str | os.PathLike[str]) -> Any:
    """Reads and checks a `BatchingParameters` file.

    Args:
        path: The file.

    Returns:
        The message.

    Raises:
        OSError: The file cannot be read.
        ConfigError: A server would refuse it.
    """
    parameters = read_config(path, BatchingParameters())
    with errors_name(path):
        check_batching_parameters(parameters)
    return parameters


def check_batching_parameters(parameters: Any) -> None:
    """Checks what a server checks.

    Args:
        parameters: A `BatchingParameters` message.

    Raises:
        ConfigError: A server would refuse them.
    """
    for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
        check_positive(name, number_of(parameters, name))
    if (timeout := number_of(parameters, "batch_timeout_micros")) < 0:
        raise ConfigError(f"batch_timeout_micros must be at least 0, not {timeout}.")
    if parameters.HasField("max_execution_batch_size"):
        if not parameters.enable_large_batch_splitting.value:
            raise ConfigError("max_execution_batch_size needs enable_large_batch_splitting.")
        check_positive("max_execution_batch_size", run_size_of(parameters))
        if run_size_of(parameters) > number_of(parameters, "max_batch_size"):
            raise ConfigError(
                "max_execution_batch_size must be at most max_batch_size, "
                f"{number_of(parameters, 'max_batch_size')}; it is {run_size_of(parameters)}."
            )
    sizes = list(parameters.allowed_batch_sizes)
    if sizes != sorted(set(sizes)) or (sizes and sizes[0] < 1):
        raise ConfigError(f"allowed_batch_sizes must be positive and ascend; they are {sizes}.")
    if sizes and sizes[-1] != run_size_of(parameters):
        has_run_size = parameters.HasField("max_execution_batch_size")
        raise ConfigError(
            "The last of allowed_batch_sizes must be "
            f"{'max_execution_batch_size' if has_run_size else 'max_batch_size'}, "
            f"{run_size_of(parameters)}; it is {sizes[-1]}."
        )


def number_of(parameters: Any, name: str) -> int:
    """Returns a number, or what a server takes where it is not set."""
    return getattr(parameters, name).value if parameters.HasField(name) else _DEFAULTS[name]


def run_size_of(parameters: Any) -> int:
    """Returns how many rows one run of the graph may have."""
    if parameters.HasField("max_execution_batch_size"):
        return parameters.max_execution_batch_size.value
    return number_of(parameters, "max_batch_size")
