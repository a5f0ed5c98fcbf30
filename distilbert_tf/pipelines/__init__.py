"""From texts to answers in one call: fill-mask and text-classification.

Results have the shape and the numbers of transformers' own pipelines on PyTorch, down to their
quirks, so code written for those goes on working:

* One text gives its result, a list (or tuple) gives a list of results in the same order, and
  any other iterable gives an iterator that reads `batch_size` texts at a time.
* fill-mask unwraps a list of one text.
* text-classification gives one dict per text, or a sorted list of dicts once `top_k` is given;
  the result of a lone string then stands in a list of its own, unless `top_k` came with the call.

Texts are batched by length, so little is computed on padding.
"""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from distilbert_tf.models.pretrained import PreTrainedModel
from distilbert_tf.pipelines.fill_mask import FillMaskPipeline
from distilbert_tf.pipelines.text_classification import TextClassificationPipeline
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

ALIASES = {"sentiment-analysis": "text-classification"}
TASKS: dict[str, Any] = {
    FillMaskPipeline.task: FillMaskPipeline,
    TextClassificationPipeline.task: TextClassificationPipeline,
}


def pipeline(
    task: str,
    model: str | Path | PreTrainedModel,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    *,
    revision: str | None = None,
    **options: Any,
) -> FillMaskPipeline | TextClassificationPipeline:
    """Makes a function from texts to answers.

    Args:
        task: `"fill-mask"`, or `"text-classification"` (also called `"sentiment-analysis"`).
        model: A model, or a name or directory for its `from_pretrained`. The checkpoint must
            hold the task's head.
        tokenizer: A tokenizer, or its name or directory; by default the model's name.
        revision: Branch, tag or commit of the names on the hub.
        **options: Options of `FillMaskPipeline` or `TextClassificationPipeline`: `top_k`,
            `batch_size` and others.

    Returns:
        The pipeline: call it with texts.

    Raises:
        ValueError: An unknown task, or a model object without a tokenizer.
        TypeError: The model has another head, or an option is unknown.
        FileNotFoundError: A name is out of reach.
        CheckpointError: The checkpoint does not fit, or lacks the task's head.
    """
    pipeline_class = TASKS.get(ALIASES.get(task, task))
    if pipeline_class is None:
        raise ValueError(f"Unknown task {task!r}; the tasks are {', '.join([*TASKS, *ALIASES])}.")
    if tokenizer is None:
        if not isinstance(model, (str, Path)):
            raise ValueError("Give tokenizer= too: a model object does not tell its own.")
        tokenizer = model
    if isinstance(tokenizer, (str, Path)):
        tokenizer = DistilBertTokenizer.from_pretrained(tokenizer, revision=revision)
    if isinstance(model, (str, Path)):
        # Never with a fresh head: its answers would be noise that looks like answers.
        model = pipeline_class.model_class.from_pretrained(
            model, fresh_head=False, revision=revision
        )
    return pipeline_class(model, tokenizer, **options)
