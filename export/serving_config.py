"""TF Serving's configuration: batching, models with versions and labels, monitoring.

All are protocol buffers in text form, made and read with the server's own messages, and checked for
what the server would refuse.

Reference: tensorflow_serving/servables/tensorflow/bundle_factory_util.cc,
model_servers/server_core.cc and config/model_server_config.proto.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import text_format

from export.config_protos import BatchingParameters, MonitoringConfig
from export.protos import model_server_config_pb2

BATCHING_FILE = "batching_params.pbtxt"
METRICS_PATH = "/monitoring/prometheus/metrics"

# How many full batches may wait for each thread. If a batch of 32 takes 0.2 s, a client that waits
# 2 s still gets its answer behind eight of them; who would come later hears UNAVAILABLE at once,
# and can try another replica.
_ENQUEUED_PER_THREAD = 8
_USUAL_THREADS = 8

_PLATFORM = "tensorflow"
# What stands between slashes and colons in REST paths: /v1/models/NAME/labels/LABEL:predict.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)

_Message = TypeVar("_Message")


class ConfigError(ValueError):
    """A configuration that a server would refuse, or that cannot mean what was wanted."""


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
    _check_positive("max_batch_size", max_batch_size)
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
        _check_positive("threads", threads)
        parameters.num_batch_threads.value = threads
    parameters.max_batch_size.value = max_batch_size
    parameters.batch_timeout_micros.value = round(1000 * max_latency_ms)
    parameters.max_enqueued_batches.value = _ENQUEUED_PER_THREAD * (threads or _USUAL_THREADS)
    parameters.pad_variable_length_inputs = False
    parameters.enable_large_batch_splitting.value = True
    return parameters


def check_batching_parameters(parameters: Any) -> None:
    """Checks what a server checks.

    Args:
        parameters: A `BatchingParameters` message.

    Raises:
        ConfigError: A server would refuse them, or the model's answers would be wrong under them.
    """
    for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
        if parameters.HasField(name):
            _check_positive(name, getattr(parameters, name).value)
    if parameters.batch_timeout_micros.value < 0:
        raise ConfigError(
            f"batch_timeout_micros must be at least 0, not {parameters.batch_timeout_micros.value}."
        )
    sizes = list(parameters.allowed_batch_sizes)
    if sizes != sorted(set(sizes)) or (sizes and sizes[0] < 1):
        raise ConfigError(f"allowed_batch_sizes must be positive and ascend; they are {sizes}.")
    if sizes and sizes[-1] != parameters.max_batch_size.value:
        raise ConfigError(
            f"The last of allowed_batch_sizes must be max_batch_size, "
            f"{parameters.max_batch_size.value}; it is {sizes[-1]}."
        )
    if parameters.pad_variable_length_inputs:
        raise ConfigError(
            "pad_variable_length_inputs pads rows of ids with their first element, [CLS], which "
            "the model would read: leave it off."
        )


def model_config(
    models: Mapping[str, str],
    *,
    num_versions: int | None = None,
    versions: Sequence[int] | None = None,
    all_versions: bool = False,
    labels: Mapping[str, int] | None = None,
) -> Any:
    """Says which models a server has, and which versions of them.

    Without any of the options the newest version is served. With labels alone, the versions that
    they name; a new one then waits for a label. Versions and labels are those of one model: merge
    (`MergeFrom`) what this function makes for each.

    A server that starts with labels wants `--allow_version_labels_for_unavailable_models`, since it
    reads them before it has loaded anything.

    Args:
        models: Base paths by model name, as the server sees them: absolute, or with a scheme.
        num_versions: Serve so many of the newest versions.
        versions: Serve these versions.
        all_versions: Serve all versions.
        labels: Version numbers by label, such as `{"stable": 3, "canary": 4}`.

    Returns:
        A `ModelServerConfig` message.

    Raises:
        ConfigError: A name, path or number cannot be, or the options contradict each other.
    """
    if not models:
        raise ConfigError("There must be a model.")
    if (num_versions is not None) + (versions is not None) + all_versions > 1:
        raise ConfigError("Give one of num_versions, versions and all_versions.")
    if len(models) > 1 and (versions is not None or labels):
        raise ConfigError(
            f"versions and labels are those of one model, but there are {sorted(models)}."
        )
    _check_versions(num_versions, versions, labels or {})
    if labels and versions is None and num_versions is None and not all_versions:
        versions = sorted(set(labels.values()))
    config = model_server_config_pb2.ModelServerConfig()
    for name, base_path in models.items():
        _check_name("name of a model", name)
        if not (base_path.startswith("/") or "://" in base_path):
            raise ConfigError(
                f"The base path of model {name!r} must be absolute, or have a scheme; it is "
                f"{base_path!r}."
            )
        model = config.model_config_list.config.add(
            name=name, base_path=base_path, model_platform=_PLATFORM
        )
        policy = model.model_version_policy
        if all_versions:
            policy.all.SetInParent()
        elif versions is not None:
            policy.specific.versions.extend(versions)
        else:
            policy.latest.num_versions = 1 if num_versions is None else num_versions
        for label, version in (labels or {}).items():
            _check_name("label", label)
            model.version_labels[label] = version
    return config


def monitoring_config(path: str = METRICS_PATH) -> Any:
    """Switches on metrics for Prometheus, on the server's REST port.

    Args:
        path: Where they are.

    Returns:
        A `MonitoringConfig` message.

    Raises:
        ConfigError: The path does not begin with a slash.
    """
    if not path.startswith("/"):
        raise ConfigError(f"The path of the metrics must begin with a slash; it is {path!r}.")
    config = MonitoringConfig()
    config.prometheus_config.enable = True
    config.prometheus_config.path = path
    return config


def write_config(path: str | os.PathLike[str], message: Any, comment: str = "") -> Path:
    """Writes a message as text, by one rename: a server may be reading.

    Args:
        path: The file.
        message: A message of this module.
        comment: What to say at the file's beginning.

    Returns:
        The file.
    """
    lines = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(lines + text_format.MessageToString(message), encoding="utf-8")
    return unfinished.replace(path)


def read_batching_parameters(path: str | os.PathLike[str]) -> Any:
    """Reads and checks a `BatchingParameters` file.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is none.
        ConfigError: A server would refuse it.
    """
    parameters = _read(path, BatchingParameters())
    try:
        check_batching_parameters(parameters)
    except ConfigError as error:
        raise ConfigError(f"{os.fspath(path)}: {error}") from error
    return parameters


def read_model_config(path: str | os.PathLike[str]) -> Any:
    """Reads a `ModelServerConfig` file.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is none.
        ConfigError: A server would refuse it.
    """
    return _read(path, model_server_config_pb2.ModelServerConfig())


def read_monitoring_config(path: str | os.PathLike[str]) -> Any:
    """Reads a `MonitoringConfig` file.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is none.
        ConfigError: A server would refuse it.
    """
    return _read(path, MonitoringConfig())


def _read(path: str | os.PathLike[str], message: _Message) -> _Message:
    text = Path(path).read_text(encoding="utf-8")
    try:
        return text_format.Parse(text, message)  # type: ignore[type-var]
    except text_format.ParseError as error:
        # Its message begins with line and column.
        raise ConfigError(
            f"{os.fspath(path)}:{error} (it should be a {type(message).__name__})"
        ) from error


def _check_positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be an integer of at least 1, not {value!r}.")


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the {what}: it must consist of letters, digits, '_', '.' and '-', "
            "and begin with a letter or digit."
        )


def _check_versions(
    num_versions: int | None, versions: Sequence[int] | None, labels: Mapping[str, int]
) -> None:
    """Checks numbers, and that every label can be on a version that is loaded."""
    if num_versions is not None:
        _check_positive("num_versions", num_versions)
    if versions is not None and not versions:
        raise ConfigError("versions is empty: no version would be served.")
    for version in versions or ():
        _check_positive("A version", version)
    for label, version in labels.items():
        _check_positive(f"The version of label {label!r}", version)
        if versions is not None and version not in versions:
            raise ConfigError(
                f"Label {label!r} is on version {version}, which is not served: {list(versions)}."
            )
    if num_versions is not None and num_versions < len(set(labels.values())):
        raise ConfigError(
            f"The labels are on {len(set(labels.values()))} versions, but num_versions="
            f"{num_versions} are served."
        )
