"""The files and flags that a server is started with."""

import argparse
import os

import pytest
from absl import flags as absl_flags
from distilbert_serving.server import command
from distilbert_serving.server.batching_config import read_batching_options
from distilbert_serving.server.batching_options import BatchingOptions
from distilbert_serving.server.model_config import read_settings_file

from distilbert_tf.commands import serving as serving_commands


@pytest.fixture
def write(tmp_path):
    def write_file(text):
        (tmp_path / "file.pbtxt").write_text(text)
        return tmp_path / "file.pbtxt"

    return write_file


def test_batching_parameters(write, caplog):
    path = write("""
        max_batch_size { value: 64 } batch_timeout_micros { value: 2500 }
        max_enqueued_batches { value: 3 } num_batch_threads { value: 2 }
        allowed_batch_sizes: 1 allowed_batch_sizes: 8 allowed_batch_sizes: 16
        enable_large_batch_splitting { value: true } max_execution_batch_size { value: 16 }
        pad_variable_length_inputs: true
    """)
    assert read_batching_options(path) == BatchingOptions(
        max_batch_size=64,
        max_execution_batch_size=16,
        enable_large_batch_splitting=True,
        max_enqueued_batches=3,
        allowed_batch_sizes=(1, 8, 16),
        pad_variable_length_inputs=True,
        num_threads=2,
    )
    # TF Serving would die under it, now and then.
    assert "file.pbtxt: no batch may have 2 rows: " in caplog.text
    assert "leave allowed_batch_sizes out" in caplog.text


def test_every_size_is_as_good_as_none(write, caplog):
    sizes = " ".join(f"allowed_batch_sizes: {size}" for size in range(1, 5))
    options = read_batching_options(write(f"max_batch_size {{ value: 4 }} {sizes}"))
    assert options.allowed_batch_sizes == ()
    assert not caplog.text


def test_what_a_batching_file_leaves_out_is_as_in_tf_serving(write):
    options = read_batching_options(write(""))
    assert options == BatchingOptions(max_execution_batch_size=1000, num_threads=os.cpu_count())
    assert (options.max_batch_size, options.run_size, options.max_enqueued_batches) == (
        1000,
        1000,
        10,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size: 3", r"file.pbtxt:1:17 : .*\(it should be a BatchingParameters\)"),
        ("max_batch_size { value: 0 }", "max_batch_size must be an integer of at least 1, not 0"),
        ("num_batch_threads { value: 1000 }", "num_batch_threads is 1000; at most 64"),
    ],
)
def test_senseless_batching_parameters(write, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_batching_options(write(text))
    assert "file.pbtxt" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_config_list {", r"file.pbtxt:1:19 : .*ModelServerConfig"),
        ("custom_model_config {}", "Only a model_config_list is supported"),
        ("model_config_list { config { base_path: 'x' } }", "A model has no name"),
        ("model_config_list { config { name: 'm' } }", "Model m has no base_path"),
        (
            "model_config_list { config { name: 'm' base_path: 'x' } }",
            "Model m: model_platform is ''; it must be 'tensorflow'",
        ),
        (
            "model_config_list {"
            + 2 * "config { name: 'm' base_path: 'x' model_platform: 'tensorflow' }"
            + "}",
            "Illegal to list model m multiple times",
        ),
    ],
)
def test_model_config_files_that_are_wrong(write, text, message):
    with pytest.raises(ValueError, match=message):
        read_settings_file(write(text))


def parse(*words):
    values = absl_flags.FlagValues()
    serving_commands.define_serve(values)
    values(["serve", *words])
    return argparse.Namespace(**values.flag_values_dict())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "either --model_base_path or --model_config_file"),
        (("--model_base_path=x", "--model_config_file=y"), "either --model_base_path or"),
        (
            ("--model_base_path=x", "--noenable_batching", "--batching_parameters_file=y"),
            "--batching_parameters_file needs --enable_batching",
        ),
    ],
)
def test_flags_that_contradict_each_other(words, message):
    with pytest.raises(ValueError, match=message):
        command.make_server(parse(*words))


def test_a_monitoring_page_needs_the_rest_port(write):
    path = write("prometheus_config { enable: true }")
    with pytest.raises(ValueError, match="needs --rest_api_port"):
        command.make_server(parse("--model_base_path=x", f"--monitoring_config_file={path}"))


def test_flags_become_a_server(write):
    path = write("model_config_list {}")
    server = command.make_server(
        parse(f"--model_config_file={path}", "--port=7", "--rest_api_port=8")
    )
    assert (server.port, server.rest_port) == (7, 8)
    assert command.make_server(parse("--model_base_path=x")).rest_port is None
