"""Which models to serve, and which of their versions: TF Serving's ModelServerConfig.

Reference: model_server_config.proto and file_system_storage_path_source.proto in
tensorflow_serving; server_core.cc in tensorflow_serving/model_servers for the checks.
"""

import dataclasses
import os
import pathlib
from collections.abc import Collection, Mapping

from distilbert_serving.protos import model_server_config_pb2
from distilbert_serving.tf_serving.config_files import errors_name
from distilbert_serving.tf_serving.serving_config import read_model_config

_PLATFORM = "tensorflow"


@dataclasses.dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions that are there to serve.

    Args:
        latest: So many with the greatest numbers.
        specific: These, if there are any here; `latest` then doesn't matter.
        all: All of them; the others then don't matter.
    """

    latest: int = 1
    specific: tuple[int, ...] = ()
    all: bool = False

    def choose(self, versions: Collection[int]) -> list[int]:
        """Gives the versions to serve of those that are there, newest first."""
        newest_first = sorted(versions, reverse=True)
        if self.all:
            return newest_first
        if self.specific:
            return [version for version in newest_first if version in self.specific]
        return newest_first[: self.latest]


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """A model to serve.

    Args:
        name: The name that requests use.
        base_path: The directory whose sub-directories with numbers for names are versions.
        policy: Which of them to serve.
        labels: Versions by label.
    """

    name: str
    base_path: pathlib.Path
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)


def read_settings_file(path: str | os.PathLike[str]) -> list[ModelSettings]:
    """Reads a model config file, as for TF Serving's `--model_config_file`.

    Raises:
        OSError: it cannot be read.
        ConfigError: it is no ModelServerConfig, or says what cannot be served.
    """
    config = read_model_config(path)
    with errors_name(path):
        return read_settings(config)


def read_settings(config: model_server_config_pb2.ModelServerConfig) -> list[ModelSettings]:
    """Reads a ModelServerConfig.

    Raises:
        ValueError: it says what cannot be served.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise ValueError("Only a model_config_list is supported.")
    models = [_read_model(model) for model in config.model_config_list.config]
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"Illegal to list model {name} multiple times in config list")
    return models


def _read_model(config: model_server_config_pb2.ModelConfig) -> ModelSettings:
    if not config.name:
        raise ValueError("A model has no name.")
    where = f"Model {config.name}"
    if not config.base_path:
        raise ValueError(f"{where} has no base_path.")
    if config.model_type:
        raise ValueError(f"{where}: model_type is deprecated; set model_platform instead.")
    if config.model_platform != _PLATFORM:
        raise ValueError(
            f"{where}: model_platform is {config.model_platform!r}; it must be {_PLATFORM!r}."
        )
    proto = config.model_version_policy
    policy = VersionPolicy(
        latest=proto.latest.num_versions or 1,
        specific=tuple(proto.specific.versions),
        all=proto.HasField("all"),
    )
    if proto.HasField("specific") and not policy.specific:
        raise ValueError(f"{where}: model_version_policy.specific lists no versions.")
    labels = dict(config.version_labels)
    return ModelSettings(config.name, pathlib.Path(config.base_path), policy, labels)
