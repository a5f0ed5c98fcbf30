"""TF Serving's BatchingParameters, the contents of `batching_params.pbtxt`: makes and reads them.

Reference: session_bundle_config.proto and bundle_factory_util.cc in
tensorflow_serving/servables/tensorflow; shared_batch_scheduler.h in
tensorflow/core/kernels/batching_util for defaults and checks.
"""

import os
from typing import Any

from export.configuration.config_files import ConfigError, check_positive, errors_name, read_config
from export.configuration.config_protos import BatchingParameters

BATCHING_FILE = "batching_params.pbtxt"

PADDING_WARNING = (
    "pad_variable_length_inputs pads rows of ids with their first element, [CLS], which a model "
    "would read: leave it off"
)

# How many full batches may wait for each thread. If a batch of 32 takes 0.2 s, a client that waits
# 2 s still gets its answer behind eight of them; who would come later hears UNAVAILABLE at once,
# and can try another replica.
_ENQUEUED_PER_THREAD = 8
_USUAL_THREADS = 8

# The server's, for what a file does not set.
_DEFAULTS = {
    "max_batch_size": 1000,
    "batch_timeout_micros": 0,
    "max_enqueued_batches": 10,
    "num_batch_threads": os.cpu_count() or 1,
}


def allowed_batch_sizes(max_batch_size: int) -> list[int]:
    """Lists the sizes to which a server fills up batches: 1, 2, 4, 8, 10, 12, 14, 16, 20, ...

    Few sizes mean that warm-up can meet them all, many that little is computed for nothing. Small
    runs cost much the same, so their sizes double; from 8 on each doubling has four steps, and less
    than a fifth of a batch is filling.

    Args:
        max_batch_size: The largest, in rows.

    Raises:
        ConfigError: It is less than 1.
    """
    check_positive("max_batch_size", max_batch_size)
    sizes = [1]
    while sizes[-1] < max_batch_size:
        size = sizes[-1]
        doubling = 2 ** (size.bit_length() - 1)
        sizes.append(min(size + (doubling if size < 8 else doubling // 4), max_batch_size))
    return sizes


def batching_parameters(
    max_batch_size: int = 32, max_latency_ms: float = 5.0, threads: int | None = None
) -> Any:
    """Makes the parameters of a server's batching.

    `pad_variable_length_inputs` stays off: it pads rows of ids with their first element, [CLS],
    which the model would read; texts need no padding, as they are one string each.

    `enable_large_batch_splitting` is on: a request of many rows fills up the open batch, and goes
    on in the next. One of more than `max_batch_size` rows is an INVALID_ARGUMENT all the same.

    Args:
        max_batch_size: Rows in one run of the graph, and in one request.
        max_latency_ms: What batching may add to a request's latency, in milliseconds: how long the
            first of a batch waits for others. A batch that is full does not wait.
        threads: How many batches run at once. By default the server's number of processors; set it
            where a container has fewer than its machine. It counts in the server's own file
            alone (`--batching_parameters_file`): models share the threads.

    Returns:
        A `BatchingParameters` message.

    Raises:
        ConfigError: A number makes no sense.
    """
    parameters = BatchingParameters()
    parameters.allowed_batch_sizes.extend(allowed_batch_sizes(max_batch_size))
    if not 0 <= max_latency_ms < float("inf"):
        raise ConfigError(f"max_latency_ms must be at least 0, not {max_latency_ms}.")
    if threads is not None:
        check_positive("threads", threads)
        parameters.num_batch_threads.value = threads
    parameters.max_batch_size.value = max_batch_size
    parameters.batch_timeout_micros.value = round(1000 * max_latency_ms)
    parameters.max_enqueued_batches.value = _ENQUEUED_PER_THREAD * (threads or _USUAL_THREADS)
    parameters.pad_variable_length_inputs = False
    parameters.enable_large_batch_splitting.value = True
    return parameters


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
    """Gives a number, or what a server takes where it is not set."""
    return getattr(parameters, name).value if parameters.HasField(name) else _DEFAULTS[name]


def run_size_of(parameters: Any) -> int:
    """Gives how many rows one run of the graph may have."""
    if parameters.HasField("max_execution_batch_size"):
        return parameters.max_execution_batch_size.value
    return number_of(parameters, "max_batch_size")
