"""The subcommands that export, serve and query: their flags, and what they call."""

import json
from collections.abc import Sequence
from typing import Any

from absl import flags

from distilbert_tf.command_parts import (
    define_max_length,
    define_pair,
    read_texts,
    required,
    say,
    split_pair,
)


def define_export(values: flags.FlagValues) -> None:
    """Defines the flags of `export`."""
    flags.DEFINE_string(
        "model",
        None,
        "checkpoint: a directory or a name on the hub; for several tasks on one encoder a list "
        "with commas, or the directory that holds theirs",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output", None, "base path; the model goes to <output>/<version>/", flag_values=values
    )
    flags.DEFINE_integer(
        "version", None, "number of the version; the next free one if not given", 1,
        flag_values=values,
    )  # fmt: skip
    define_max_length(values)
    flags.DEFINE_boolean(
        "pair",
        None,
        "whether every task has two texts; what each checkpoint says if not given",
        flag_values=values,
    )


def run_export(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Exports a model."""
    from export.saved_model import export_pretrained

    models = [name for name in required(values, "model").split(",") if name]
    path = export_pretrained(
        models[0] if len(models) == 1 else models,
        required(values, "output"),
        version=values.version,
        max_length=values.max_length,
        pair=values.pair,
    )
    say(f"exported and verified: {path}")


def _define_address(values: flags.FlagValues) -> None:
    flags.DEFINE_string("model_name", "distilbert", "name of the served model", flag_values=values)
    flags.DEFINE_string("host", "127.0.0.1", "address of the server", flag_values=values)
    flags.DEFINE_integer("port", 8500, "port of the server", 0, 65535, flag_values=values)


def define_serve(values: flags.FlagValues) -> None:
    """Defines the flags of `serve`, named as those of `tensorflow_model_server`."""
    _define_address(values)
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
        ("ssl_config_file", "SSLConfig: TLS on both ports"),
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
    from export.environment import set_serving_environment

    set_serving_environment()  # before the server's module imports TensorFlow
    from export.server import command

    command.run(values)


def define_query(values: flags.FlagValues) -> None:
    """Defines the flags of `query`."""
    _define_address(values)
    flags.DEFINE_float("timeout_s", 10.0, "deadline of each call", 0.001, flag_values=values)
    flags.DEFINE_float(
        "wait_s", 0.0, "how long to wait for the server to be ready", 0.0, flag_values=values
    )
    flags.DEFINE_string(
        "signature",
        "serving_default",
        "endpoint of the model; of one for several tasks, a task's name",
        flag_values=values,
    )
    flags.DEFINE_boolean("json", False, "one JSON object a line", flag_values=values)
    define_pair(values)


def run_query(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Asks a server."""
    from export.client import PredictClient

    texts = list(read_texts(words))
    inputs: tuple[Any, ...] = (texts,)
    if values.pair:
        inputs = tuple(zip(*map(split_pair, texts), strict=True)) or ((), ())
    target = f"{values.host}:{values.port}"
    with PredictClient(target, values.model_name, timeout_s=values.timeout_s) as client:
        if values.wait_s:
            client.wait_until_ready(values.wait_s)
        answers = client.predict(*inputs, signature_name=values.signature)
        for text, answer in zip(texts, answers, strict=True):
            if values.json:
                row = {
                    "text": text,
                    "label": answer.label,
                    "probabilities": [round(float(p), 6) for p in answer.probabilities],
                }
                say(json.dumps(row, ensure_ascii=False))
            else:
                say(f"{answer.label}\t{answer.score:.4f}\t{text}")
