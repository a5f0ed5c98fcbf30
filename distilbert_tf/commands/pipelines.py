"""The subcommands `predict` and `fill-mask`: a pipeline on texts, with the answers of `query`."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from distilbert_tf.commands.answer_output import AnswerOutput, define_output, write_answers
from distilbert_tf.commands.common_flags import define_flag, define_model
from distilbert_tf.commands.text_input import define_input, open_texts
from distilbert_tf.tensorflow_import import import_tensorflow


def define_predict(values: flags.FlagValues) -> None:
    _define(values, has_pairs=True)


def define_fill_mask(values: flags.FlagValues) -> None:
    _define(values, has_pairs=False)
    define_flag(values, "top_k", 5, "words for each mask", minimum=1)


def _define(values: flags.FlagValues, *, has_pairs: bool) -> None:
    define_model(values, default=None)
    define_input(values, has_pairs=has_pairs, has_task=has_pairs)
    define_output(values)
    define_flag(values, "batch_size", 32, "texts that are computed at once", minimum=1)


def run_predict(values: flags.FlagValues, words: Sequence[str]) -> None:
    from distilbert_serving.client.results import Prediction

    def read(answer: list[dict[str, Any]], labels: dict[int, str]) -> Prediction:
        """Makes what a server answers from labels with scores, the best first."""
        import numpy as np

        scores = {row["label"]: row["score"] for row in answer}
        numbers = {label: number for number, label in labels.items()}
        best = answer[0]["label"]
        array = np.array([scores[labels[number]] for number in sorted(labels)], np.float32)
        return Prediction(best, numbers[best], array, array)

    _run("predict", "text-classification", "predict", values, words, read, top_k=None)


def run_fill_mask(values: flags.FlagValues, words: Sequence[str]) -> None:
    from distilbert_serving.client.results import MaskAnswer

    def read(answer: list[Any], _: Any) -> list[list[MaskAnswer]]:
        masks = answer if isinstance(answer[0], list) else [answer]  # bare if there is one mask
        return [
            [MaskAnswer(row["token_str"], row["token"], row["score"]) for row in mask]
            for mask in masks
        ]

    _run("fill-mask", "fill-mask", "fill_mask", values, words, read, top_k=values.top_k)


def _run(
    command: str,
    task: str,
    method: str,
    values: flags.FlagValues,
    words: Sequence[str],
    read: Callable[[Any, dict[int, str]], Any],
    **options: Any,
) -> None:
    """Answers texts as `query --method=...` does, but with a pipeline in this process."""
    with open_texts(values, words) as texts, AnswerOutput(values, method) as output:
        import_tensorflow()
        from distilbert_tf.pipelines import pipeline

        predict = pipeline(task, model=values.model, **options)
        config = predict.model.config
        labels = config.id2label
        if method == "predict":
            # A checkpoint that was fine-tuned on pairs says so: a single text would get a wild
            # answer.
            texts.is_pair = texts.is_pair or bool(getattr(config, "text_pair", False))
            texts.usual_columns = (getattr(config, "task", None) or {}).get("text_columns", ())
        size = 1 if texts.is_typed else values.batch_size

        def ask(rows: Iterator[Any]) -> Iterator[Any]:
            while chunk := list(itertools.islice(rows, size)):
                yield from _answers(predict, chunk)

        write_answers(
            command,
            values,
            texts,
            output,
            lambda rows: (
                answer if isinstance(answer, ValueError) else read(answer, labels)
                for answer in ask(rows)
            ),
            lambda answer: str(answer) if isinstance(answer, ValueError) else None,
        )


def _answers(predict: Any, texts: list[Any]) -> list[Any]:
    """Returns the answers to texts; to one that the pipeline refuses, the error."""
    pairs = [
        text if isinstance(text, str) else dict(zip(("text", "text_pair"), text, strict=True))
        for text in texts
    ]
    try:
        return list(predict(iter(pairs)))  # a list of one would have an answer of another shape
    except ValueError as error:
        if len(texts) == 1:
            cause = error.__cause__  # without the number of the row among these
            return [cause if isinstance(cause, ValueError) else error]
        return [answer for text in texts for answer in _answers(predict, [text])]
