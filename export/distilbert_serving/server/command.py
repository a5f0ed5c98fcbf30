"""From the flags of `distilbert-tf serve` to a server that runs until a signal."""

from typing import Any

from distilbert_serving.server import tls
from distilbert_serving.server.batching_config import read_batching_options
from distilbert_serving.server.model_config import read_settings_file
from distilbert_serving.server.model_server import ModelServer, serve
from distilbert_serving.server.versions import LoadOptions
from distilbert_serving.tf_serving.serving_config import metrics_path_of, read_monitoring_config


def run(flags: Any) -> None:
    """Serves until SIGINT or SIGTERM.

    Args:
        flags: Values by name, as attributes: those of `tensorflow_model_server`, and `host`,
            `grace_s`, `load_retry_interval_s`, `max_message_bytes`.

    Raises:
        OSError: a file is missing, nothing can be served, or a port is taken.
        ValueError: flags contradict each other, or a file is wrong.
    """
    serve(make_server(flags), flags.grace_s)


def make_server(flags: Any) -> ModelServer:
    """Makes the server that the flags describe; see `run`."""
    if (flags.model_base_path is None) == (flags.model_config_file is None):
        raise ValueError("Give either --model_base_path or --model_config_file.")
    if flags.batching_parameters_file and not flags.enable_batching:
        raise ValueError("--batching_parameters_file needs --enable_batching.")
    monitoring_path = None
    if flags.monitoring_config_file:
        monitoring_path = metrics_path_of(read_monitoring_config(flags.monitoring_config_file))
        if monitoring_path and not flags.rest_api_port:
            raise ValueError("--monitoring_config_file needs --rest_api_port.")
    return ModelServer(
        flags.model_base_path,
        flags.model_name,
        flags.host,
        flags.port,
        models=read_settings_file(flags.model_config_file) if flags.model_config_file else None,
        batching=(
            read_batching_options(flags.batching_parameters_file)
            if flags.batching_parameters_file
            else None
        ),
        enable_batching=flags.enable_batching,
        loading=LoadOptions(
            flags.file_system_poll_wait_seconds,
            flags.max_num_load_retries,
            flags.load_retry_interval_s,
        ),
        max_message_bytes=flags.max_message_bytes,
        grpc_max_threads=flags.grpc_max_threads,
        allow_version_labels_for_unavailable_models=(
            flags.allow_version_labels_for_unavailable_models
        ),
        enable_health_service=flags.enable_grpc_healthcheck_service,
        rest_port=flags.rest_api_port or None,
        monitoring_path=monitoring_path,
        ssl_config=tls.read_ssl_config(flags.ssl_config_file) if flags.ssl_config_file else None,
    )
