"""The files beside a model that an operator would write: in its version, and for its server."""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from distilbert_serving.protoset import PROTOSET
from distilbert_serving.tf_serving.batching_parameters import (
    BATCHING_FILE,
    batching_parameters,
    run_size_of,
)
from distilbert_serving.tf_serving.config_files import ConfigError, write_config
from distilbert_serving.tf_serving.deploy_files import (
    POD_PROCESSORS,
    check_object_name,
    write_docker_files,
    write_kubernetes_files,
)
from distilbert_serving.tf_serving.environment import ENV_FILE
from distilbert_serving.tf_serving.serving_config import model_config, monitoring_config
from distilbert_serving.tf_serving.warmup import SignatureDefs, make_warmup, write_warmup
from distilbert_serving.version_numbers import find_versions
from distilbert_tf.files import replacing

MODELS_FILE = "models.config"
MONITORING_FILE = "monitoring.config"

_BATCHING_COMMENT = """\
Read with --enable_batching --enable_per_model_batching_parameters.
max_batch_size: rows in a request. max_execution_batch_size: rows in one run of the graph.
batch_timeout_micros: how long the first request of a batch waits for others.
max_enqueued_batches: more are turned away with UNAVAILABLE, which clients retry.
pad_variable_length_inputs: token ids of different lengths are merged; what pads them is not read.
allowed_batch_sizes: leave it out. Batches are filled up to a listed size, which is computed for
nothing, and a request without rows kills the server."""
_SERVER_BATCHING_COMMENT = """\
Read with --enable_batching --batching_parameters_file=FILE. With
--enable_per_model_batching_parameters only num_batch_threads counts here (the server's number of
processors if it is not set); the rest comes from the file of this name in each version, and a
version without one is not batched."""
_MODELS_COMMENT = """\
Read with --model_config_file=FILE, and again every --model_config_file_poll_wait_seconds=N.
A label moves to a version once that version is loaded. With labels, a server needs
--allow_version_labels_for_unavailable_models to start."""
_MONITORING_COMMENT = "Read with --monitoring_config_file=FILE; the metrics are on the REST port."


def write_serving_files(
    version_directory: str | os.PathLike[str],
    signature_defs: SignatureDefs,
    warmup: Iterable[str],
    parameters: Any = None,
    *,
    max_length: int = 16,
) -> list[Path]:
    """Adds batching parameters and warm-up requests to a SavedModel.

    Args:
        version_directory: Where `saved_model.pb` is.
        signature_defs: Its signatures by name.
        warmup: What clients will use, see `make_warmup`; nothing for no warm-up.
        parameters: What `batching_parameters` makes; by default without arguments.
        max_length: The longest row of token ids that the model takes.

    Returns:
        The files written.

    Raises:
        ValueError: No request can be made up for a signature.
    """
    directory = Path(version_directory)
    parameters = batching_parameters() if parameters is None else parameters
    # One row, as a lone request has, and a full run, whose memory later runs find. What is between
    # them runs the same graph; only where sizes are listed may each be compiled.
    sizes = sorted(parameters.allowed_batch_sizes or {1, run_size_of(parameters)})
    logs = make_warmup(signature_defs, warmup, sizes, max_length=max_length)
    written = [write_config(directory / BATCHING_FILE, parameters, _BATCHING_COMMENT)]
    if logs:
        written.append(write_warmup(directory, logs))
    return written


