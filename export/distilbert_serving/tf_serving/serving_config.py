"""TF Serving's configuration of models, their versions and labels, and of monitoring.

Reference: tensorflow_serving/config/model_server_config.proto and monitoring_config.proto;
model_servers/server_core.cc for the checks, and http_server.cc for the default path.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from distilbert_serving.protos import model_server_config_pb2
from distilbert_serving.tf_serving.config_files import (
    ConfigError,
    check_positive,
    errors_name,
    read_config,
)
from distilbert_serving.tf_serving.config_protos import MonitoringConfig

METRICS_PATH = "/monitoring/prometheus/metrics"

_PLATFORM = "tensorflow"
# What stands between slashes and colons in REST paths: /v1/models/NAME/labels/LABEL:predict.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)


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


def read_model_config(path: str | os.PathLike[str]) -> Any:
    """Reads and checks a `ModelServerConfig` file.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be read.
        ConfigError: It is no `ModelServerConfig`, or a server would refuse it.
    """
    config = read_config(path, model_server_config_pb2.ModelServerConfig())
    with errors_name(path):
        check_model_config(config)
    return config


def check_model_config(config: Any) -> None:
    """Checks what a server checks.

    Args:
        config: A `ModelServerConfig` message.

    Raises:
        ConfigError: A server would refuse it.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise ConfigError("Only a model_config_list is supported.")
    names = set()
    for model in config.model_config_list.config:
        if not model.name:
            raise ConfigError("A model has no name.")
        if model.name in names:
            raise ConfigError(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
        if not model.base_path:
            raise ConfigError(f"Model {model.name} has no base_path.")
        if model.model_type or model.model_platform != _PLATFORM:
            raise ConfigError(
                f"Model {model.name}: model_platform is {model.model_platform!r}; it must be "
                f"{_PLATFORM!r}, and model_type must not be set."
            )
        policy = model.model_version_policy
        if policy.HasField("specific") and not policy.specific.versions:
            raise ConfigError(f"Model {model.name}: its specific versions are none.")


def monitoring_config(path: str = METRICS_PATH) -> Any:
    """Switches on metrics for Prometheus, on the server's REST port.

    Args:
        path: Where they are.

    Returns:
        A `MonitoringConfig` message.

    Raises:
        ConfigError: The path does not begin with a slash.
    """
    config = MonitoringConfig()
    config.prometheus_config.enable = True
    config.prometheus_config.path = path
    metrics_path_of(config)
    return config


def read_monitoring_config(path: str | os.PathLike[str]) -> Any:
    """Reads and checks a `MonitoringConfig` file.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be read.
        ConfigError: It is no `MonitoringConfig`, or a server would refuse it.
    """
    config = read_config(path, MonitoringConfig())
    with errors_name(path):
        metrics_path_of(config)
    return config


def metrics_path_of(config: Any) -> str | None:
    """Returns the path of the metrics on the server's REST port; None if there are to be none.

    Args:
        config: A `MonitoringConfig` message.

    Raises:
        ConfigError: The path does not begin with a slash.
    """
    if not config.prometheus_config.enable:
        return None
    path = config.prometheus_config.path or METRICS_PATH
    if not path.startswith("/"):
        raise ConfigError(f"prometheus_config.path must begin with a slash; it is {path!r}.")
    return path


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
        check_positive("num_versions", num_versions)
    if versions is not None and not versions:
        raise ConfigError("versions is empty: no version would be served.")
    for version in versions or ():
        check_positive("A version", version)
    for label, version in labels.items():
        check_positive(f"The version of label {label!r}", version)
        if versions is not None and version not in versions:
            raise ConfigError(
                f"Label {label!r} is on version {version}, which is not served: {list(versions)}."
            )
    if num_versions is not None and num_versions < len(set(labels.values())):
        raise ConfigError(
            f"The labels are on {len(set(labels.values()))} versions, but num_versions="
            f"{num_versions} are served."
        )
