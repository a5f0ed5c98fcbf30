"""Pipelines from texts to predictions: fill-mask and text-classification.

Results have the structure and the numbers of transformers' own pipelines on PyTorch, including
their quirks, so that code written for those works unchanged:

* For one text, a pipeline returns its result; for a list (or tuple), a list of results in the same
  order; for any other iterable, an iterator that reads `batch_size` texts at a time.
* fill-mask returns the bare result for a list of one text.
* text-classification returns one dict for each text, or a sorted list of dicts if `top_k` is given;
  the result of a single string is in a list of its own, unless `top_k` is given in the call.

Texts are batched by length, so that little padding is computed.
"""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from distilbert_tf.checkpoints.hub import take_hub_options
from distilbert_tf.models.pretrained import PreTrainedModel
from distilbert_tf.pipelines.fill_mask import FillMaskPipeline
from distilbert_tf.pipelines.text_classification import TextClassificationPipeline
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

ALIASES = {"sentiment-analysis": "text-classification"}
TASKS: dict[str, Any] = {
    FillMaskPipeline.task: FillMaskPipeline,
    TextClassificationPipeline.task: TextClassificationPipeline,
}


# Options of transformers' pipelines, and what stands for them here.
_OTHERWISE = {
    "config": "load the model with from_pretrained(..., config=...) and pass it",
    "device": "call the pipeline under `tf.device`",
    "device_map": "call the pipeline under `tf.device`",
    "framework": "there is only TensorFlow; leave it out",
    "model_kwargs": "load the model with from_pretrained and pass it",
    "return_all_scores": "pass top_k=None",
    "torch_dtype": "load the model with from_pretrained(..., dtype=...) and pass it",
    "trust_remote_code": "no code of a repository is ever run; leave it out",
}


def pipeline(
    task: str,
    model: str | Path | PreTrainedModel,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    *,
    revision: str | None = None,
    **options: Any,
) -> FillMaskPipeline | TextClassificationPipeline:
    """Makes a pipeline: a function from texts to predictions.

    Args:
        task: `"fill-mask"`, or `"text-classification"` (also called `"sentiment-analysis"`).
        model: A model, or a name or directory for its `from_pretrained`. The checkpoint must
            have the task's head.
        tokenizer: A tokenizer, or its name or directory; by default the model's name.
        revision: Branch, tag or commit of the names on the hub.
        **options: How names on the hub are read (`token`, `cache_dir`, ...: see `HubOptions`), and
            options of `FillMaskPipeline` or `TextClassificationPipeline`, such as `top_k` and
            `batch_size`.

    Returns:
        The pipeline, to be called with texts.

    Example:
        fill_mask = pipeline("fill-mask", model="distilbert-base-uncased")
        fill_mask("Hello I'm a [MASK] model.", top_k=2)

    Raises:
        ValueError: The task is unknown, or a model is given without a tokenizer.
        TypeError: The model has another head, or an option is unknown.
        FileNotFoundError: A checkpoint cannot be found.
        CheckpointError: The checkpoint does not fit, or has no head for the task.
    """
    pipeline_class = TASKS.get(ALIASES.get(task, task))
    if pipeline_class is None:
        raise ValueError(f"Unknown task {task!r}; the tasks are {', '.join([*TASKS, *ALIASES])}.")
    if options.get("framework") == "tf":
        del options["framework"]
    for name in options.keys() & _OTHERWISE.keys():
        raise TypeError(f"pipeline has no {name}: {_OTHERWISE[name]}.")
    hub = {"revision": revision, **take_hub_options(options)}
    if tokenizer is None:
        if not isinstance(model, (str, Path)):
            raise ValueError("Pass tokenizer= too: a model does not know its tokenizer.")
        tokenizer = model
    if isinstance(tokenizer, (str, Path)):
        tokenizer = DistilBertTokenizer.from_pretrained(tokenizer, **hub)
    if isinstance(model, (str, Path)):
        # Never with a fresh head: its predictions would be noise.
        model = pipeline_class.model_class.from_pretrained(model, fresh_head=False, **hub)
    return pipeline_class(model, tokenizer, **options)
