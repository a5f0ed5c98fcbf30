"""Flags have the defaults of the functions that they are for."""

import inspect

import pytest
from absl import flags
from distilbert_serving.client.predict_client import PredictClient
from distilbert_serving.inspection.inspection import inspect_export
from distilbert_serving.saved_model.exporter import export_saved_model
from distilbert_serving.server import ModelServer, serve
from distilbert_serving.server.versions import LoadOptions
from distilbert_serving.smoke_test import run as smoke_test
from distilbert_serving.tf_serving.batching_parameters import batching_parameters
from distilbert_serving.tf_serving.serving_files import write_server_files

from distilbert_tf.commands import query as query_command
from distilbert_tf.commands import serving as serving_commands

OTHER_NAMES = {
    "poll_wait_s": "file_system_poll_wait_seconds",
    "retry_interval_s": "load_retry_interval_s",
    "version_label": "label",
    "signature_name": "signature",
    "enable_health_service": "enable_grpc_healthcheck_service",
}


@pytest.mark.parametrize(
    ("define", "function", "count"),
    [
        (serving_commands.define_export, export_saved_model, 13),
        (serving_commands.define_serving_config, write_server_files, 8),
        (serving_commands.define_serving_config, batching_parameters, 4),
        (serving_commands.define_check_export, inspect_export, 1),
        (serving_commands.define_serve, ModelServer, 9),
        (serving_commands.define_serve, LoadOptions, 3),
        (serving_commands.define_serve, serve, 1),
        (query_command.define_query, PredictClient, 6),
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
