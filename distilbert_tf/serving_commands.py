"""The subcommands that export, serve and query: their flags, and what they call."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from distilbert_tf.command_parts import (
    UsageError,
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
    """Defines the flags of `serve`."""
    _define_address(values)
    flags.DEFINE_string(
        "model_base_path", None, "directory with numbered versions", flag_values=values
    )


def run_serve(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Serves until a signal."""
    from export.environment import set_serving_environment

    set_serving_environment()  # before the server's module imports TensorFlow
    from export.server import serve

    serve(required(values, "model_base_path"), values.model_name, values.host, values.port)


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
    from export.inspection import inspect_export
    from export.report_text import describe_report, format_report
    from export.trials import try_export

    directory = Path(words[0])
    report = inspect_export(directory, values.server)
    trial = try_export(directory) if values.run else None
    if values.json:
        say(json.dumps(describe_report(report, trial), ensure_ascii=False))
    else:
        say(format_report(report, trial))
    if not report.is_servable or (trial and trial.error):
        raise SystemExit(1)
