"""The subcommand `serve`."""

from collections.abc import Sequence

from absl import flags

from distilbert_tf.commands.common_flags import define_address, required


def define_serve(values: flags.FlagValues) -> None:
    """Defines the flags of `serve`, named as those of `tensorflow_model_server`."""
    define_address(values)
    flags.DEFINE_integer(
        "rest_api_port", 0, "port of the REST API; 0 for none", 0, 65535, flag_values=values
    )
    for name, text in (
        ("model_base_path", "directory with numbered versions"),
        ("model_config_file", "ModelServerConfig: several models, versions, labels"),
        (
            "batching_parameters_file",
            "BatchingParameters for models without a batching_params.pbtxt of their own",
        ),
        ("ssl_config_file", "SSLConfig: TLS on the gRPC port"),
        ("monitoring_config_file", "MonitoringConfig: a page for Prometheus on the REST port"),
    ):
        flags.DEFINE_string(name, None, text, flag_values=values)
    flags.DEFINE_boolean("enable_batching", True, "merge concurrent requests", flag_values=values)
    flags.DEFINE_boolean(
        "enable_grpc_healthcheck_service", True, "answer gRPC health checks", flag_values=values
    )
    flags.DEFINE_boolean(
        "allow_version_labels_for_unavailable_models",
        False,
        "accept labels of versions that are not loaded",
        flag_values=values,
    )
    flags.DEFINE_float(
        "file_system_poll_wait_seconds",
        1.0,
        "how often to look for new versions; 0 or less: only at the start",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_num_load_retries", 5, "how often to try again what cannot be loaded", 0,
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_float(
        "load_retry_interval_s", 60.0, "how long to wait before that", 0.0, flag_values=values
    )
    flags.DEFINE_integer(
        "grpc_max_threads", 320, "requests over gRPC at the same time", 1, flag_values=values
    )
    flags.DEFINE_integer(
        "max_message_bytes", 2**31 - 1, "size of the largest request", 1, 2**31 - 1,
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_float(
        "grace_s", 5.0, "how long requests may take to finish at the end", 0.0, flag_values=values
    )


def run_serve(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Serves until a signal."""
    if not values.model_config_file:
        required(values, "model_base_path")
    from distilbert_serving.tf_serving.environment import set_serving_environment

    set_serving_environment()  # before the server's module imports TensorFlow
    from distilbert_serving.server import command

    command.run(values)