def write_server_files(
    output: str | os.PathLike[str],
    model_base_path: str | os.PathLike[str],
    *,
    model_name: str = "distilbert",
    served_path: str | None = None,
    policy: str | None = None,
    labels: Mapping[str, int] | None = None,
    max_batch_size: int = 32,
    max_latency_ms: float = 5.0,
    max_request_rows: int | None = None,
    threads: int | None = None,
    docker: bool = False,
    kubernetes: bool = False,
) -> list[Path]:
    """Writes what a server of one model is started with.

    Args:
        output: The directory for the files, made if missing; files of these names are replaced.
        model_base_path: Where the versions are here.
        model_name: The model's name on the server.
        served_path: Where the versions are for the server; by default `/models/<model_name>`.
        policy: The versions to serve: "latest", "latest:N", "all", or their numbers with commas.
            By default those with labels, or else the newest.
        labels: Version numbers by label.
        max_batch_size: Rows in one run of the graph.
        max_latency_ms: What batching may add to a request's latency, in milliseconds.
        max_request_rows: Rows in one request; see `batching_parameters`.
        threads: How many batches run at once; by default the server's number of processors, or
            with `kubernetes` as many as a pod has.
        docker: Whether to write a Dockerfile and a compose file, too.
        kubernetes: Whether to write manifests for Kubernetes and KServe, too.

    Returns:
        The files written: `models.config`, `batching_params.pbtxt`, `monitoring.config`,
        `tf_serving.env`, and for clients in other languages `tf_serving.protoset`; with `docker`
        `Dockerfile`, `compose.yaml` and `ready.sh`, with `kubernetes` `kubernetes.yaml` and
        `kserve.yaml`.

    Raises:
        FileNotFoundError: There are no versions, or not the one that a label or the policy names.
        ValueError: An option makes no sense.
    """
    labels = labels or {}
    policy_options = parse_policy(policy)
    served_path = served_path or f"/models/{model_name}"
    models = model_config({model_name: served_path}, labels=labels, **policy_options)
    if docker or kubernetes:
        check_object_name(model_name)
    if kubernetes:
        threads = threads or POD_PROCESSORS
    parameters = batching_parameters(
        max_batch_size, max_latency_ms, threads, max_request_rows=max_request_rows
    )
    wanted = {*labels.values(), *(policy_options.get("versions") or ())}
    _check_versions_exist(Path(model_base_path), wanted)
    directory = Path(output)
    directory.mkdir(parents=True, exist_ok=True)
    written = [
        write_config(directory / MODELS_FILE, models, _MODELS_COMMENT),
        write_config(directory / BATCHING_FILE, parameters, _SERVER_BATCHING_COMMENT),
        write_config(directory / MONITORING_FILE, monitoring_config(), _MONITORING_COMMENT),
    ]
    containers = []
    if docker:
        containers += write_docker_files(directory, model_name, served_path)
    if kubernetes:
        containers += write_kubernetes_files(directory, model_name, served_path, written)
    for file in (ENV_FILE, PROTOSET):
        with replacing(directory / file.name) as temporary:
            shutil.copyfile(file, temporary)
        written.append(directory / file.name)
    return [*written, *containers]


def parse_policy(policy: str | None) -> dict:
    """Reads a policy from a command line.

    Args:
        policy: "latest", "latest:N", "all", numbers with commas, or None.

    Returns:
        Arguments of `serving_config.model_config`.

    Raises:
        ConfigError: It is none of those.
    """
    if policy is None:
        return {}
    kind, colon, count = policy.partition(":")
    if policy == "all":
        return {"all_versions": True}
    if kind == "latest" and (not colon or _is_number(count)):
        return {"num_versions": int(count or 1)}
    numbers = policy.split(",")
    if all(map(_is_number, numbers)):
        return {"versions": [int(number) for number in numbers]}
    raise ConfigError(
        f"The policy must be latest, latest:N, all, or version numbers with commas; got {policy!r}."
    )


def parse_labels(pairs: Iterable[str]) -> dict[str, int]:
    """Reads labels from a command line.

    Args:
        pairs: "LABEL:VERSION" each.

    Raises:
        ConfigError: One is something else, or a label comes twice.
    """
    labels: dict[str, int] = {}
    for pair in pairs:
        label, _, version = pair.rpartition(":")
        if not label or not _is_number(version):
            raise ConfigError(f"A label is written LABEL:VERSION, such as stable:3; got {pair!r}.")
        if label in labels:
            raise ConfigError(f"Label {label!r} is given twice.")
        labels[label] = int(version)
    return labels


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _check_versions_exist(base_path: Path, wanted: set[int]) -> None:
    there = find_versions(base_path) if base_path.is_dir() else {}
    if not there:
        raise FileNotFoundError(f"There are no versions of a model in {base_path}.")
    if missing := wanted - there.keys():
        raise FileNotFoundError(
            f"There is no version {min(missing)} in {base_path}, but {sorted(there)}."
        )
