"""The subcommand `serve`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

from distilbert_tf.commands.common_flags import UsageError, define_flag
from distilbert_tf.tensorflow_import import import_tensorflow


class _Setting(NamedTuple):
    """A setting of a server as a flag.

    Attributes:
        help: What it means.
        name: The flag's name as in `tensorflow_model_server`, if that is not the setting's.
        minimum: The smallest number.
        maximum: The largest number.
        kind: The type of the flag, if it is not the default's.
    """

    help: str
    name: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    kind: type | None = None


_SETTINGS = {
    "model_base_path": _Setting("directory with numbered versions"),
    "model_name": _Setting("name of the served model"),
    "host": _Setting("address of the server"),
    "port": _Setting("port of the server", None, 0, 65535),
    "models": _Setting("ModelServerConfig: several models, versions, labels", "model_config_file"),
    "allow_version_labels_for_unavailable_models": _Setting(
        "accept labels of versions that are not loaded"
    ),
    "enable_batching": _Setting("merge concurrent requests"),
    "batching": _Setting(
        "BatchingParameters for models without a batching_params.pbtxt of their own",
        "batching_parameters_file",
    ),
    "poll_wait_s": _Setting(
        "how often to look for new versions; 0 or less: only at the start",
        "file_system_poll_wait_seconds",
    ),
    "max_num_load_retries": _Setting("how often to try again what cannot be loaded", None, 0),
    "load_retry_interval_s": _Setting(
        "how long to wait before loading again what could not be loaded", None, 0.0
    ),
    "grpc_max_threads": _Setting("requests over gRPC at the same time", None, 1),
    "max_message_bytes": _Setting("size of the largest request", None, 1, 2**31 - 1),
    "enable_health_service": _Setting(
        "answer gRPC health checks", "enable_grpc_healthcheck_service"
    ),
    "rest_port": _Setting("port of the REST API; 0 for none", "rest_api_port", 0, 65535, int),
    "monitoring_path": _Setting(
        "MonitoringConfig: a page for Prometheus on the REST port", "monitoring_config_file"
    ),
    "ssl_config": _Setting("SSLConfig: TLS on the gRPC port", "ssl_config_file"),
    "grace_s": _Setting("how long requests may take to finish at the end", None, 0.0),
}


def define_serve(values: flags.FlagValues) -> None:
    """Defines the flags of `serve`, named as those of `tensorflow_model_server`."""
    from distilbert_serving.server.options import ServerOptions

    for name, setting in _SETTINGS.items():
        default = getattr(ServerOptions, name)
        define_flag(
            values,
            setting.name or name,
            0 if setting.kind is int else default,
            setting.help,
            kind=setting.kind,
            minimum=setting.minimum,
            maximum=setting.maximum,
        )
    _define_tls(values)


def _define_tls(values: flags.FlagValues) -> None:
    define_flag(values, "tls_key", None, "PEM file: the gRPC port's private key", kind=str)
    define_flag(values, "tls_cert", None, "PEM file: its certificate", kind=str)
    text = "PEM file: who must have signed the certificates of clients (mutual TLS)"
    define_flag(values, "tls_client_ca", None, text, kind=str)


def _read_tls(values: flags.FlagValues) -> Any:
    """Returns the `SSLConfig` of the flags, whichever way they give it; None without TLS."""
    from distilbert_serving.tf_serving.ssl_config import make_ssl_config, read_ssl_config

    key, certificate, authority = values.tls_key, values.tls_cert, values.tls_client_ca
    if not (key or certificate or authority):
        return read_ssl_config(values.ssl_config_file) if values.ssl_config_file else None
    if values.ssl_config_file:
        raise UsageError("--ssl_config_file holds keys and certificates, as do --tls_...: pass one")
    if not (key and certificate):
        raise UsageError("TLS needs both --tls_key and --tls_cert")
    return make_ssl_config(key, certificate, authority)


def run_serve(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Serves until a signal."""
    if not (values.model_config_file or values.model_base_path):
        raise UsageError("--model_base_path (or --model_config_file) is required")
    from distilbert_serving.tf_serving.environment import set_serving_environment

    settings = read_server_settings(values)
    set_serving_environment()  # before the server's module imports TensorFlow
    import_tensorflow()
    from distilbert_serving.server import ModelServer, serve

    serve(ModelServer(**settings))


def read_server_settings(values: flags.FlagValues) -> dict[str, Any]:
    """Reads the settings of a server, and the files that they name.

    Raises:
        OSError: A file cannot be read.
        ConfigError: A file is wrong.
    """
    from distilbert_serving.tf_serving import batching_parameters, serving_config

    readers = {
        "models": serving_config.read_model_config,
        "batching": batching_parameters.read_batching_parameters,
        "monitoring_path": lambda path: serving_config.metrics_path_of(
            serving_config.read_monitoring_config(path)
        ),
    }
    settings = {name: values[setting.name or name].value for name, setting in _SETTINGS.items()}
    for name, read in readers.items():
        settings[name] = read(settings[name]) if settings[name] else None
    settings["ssl_config"] = _read_tls(values)
    return {**settings, "rest_port": settings["rest_port"] or None}
