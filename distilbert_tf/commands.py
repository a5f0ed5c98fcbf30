"""The subcommands of `distilbert-tf`: their flags, and what they call.

Each imports what it needs when it runs, so `--help` and wrong flags answer at once.
"""

import dataclasses
import json
import os
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from distilbert_tf.launcher import LOST_WORKER, TF_CONFIG, launch
from distilbert_tf.options import FinetuneOptions, default_output_dir


class UsageError(ValueError):
    """A command line that cannot be understood."""


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        summary: What it does, in a line.
        run: Does the work, given the parsed flags and the words that are no flags.
        define: Defines the flags.
        words: How the usage line writes the words that are no flags; none if empty.
    """

    summary: str
    run: Callable[[flags.FlagValues, Sequence[str]], None]
    define: Callable[[flags.FlagValues], None]
    words: str = ""


def say(text: str) -> None:
    """Prints a result, at once even into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _required(values: flags.FlagValues, name: str) -> Any:
    if values[name].value is None:
        raise UsageError(f"--{name} is required")
    return values[name].value


def _texts(words: Sequence[str]) -> Iterable[str]:
    return words or (line.rstrip("\r\n") for line in sys.stdin)


def _split_pair(text: str) -> tuple[str, str]:
    first, tab, second = text.partition("\t")
    if not tab:
        raise UsageError(f"--pair wants two texts with a tab between them; got {text[:60]!r}")
    return first, second


def _define_model(values: flags.FlagValues, default: str | None = "demo") -> None:
    flags.DEFINE_string(
        "model",
        default,
        "checkpoint: a directory, a name on the hub, or 'demo'",
        flag_values=values,
    )


def _define_task(values: flags.FlagValues, text: str = "task: sst2, mnli or qqp") -> None:
    flags.DEFINE_string("task", "sst2", text, flag_values=values)
    flags.DEFINE_string(
        "data",
        "demo",
        "directory with the task's files in GLUE's layout or the hub's, 'hub', or 'demo'",
        flag_values=values,
    )


def _define_data(values: flags.FlagValues) -> None:
    _define_task(values)
    flags.DEFINE_integer("batch_size", 32, "rows per step", lower_bound=1, flag_values=values)


def _define_max_length(values: flags.FlagValues, default: int | None) -> None:
    flags.DEFINE_integer(
        "max_length",
        default,
        "longest row in tokens; longer text is cut"
        + ("" if default else " (default: that of the fine-tuning)"),
        3,
        flag_values=values,
    )


def _define_pair(values: flags.FlagValues) -> None:
    flags.DEFINE_boolean(
        "pair", False, "each TEXT holds two texts with a tab between them", flag_values=values
    )


def _define_finetune(values: flags.FlagValues) -> None:
    _define_model(values)
    _define_task(values, "task, or several with commas: sst2, mnli, qqp")
    flags.DEFINE_string(
        "output", None, "directory of the result; runs/<task> if not given", flag_values=values
    )
    flags.DEFINE_boolean("overwrite", False, "replace an earlier result", flag_values=values)
    flags.DEFINE_boolean("dry_run", False, "say what would be done, and end", flag_values=values)
    flags.DEFINE_integer(
        "num_workers",
        1,
        "train in so many processes of this machine, started anew if one dies",
        1,
        flag_values=values,
    )
    for field in dataclasses.fields(FinetuneOptions):
        _define_option(values, field)


def _define_option(values: flags.FlagValues, field: dataclasses.Field[Any]) -> None:
    name, limits = field.name, field.metadata
    default: Any = field.default
    text = limits["help"]
    kind = (typing.get_args(field.type) or (field.type,))[0]  # `int` of `int | None`
    if "choices" in limits:
        flags.DEFINE_enum(name, default, limits["choices"], text, flag_values=values)
    elif kind is bool:
        flags.DEFINE_boolean(name, default, text, flag_values=values)
    elif kind is str:
        flags.DEFINE_string(name, default, text, flag_values=values)
    else:
        define = flags.DEFINE_integer if kind is int else flags.DEFINE_float
        lowest, highest = limits.get("minimum"), limits.get("maximum")
        define(name, default, text, lowest, highest, flag_values=values)


def _finetune(values: flags.FlagValues, words: Sequence[str]) -> None:
    options: dict[str, Any] = {
        field.name: values[field.name].value for field in dataclasses.fields(FinetuneOptions)
    }
    if values.num_workers > 1 and not os.environ.get(TF_CONFIG) and not values.dry_run:
        logs = Path(values.output or default_output_dir(values.task)) / "logs"
        raise SystemExit(launch(["finetune", *_spelled(values)], values.num_workers, logs))
    from tensorflow import errors

    from distilbert_tf.interruption import InterruptedRunError
    from distilbert_tf.preparation import plan_finetuning
    from distilbert_tf.training import finetune

    if values.dry_run:
        say(plan_finetuning(values.task, values.model, values.data, **options).report())
        return
    try:
        result = finetune(
            values.task,
            values.model,
            values.data,
            values.output,
            overwrite=values.overwrite,
            **options,
        )
    except InterruptedRunError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(128 + error.signal_number) from None
    except (errors.UnavailableError, errors.AbortedError, errors.CancelledError) as error:
        if not os.environ.get(TF_CONFIG):
            raise
        sys.stderr.write(
            f"{error}\nAnother worker cannot be reached any more. The same command, given to all "
            "workers, goes on from the last saved state.\n"
        )
        raise SystemExit(LOST_WORKER) from None
    say(result.report())


def _spelled(values: flags.FlagValues) -> list[str]:
    """Writes the flags that were given as they would be typed."""
    return [
        values[name].serialize()
        for name in values
        if values[name].present and name not in ("num_workers", "strategy")
    ]


