"""The flags of `distilbert-tf serve`, and the settings that they become."""

import dataclasses

import pytest
from absl import flags as absl_flags
from distilbert_serving.server import ModelServer
from distilbert_serving.server.options import ServerOptions
from distilbert_serving.tf_serving.config_protos import BatchingParameters
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from distilbert_tf.commands.serve import define_serve, read_server_settings


@pytest.fixture
def write(tmp_path):
    def write_file(text):
        (tmp_path / "file.pbtxt").write_text(text)
        return tmp_path / "file.pbtxt"

    return write_file


def read(*words):
    values = absl_flags.FlagValues()
    define_serve(values)
    values(["serve", *words])
    return read_server_settings(values)


def test_flags_have_the_defaults_of_a_server():
    defaults = {field.name: field.default for field in dataclasses.fields(ServerOptions)}
    assert read() == defaults


def test_flags_become_a_server(write):
    server = ModelServer(**read("--model_base_path=x", "--port=7", "--rest_api_port=8"))
    assert (server.port, server.rest_port) == (7, 8)
    assert ModelServer(**read("--model_base_path=x", "--rest_api_port=0")).rest_port is None
    path = write("prometheus_config { enable: true }")
    settings = read(f"--monitoring_config_file={path}", "--file_system_poll_wait_seconds=0.5")
    assert settings["monitoring_path"] == "/monitoring/prometheus/metrics"
    assert settings["poll_wait_s"] == 0.5


@pytest.mark.parametrize("flag", ["model_config", "batching_parameters", "ssl_config"])
def test_files_are_checked(write, flag):
    path = write("nonsense {")
    with pytest.raises(ValueError, match=r"file.pbtxt:1:1 : .*\(it should be a "):
        read(f"--{flag}_file={path}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either model_base_path or models"),
        ({"model_base_path": "x", "models": ModelServerConfig()}, "either model_base_path or"),
        (
            {"model_base_path": "x", "enable_batching": False, "batching": BatchingParameters()},
            "need enable_batching",
        ),
        ({"model_base_path": "x", "monitoring_path": "/metrics"}, "needs rest_port"),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    with pytest.raises(ValueError, match=message):
        ModelServer(**settings)
