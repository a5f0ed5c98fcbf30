"""The subcommands of `distilbert-tf`: their flags, and what they call.

Each imports what it needs when it runs, so `--help` and wrong flags answer at once.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from distilbert_tf.command_parts import (
    Command,
    define_max_length,
    define_model,
    define_pair,
    read_texts,
    required,
    say,
    split_pair,
)
from distilbert_tf.training_commands import (
    define_evaluate,
    define_finetune,
    define_submit,
    run_evaluate,
    run_finetune,
    run_submit,
)


def _define_pipeline(values: flags.FlagValues) -> None:
    define_model(values, default=None)
    flags.DEFINE_integer("top_k", None, "how many answers for each text", 1, flag_values=values)


def _run_pipeline(name: str) -> Callable[[flags.FlagValues, Sequence[str]], None]:
    def run(values: flags.FlagValues, words: Sequence[str]) -> None:
        from distilbert_tf.pipelines import pipeline

        options = {} if values.top_k is None else {"top_k": values.top_k}
        predict = pipeline(name, model=required(values, "model"), **options)
        for text in read_texts(words):
            inputs: Any = text
            if "pair" in values and values.pair:
                inputs = dict(zip(("text", "text_pair"), split_pair(text), strict=True))
            answers = predict(inputs)
            say(json.dumps({"text": text, "answers": answers}, ensure_ascii=False))

    return run


def _define_predict(values: flags.FlagValues) -> None:
    _define_pipeline(values)
    define_pair(values)


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
    define_max_length(values)
    flags.DEFINE_boolean(
        "pair",
        None,
        "whether every task has two texts; what each checkpoint says if not given",
        flag_values=values,
    )


def _export(values: flags.FlagValues, words: Sequence[str]) -> None:
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


def _define_serve(values: flags.FlagValues) -> None:
    _define_address(values)
    flags.DEFINE_string(
        "model_base_path", None, "directory with numbered versions", flag_values=values
    )


def _serve(values: flags.FlagValues, words: Sequence[str]) -> None:
    from export.environment import set_serving_environment

    set_serving_environment()  # before the server's module imports TensorFlow
    from export.server import serve

    serve(required(values, "model_base_path"), values.model_name, values.host, values.port)


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
    define_pair(values)


def _query(values: flags.FlagValues, words: Sequence[str]) -> None:
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


def _define_demo(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "output", "demo_run", "directory that the demo makes anew", flag_values=values
    )


def _demo(values: flags.FlagValues, words: Sequence[str]) -> None:
    from distilbert_tf.demo import run_demo

    run_demo(values.output)


COMMANDS = {
    "finetune": Command(
        "fine-tune classifiers on one encoder, and keep the best evaluation's",
        run_finetune,
        define_finetune,
    ),
    "evaluate": Command(
        "score a saved classifier on a split of a task", run_evaluate, define_evaluate
    ),
    "submit": Command(
        "predict GLUE's test splits of a task, in the files that its server takes",
        run_submit,
        define_submit,
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
