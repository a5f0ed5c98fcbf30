"""DistilBERT on TensorFlow: load, fine-tune with Keras, export with the tokenizer inside.

Names are imported when they are first used, since TensorFlow takes seconds to import.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

from distilbert_tf.version import __version__

if TYPE_CHECKING:
    from transformers import DistilBertConfig as DistilBertConfig

    from distilbert_tf.checkpoints.tensor_files import CheckpointError as CheckpointError
    from distilbert_tf.data.corpus_records import CorpusSettings as CorpusSettings
    from distilbert_tf.data.corpus_writer import prepare_corpus as prepare_corpus
    from distilbert_tf.data.datasets import make_dataset as make_dataset
    from distilbert_tf.data.examples import Examples as Examples
    from distilbert_tf.data.examples import find_labels as find_labels
    from distilbert_tf.data.examples import load_examples as load_examples
    from distilbert_tf.data.file_formats import DataError as DataError
    from distilbert_tf.data.splits import split_examples as split_examples
    from distilbert_tf.data.submission import write_submission as write_submission
    from distilbert_tf.data.tasks import TASKS as TASKS
    from distilbert_tf.data.tasks import Task as Task
    from distilbert_tf.data.tasks import get_task as get_task
    from distilbert_tf.data.vocabulary import train_vocabulary as train_vocabulary
    from distilbert_tf.distillation.distilling import distill as distill
    from distilbert_tf.distillation.distilling import train_masked_lm as train_masked_lm
    from distilbert_tf.models.encoder import TFDistilBertModel as TFDistilBertModel
    from distilbert_tf.models.heads import (
        TFDistilBertForSequenceClassification as TFDistilBertForSequenceClassification,
    )
    from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM as TFDistilBertForMaskedLM
    from distilbert_tf.pipelines import pipeline as pipeline
    from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer as DistilBertTokenizer
    from distilbert_tf.training.evaluation import evaluate as evaluate
    from distilbert_tf.training.evaluation import score_pretrained as score_pretrained
    from distilbert_tf.training.finetuning import finetune as finetune
    from distilbert_tf.training.interruption import InterruptedRunError as InterruptedRunError
    from distilbert_tf.training.multitask import MultiTaskModel as MultiTaskModel
    from distilbert_tf.training.optimizer import create_optimizer as create_optimizer
    from distilbert_tf.training.optimizer import layer_rate_factors as layer_rate_factors
    from distilbert_tf.training.options import FinetuneOptions as FinetuneOptions
    from distilbert_tf.training.plan import plan_finetuning as plan_finetuning
    from distilbert_tf.training.strategy import make_strategy as make_strategy

# Without PyTorch, transformers says at its import that there are no models: these need none.
logging.getLogger("transformers").addFilter(
    lambda record: not str(record.msg).startswith("PyTorch was not found.")
)

# The public names, by module.
_NAMES = {
    "transformers": "DistilBertConfig",
    "distilbert_tf.checkpoints.tensor_files": "CheckpointError",
    "distilbert_tf.data.corpus_records": "CorpusSettings",
    "distilbert_tf.data.corpus_writer": "prepare_corpus",
    "distilbert_tf.data.datasets": "make_dataset",
    "distilbert_tf.data.examples": "Examples find_labels load_examples",
    "distilbert_tf.data.file_formats": "DataError",
    "distilbert_tf.data.splits": "split_examples",
    "distilbert_tf.data.submission": "write_submission",
    "distilbert_tf.data.tasks": "TASKS Task get_task",
    "distilbert_tf.data.vocabulary": "train_vocabulary",
    "distilbert_tf.distillation.distilling": "distill train_masked_lm",
    "distilbert_tf.models.encoder": "TFDistilBertModel",
    "distilbert_tf.models.heads": "TFDistilBertForSequenceClassification",
    "distilbert_tf.models.masked_lm": "TFDistilBertForMaskedLM",
    "distilbert_tf.pipelines": "pipeline",
    "distilbert_tf.tokenizers.tokenizer": "DistilBertTokenizer",
    "distilbert_tf.training.evaluation": "evaluate score_pretrained",
    "distilbert_tf.training.finetuning": "finetune",
    "distilbert_tf.training.interruption": "InterruptedRunError",
    "distilbert_tf.training.multitask": "MultiTaskModel",
    "distilbert_tf.training.optimizer": "create_optimizer layer_rate_factors",
    "distilbert_tf.training.options": "FinetuneOptions",
    "distilbert_tf.training.plan": "plan_finetuning",
    "distilbert_tf.training.strategy": "make_strategy",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
