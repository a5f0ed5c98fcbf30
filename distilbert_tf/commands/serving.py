"""The subcommands that export and serve: their flags, and what they call."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from absl import flags

from distilbert_tf.commands.common_flags import (
    UsageError,
    define_address,
    define_max_length,
    define_model_name,
    required,
    say,
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
    flags.DEFINE_enum(
        "weights",
        "fp32",
        ["fp32", "fp16", "int8"],
        "how weights are stored; once loaded they are float32",
        flag_values=values,
    )
    _define_batching(values)
    flags.DEFINE_list(
        "allowed_batch_sizes",
        None,
        "sizes that a batch may have, or 'all' up to max_batch_size, for GPUs and XLA; any if not "
        "given",
        flag_values=values,
    )
    flags.DEFINE_list(
        "warmup",
        ["serving_default"],
        "what clients will use, and a server runs when it loads the model: signatures, or "
        "signature:output+output where clients filter outputs",
        flag_values=values,
    )
    flags.DEFINE_string(
        "regress_label",
        None,
        "label whose probability `regress` gives (default: the second of two, the first of more)",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "top_k", 5, "words that `fill_mask` gives for each mask", 1, flag_values=values
    )
    flags.DEFINE_integer(
        "max_masks", 16, "most masks in a text for `fill_mask`", 1, flag_values=values
    )
    flags.DEFINE_integer(
        "max_text_bytes", 2**20, "longest text that is computed, in bytes", 1, flag_values=values
    )


def _define_batching(values: flags.FlagValues) -> None:
    flags.DEFINE_integer(
        "max_batch_size", 32, "most rows that a server computes at once", 1, flag_values=values
    )
    flags.DEFINE_integer(
        "max_request_rows",
        None,
        "most rows in a request, which is computed in parts (default: 1024)",
        1,
        flag_values=values,
    )
    flags.DEFINE_float(
        "max_latency_ms", 5.0, "how long a request may wait for others", 0.0, flag_values=values
    )


def run_export(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Exports a model."""
    from distilbert_serving.saved_model.exporter import export_pretrained

    models = [name for name in required(values, "model").split(",") if name]
    path = export_pretrained(
        models[0] if len(models) == 1 else models,
        required(values, "output"),
        version=values.version,
        max_length=values.max_length,
        pair=values.pair,
        regress_label=values.regress_label,
        top_k=values.top_k,
        max_masks=values.max_masks,
        max_text_bytes=values.max_text_bytes,
        weights=values.weights,
        max_batch_size=values.max_batch_size,
        max_latency_ms=values.max_latency_ms,
        max_request_rows=values.max_request_rows,
        allowed_batch_sizes=_read_sizes(values.allowed_batch_sizes),
        warmup=values.warmup,
    )
    say(f"exported and verified: {path}")


def _read_sizes(words: list[str] | None) -> list[int] | Literal["all"] | None:
    if not words:
        return None
    if words == ["all"]:
        return "all"
    if not all(word.isascii() and word.isdigit() for word in words):
        raise UsageError(
            f"--allowed_batch_sizes wants numbers with commas, or 'all'; got {','.join(words)!r}"
        )
    return [int(word) for word in words]


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
    from distilbert_serving.tf_serving.environment import set_serving_environment

    set_serving_environment()  # before the server's module imports TensorFlow
    from distilbert_serving.server import command

    command.run(values)


def define_serving_config(values: flags.FlagValues) -> None:
    """Defines the flags of `serving-config`."""
    flags.DEFINE_string(
        "model_base_path", None, "directory with numbered versions", flag_values=values
    )
    define_model_name(values)
    flags.DEFINE_string(
        "served_path",
        None,
        "where the server sees that directory (default: /models/<model_name>)",
        flag_values=values,
    )
    flags.DEFINE_string(
        "policy",
        None,
        "versions to serve: latest, latest:N, all, or numbers with commas (default: those with "
        "labels, or else the latest)",
        flag_values=values,
    )
    flags.DEFINE_list(
        "labels", [], "labels of versions, such as stable:1,canary:2", flag_values=values
    )
    _define_batching(values)
    flags.DEFINE_integer(
        "threads",
        None,
        "batches that run at once (default: as many as the server has processors)",
        1,
        flag_values=values,
    )
    flags.DEFINE_string("output", None, "directory for the files", flag_values=values)


def run_serving_config(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Writes the files that a TF Serving is started with."""
    from distilbert_serving.tf_serving.serving_files import parse_labels, write_server_files

    written = write_server_files(
        required(values, "output"),
        required(values, "model_base_path"),
        model_name=values.model_name,
        served_path=values.served_path,
        policy=values.policy,
        labels=parse_labels(values.labels),
        max_batch_size=values.max_batch_size,
        max_latency_ms=values.max_latency_ms,
        max_request_rows=values.max_request_rows,
        threads=values.threads,
    )
    for path in written:
        say(f"wrote {path}")


def define_check_export(values: flags.FlagValues) -> None:
    """Defines the flags of `check-export`."""
    flags.DEFINE_string(
        "server", "2.12", "TF Serving release that shall serve it", flag_values=values
    )
    flags.DEFINE_boolean("json", False, "the report as one JSON object", flag_values=values)
    flags.DEFINE_boolean(
        "run",
        False,
        "also load it twice in a fresh process, as TensorFlow 2 and as TF Serving do, run every "
        "signature on made-up inputs, and compare",
        flag_values=values,
    )


def run_check_export(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Reports on a SavedModel; ends the process with 1 if the server could not serve it."""
    if len(words) != 1:
        raise UsageError(f"name one directory, a version's; got {len(words)}")
    from distilbert_serving.inspection.inspection import inspect_export
    from distilbert_serving.inspection.report_text import describe_report, format_report
    from distilbert_serving.inspection.trial_runs import try_export

    directory = Path(words[0])
    report = inspect_export(directory, values.server)
    trial = try_export(directory) if values.run else None
    if values.json:
        say(json.dumps(describe_report(report, trial), ensure_ascii=False))
    else:
        say(format_report(report, trial))
    if not report.is_servable or (trial and trial.error):
        raise SystemExit(1)
