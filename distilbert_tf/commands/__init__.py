"""The subcommands of `distilbert-tf`: their flags, and what they call.

Each imports what it needs when it runs, so `--help` and wrong flags answer at once.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from distilbert_tf.commands.common_flags import (
    Command,
    define_model,
    define_pair,
    read_texts,
    required,
    say,
    split_pair,
)
from distilbert_tf.commands.query import define_query, run_query
from distilbert_tf.commands.serving import (
    define_check_export,
    define_export,
    define_serve,
    define_serving_config,
    run_check_export,
    run_export,
    run_serve,
    run_serving_config,
)
from distilbert_tf.commands.training import (
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


def _define_demo(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "output", "demo_run", "directory that the demo makes anew", flag_values=values
    )


def _demo(values: flags.FlagValues, words: Sequence[str]) -> None:
    from distilbert_tf.commands.demo import run_demo

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
        run_export,
        define_export,
    ),
    "check-export": Command(
        "say what a SavedModel holds, and which TF Serving release can serve it",
        run_check_export,
        define_check_export,
        "DIR",
    ),
    "serve": Command(
        "serve an export over gRPC on this machine (production: TF Serving)",
        run_serve,
        define_serve,
    ),
    "serving-config": Command(
        "write the files that TF Serving is started with: models, labels, batching, metrics",
        run_serving_config,
        define_serving_config,
    ),
    "query": Command(
        "ask a server about texts (arguments, or lines of a file or of standard input)",
        run_query,
        define_query,
        "[TEXT ...]",
    ),
    "demo": Command(
        "the whole path on the embedded data: fine-tune, export, serve, query",
        _demo,
        _define_demo,
    ),
}
