"""Flags have the defaults of the functions that they are for."""

import inspect

import pytest
from absl import flags
from distilbert_serving.client.predict_client import PredictClient
from distilbert_serving.inspection.inspection import inspect_export
from distilbert_serving.saved_model.exporter import export_saved_model
from distilbert_serving.smoke_test import run as smoke_test
from distilbert_serving.tf_serving.batching_parameters import batching_parameters
from distilbert_serving.tf_serving.serving_files import write_server_files

from distilbert_tf.commands.check_export import define_check_export
from distilbert_tf.commands.corpus import define_vocab
from distilbert_tf.commands.export import define_export
from distilbert_tf.commands.query import define_query
from distilbert_tf.commands.serving_config import define_serving_config
from distilbert_tf.data.vocabulary import train_vocabulary

OTHER_NAMES = {
    "version_label": "label",
    "signature_name": "signature",
}


@pytest.mark.parametrize(
    ("define", "function", "count"),
    [
        (define_export, export_saved_model, 17),
        (define_serving_config, write_server_files, 10),
        (define_serving_config, batching_parameters, 4),
        (define_check_export, inspect_export, 1),
        (define_query, PredictClient, 6),
        (define_vocab, train_vocabulary, 4),
        (smoke_test.define_flags, smoke_test.smoke_test, 6),
    ],
)
def test_defaults(define, function, count):
    values = flags.FlagValues()
    define(values)
    functions, commands = {}, {}
    for name, parameter in inspect.signature(function).parameters.items():
        flag = OTHER_NAMES.get(name, name)
        if flag in values and parameter.default is not inspect.Parameter.empty:
            functions[flag] = parameter.default or None  # off, and empty, is None
            default = values[flag].default or None
            commands[flag] = tuple(default) if isinstance(default, list) else default
    assert commands == functions
    assert len(commands) == count