def _define_evaluate(values: flags.FlagValues) -> None:
    _define_model(values, default=None)
    _define_data(values)
    _define_max_length(values, None)
    flags.DEFINE_string("split", "validation", "split of the task", flag_values=values)


def _evaluate(values: flags.FlagValues, words: Sequence[str]) -> None:
    from distilbert_tf.evaluation import evaluate_pretrained

    metrics = evaluate_pretrained(
        _required(values, "model"),
        values.task,
        values.data,
        split=values.split,
        batch_size=values.batch_size,
        max_length=values.max_length,
    )
    say(json.dumps(metrics))


def _define_submit(values: flags.FlagValues) -> None:
    _define_model(values, default=None)
    _define_data(values)
    _define_max_length(values, None)
    flags.DEFINE_string("output", "submission", "directory of the files", flag_values=values)


def _submit(values: flags.FlagValues, words: Sequence[str]) -> None:
    from distilbert_tf.evaluation import predict_submission

    for path in predict_submission(
        _required(values, "model"),
        values.task,
        values.data,
        values.output,
        batch_size=values.batch_size,
        max_length=values.max_length,
    ):
        say(str(path))


def _define_pipeline(values: flags.FlagValues) -> None:
    _define_model(values, default=None)
    flags.DEFINE_integer("top_k", None, "how many answers for each text", 1, flag_values=values)


def _run_pipeline(name: str) -> Callable[[flags.FlagValues, Sequence[str]], None]:
    def run(values: flags.FlagValues, words: Sequence[str]) -> None:
        from distilbert_tf.pipelines import pipeline

        options = {} if values.top_k is None else {"top_k": values.top_k}
        predict = pipeline(name, model=_required(values, "model"), **options)
        for text in _texts(words):
            inputs: Any = text
            if "pair" in values and values.pair:
                inputs = dict(zip(("text", "text_pair"), _split_pair(text), strict=True))
            answers = predict(inputs)
            say(json.dumps({"text": text, "answers": answers}, ensure_ascii=False))

    return run


def _define_predict(values: flags.FlagValues) -> None:
    _define_pipeline(values)
    _define_pair(values)


def _define_export(values: flags.FlagValues) -> None:
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
    _define_max_length(values, None)
    flags.DEFINE_boolean(
        "pair",
        None,
        "whether every task has two texts; what each checkpoint says if not given",
        flag_values=values,
    )


def _export(values: flags.FlagValues, words: Sequence[str]) -> None:
    from export.saved_model import export_pretrained

    models = [name for name in _required(values, "model").split(",") if name]
    path = export_pretrained(
        models[0] if len(models) == 1 else models,
        _required(values, "output"),
        version=values.version,
        max_length=values.max_length,
        pair=values.pair,
    )
    say(f"exported and verified: {path}")


def _define_address(values: flags.FlagValues) -> None:
    flags.DEFINE_string("model_name", "distilbert", "name of the served model", flag_values=values)
    flags.DEFINE_string("host", "127.0.0.1", "address of the server", flag_values=values)
    flags.DEFINE_integer("port", 8500, "port of the server", 0, 65535, flag_values=values)


def _define_serve(values: flags.FlagValues) -> None:
    _define_address(values)
    flags.DEFINE_string(
        "model_base_path", None, "directory with numbered versions", flag_values=values
    )


def _serve(values: flags.FlagValues, words: Sequence[str]) -> None:
    from export.environment import set_serving_environment

    set_serving_environment()  # before the server's module imports TensorFlow
    from export.server import serve

    serve(_required(values, "model_base_path"), values.model_name, values.host, values.port)


def _define_query(values: flags.FlagValues) -> None:
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
    _define_pair(values)


def _query(values: flags.FlagValues, words: Sequence[str]) -> None:
    from export.client import PredictClient

    texts = list(_texts(words))
    inputs: tuple[Any, ...] = (texts,)
    if values.pair:
        inputs = tuple(zip(*map(_split_pair, texts), strict=True)) or ((), ())
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


def _define_demo(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "output", "demo_run", "directory that the demo makes anew", flag_values=values
    )


def _demo(values: flags.FlagValues, words: Sequence[str]) -> None:
    from distilbert_tf.demo import run_demo

    run_demo(values.output)


COMMANDS = {
    "finetune": Command(
        "fine-tune a classifier and save its best epoch", _finetune, _define_finetune
    ),
    "evaluate": Command(
        "score a saved classifier on a split of a task", _evaluate, _define_evaluate
    ),
    "submit": Command(
        "predict GLUE's test splits of a task, in the files that its server takes",
        _submit,
        _define_submit,
    ),
    "predict": Command(
        "classify texts (arguments, or lines of standard input)",
        _run_pipeline("text-classification"),
        _define_predict,
        "[TEXT ...]",
    ),
    "fill-mask": Command(
        "fill in the [MASK] of texts (arguments, or lines of standard input)",
        _run_pipeline("fill-mask"),
        _define_pipeline,
        "[TEXT ...]",
    ),
    "export": Command(
        "write a SavedModel for TF Serving, tokenization inside, and verify it",
        _export,
        _define_export,
    ),
    "serve": Command(
        "serve an export over gRPC on this machine (production: TF Serving)",
        _serve,
        _define_serve,
    ),
    "query": Command(
        "ask a server to classify texts (arguments, or lines of standard input)",
        _query,
        _define_query,
        "[TEXT ...]",
    ),
    "demo": Command(
        "the whole path on the embedded data: fine-tune, export, serve, query",
        _demo,
        _define_demo,
    ),
}
