"""The subcommands `predict` and `fill-mask`: a pipeline on texts, one JSON object a line."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from distilbert_tf.commands.common_flags import (
    define_flag,
    define_model,
    define_pair,
    read_texts,
    required,
    say,
    split_pair,
)


def define_fill_mask(values: flags.FlagValues) -> None:
    define_model(values, default=None)
    define_flag(values, "top_k", None, "number of answers for each text", kind=int, minimum=1)


def define_predict(values: flags.FlagValues) -> None:
    define_fill_mask(values)
    define_pair(values)


def run_fill_mask(values: flags.FlagValues, words: Sequence[str]) -> None:
    _run("fill-mask", values, words)


def run_predict(values: flags.FlagValues, words: Sequence[str]) -> None:
    def as_pair(text: str) -> dict[str, str]:
        return dict(zip(("text", "text_pair"), split_pair(text), strict=True))

    _run("text-classification", values, words, as_pair)


def _run(
    task: str,
    values: flags.FlagValues,
    words: Sequence[str],
    as_pair: Callable[[str], Any] = str,
) -> None:
    from distilbert_tf.pipelines import pipeline

    options = {} if values.top_k is None else {"top_k": values.top_k}
    predict = pipeline(task, model=required(values, "model"), **options)
    # A checkpoint that was fine-tuned on pairs says so: a single text would get a wild answer.
    is_pair = task == "text-classification" and (
        values.pair or getattr(predict.model.config, "text_pair", False)
    )
    as_input = as_pair if is_pair else str
    for text in read_texts(words):
        answers = predict(as_input(text))
        say(json.dumps({"text": text, "answers": answers}, ensure_ascii=False))
