"""DistilBERT on TensorFlow: load, fine-tune with Keras, export with the tokenizer inside.

Names are imported when they are first used, since TensorFlow takes seconds to import.
"""

import importlib
from typing import TYPE_CHECKING, Any

from distilbert_tf.version import __version__

if TYPE_CHECKING:
    from transformers import DistilBertConfig

    from distilbert_tf.checkpoints.tensor_files import CheckpointError
    from distilbert_tf.data.datasets import make_dataset
    from distilbert_tf.data.examples import Examples, load_examples
    from distilbert_tf.data.file_formats import DataError
    from distilbert_tf.data.submission import write_submission
    from distilbert_tf.data.tasks import TASKS, Task, get_task
    from distilbert_tf.models.encoder import TFDistilBertModel
    from distilbert_tf.models.heads import (
        TFDistilBertForMaskedLM,
        TFDistilBertForSequenceClassification,
    )
    from distilbert_tf.pipelines import pipeline
    from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
    from distilbert_tf.training.evaluation import evaluate, score_pretrained
    from distilbert_tf.training.finetuning import finetune
    from distilbert_tf.training.interruption import InterruptedRunError
    from distilbert_tf.training.multitask import MultiTaskModel
    from distilbert_tf.training.optimizer import create_optimizer
    from distilbert_tf.training.options import FinetuneOptions
    from distilbert_tf.training.plan import plan_finetuning
    from distilbert_tf.training.strategy import make_strategy

_HOMES = {
    "CheckpointError": "distilbert_tf.checkpoints.tensor_files",
    "DataError": "distilbert_tf.data.file_formats",
    "DistilBertConfig": "transformers",
    "DistilBertTokenizer": "distilbert_tf.tokenizers.tokenizer",
    "Examples": "distilbert_tf.data.examples",
    "FinetuneOptions": "distilbert_tf.training.options",
    "InterruptedRunError": "distilbert_tf.training.interruption",
    "MultiTaskModel": "distilbert_tf.training.multitask",
    "TASKS": "distilbert_tf.data.tasks",
    "TFDistilBertForMaskedLM": "distilbert_tf.models.heads",
    "TFDistilBertForSequenceClassification": "distilbert_tf.models.heads",
    "TFDistilBertModel": "distilbert_tf.models.encoder",
    "Task": "distilbert_tf.data.tasks",
    "create_optimizer": "distilbert_tf.training.optimizer",
    "evaluate": "distilbert_tf.training.evaluation",
    "finetune": "distilbert_tf.training.finetuning",
    "get_task": "distilbert_tf.data.tasks",
    "load_examples": "distilbert_tf.data.examples",
    "make_dataset": "distilbert_tf.data.datasets",
    "make_strategy": "distilbert_tf.training.strategy",
    "pipeline": "distilbert_tf.pipelines",
    "plan_finetuning": "distilbert_tf.training.plan",
    "score_pretrained": "distilbert_tf.training.evaluation",
    "write_submission": "distilbert_tf.data.submission",
}

__all__ = [
    "TASKS",
    "CheckpointError",
    "DataError",
    "DistilBertConfig",
    "DistilBertTokenizer",
    "Examples",
    "FinetuneOptions",
    "InterruptedRunError",
    "MultiTaskModel",
    "TFDistilBertForMaskedLM",
    "TFDistilBertForSequenceClassification",
    "TFDistilBertModel",
    "Task",
    "__version__",
    "create_optimizer",
    "evaluate",
    "finetune",
    "get_task",
    "load_examples",
    "make_dataset",
    "make_strategy",
    "pipeline",
    "plan_finetuning",
    "score_pretrained",
    "write_submission",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
