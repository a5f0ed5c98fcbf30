"""The server's configuration files, made, written, read back, and refused."""

import re

import pytest
from distilbert_serving.protos import model_server_config_pb2
from distilbert_serving.tf_serving.batching_parameters import (
    batching_parameters,
    find_skipped_sizes,
    number_of,
    read_batching_parameters,
)
from distilbert_serving.tf_serving.config_files import ConfigError, write_config
from distilbert_serving.tf_serving.config_protos import BatchingParameters, MonitoringConfig
from distilbert_serving.tf_serving.environment import serving_environment
from distilbert_serving.tf_serving.serving_config import (
    METRICS_PATH,
    metrics_path_of,
    model_config,
    monitoring_config,
    read_model_config,
    read_monitoring_config,
)
from distilbert_serving.tf_serving.serving_files import (
    parse_labels,
    parse_policy,
    write_serving_files,
)
from distilbert_serving.tf_serving.warmup import WARMUP_FILE, read_warmup
from google.protobuf import text_format
from test_warmup import SIGNATURES

from distilbert_tf import cli

BATCHING = """
max_batch_size { value: 99 }
batch_timeout_micros { value: 2500 }
max_enqueued_batches { value: 18 }
num_batch_threads { value: 2 }
pad_variable_length_inputs: true
enable_large_batch_splitting { value: true }
max_execution_batch_size { value: 12 }
"""
FILLED = f"{BATCHING}allowed_batch_sizes: 4\nallowed_batch_sizes: 12\n"

MODELS = """
model_config_list {
  config {
    name: "distilbert"
    base_path: "/models/distilbert"
    model_platform: "tensorflow"
    model_version_policy { specific { versions: 3 versions: 4 } }
    version_labels { key: "stable" value: 3 }
    version_labels { key: "canary" value: 4 }
  }
}
"""


def test_batching_parameters_are_what_an_operator_would_write(tmp_path):
    parameters = batching_parameters(12, 2.5, threads=2, max_request_rows=99)
    assert parameters == text_format.Parse(BATCHING, BatchingParameters())
    path = write_config(tmp_path / "batching_params.pbtxt", parameters, "two\nlines")
    assert path.read_text().startswith("# two\n# lines\nmax_batch_size {\n  value: 99\n}\n")
    assert read_batching_parameters(path) == parameters
    assert [path] == list(tmp_path.iterdir())  # nothing unfinished stays


def test_without_threads_the_server_counts_its_processors():
    parameters = batching_parameters()
    assert not parameters.HasField("num_batch_threads")
    assert parameters.max_execution_batch_size.value == 32
    assert parameters.max_batch_size.value == 1024
    assert parameters.batch_timeout_micros.value == 5000
    # The largest request waits in parts, and must not fill the queue.
    assert parameters.max_enqueued_batches.value >= 2 * 1024 / 32
    large = batching_parameters(8, threads=1, max_request_rows=1000)
    assert large.max_enqueued_batches.value == 2 * 125


def test_every_size_or_some(caplog):
    with caplog.at_level("WARNING"):
        every = batching_parameters(5, allowed_batch_sizes="all")
        assert list(every.allowed_batch_sizes) == [1, 2, 3, 4, 5]
        assert find_skipped_sizes(every) == find_skipped_sizes(batching_parameters()) == []
        assert not caplog.records
        some = batching_parameters(6, allowed_batch_sizes=[1, 4, 6])
    assert list(some.allowed_batch_sizes) == [1, 4, 6]
    assert find_skipped_sizes(some) == [2, 3, 5]
    assert "No batch may have 2 rows: a server fills up" in caplog.text
    assert "list every size" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_batch_size": 0}, "max_batch_size must be an integer of at least 1, not 0"),
        ({"max_batch_size": 2.5}, "max_batch_size must be an integer"),
        ({"max_latency_ms": -1.0}, "max_latency_ms must be at least 0, not -1.0"),
        ({"max_latency_ms": float("nan")}, "max_latency_ms must be at least 0, not nan"),
        ({"threads": 0}, "threads must be an integer of at least 1, not 0"),
        ({"max_request_rows": 31}, "max_request_rows must be at least max_batch_size, 32; it is"),
        ({"allowed_batch_sizes": [4, 2, 32]}, "must be positive and ascend"),
        ({"allowed_batch_sizes": [4, 16]}, "last of .* must be max_execution_.*, 32; it is 16"),
    ],
)
def test_senseless_batching(arguments, message):
    with pytest.raises(ConfigError, match=message):
        batching_parameters(**arguments)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("sizes: 12", "sizes: 16", "last of .* must be max_execution_batch_size, 12; it is 16"),
        ("sizes: 12", "sizes: 3", r"must be positive and ascend; they are \[4, 3\]"),
        ("sizes: 4", "sizes: 0", "must be positive and ascend"),
        ("value: 99", "value: 0", "max_batch_size must be"),
        ("value: 2500", "value: -1", "batch_timeout_micros must be at least 0, not -1"),
        ("value: 18", "value: 0", "max_enqueued_batches must be"),
        ("value: 2 }", "value: 0 }", "num_batch_threads must be"),
        ("value: 12 }", "value: 0 }", "max_execution_.* at least 1"),
        ("value: 12 }", "value: 100 }", "at most .*, 99; it is 100"),
        ("splitting { value: true }", "splitting {}", "needs enable_large_batch"),
        ("max_execution_batch_size { value: 12 }", "", r"last of .* must be max_batch_size, 99"),
        ("max_b", "most_b", r":2:1 : .*most_b.* \(it should be a BatchingParameters\)"),
    ],
)
def test_batching_files_that_a_server_would_refuse(tmp_path, right, wrong, message):
    path = tmp_path / "batching_params.pbtxt"
    assert right in FILLED
    path.write_text(FILLED.replace(right, wrong, 1))
    with pytest.raises(ConfigError, match=message) as caught:
        read_batching_parameters(path)
    assert str(path) in str(caught.value)


def test_what_a_batching_file_leaves_out(tmp_path):
    path = tmp_path / "batching_params.pbtxt"
    path.write_text("pad_variable_length_inputs: true")  # a server takes it
    parameters = read_batching_parameters(path)
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches")
    assert [number_of(parameters, name) for name in names] == [1000, 0, 10]


def test_labels_alone_serve_the_versions_that_they_name(tmp_path):
    config = model_config({"distilbert": "/models/distilbert"}, labels={"stable": 3, "canary": 4})
    assert config == text_format.Parse(MODELS, model_server_config_pb2.ModelServerConfig())
    path = write_config(tmp_path / "models.config", config, "for the server")
    assert read_model_config(path) == config


def policy_of(**options):
    config = model_config({"m": "gs://bucket/m"}, **options)
    return text_format.MessageToString(
        config.model_config_list.config[0].model_version_policy, as_one_line=True
    )


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ({}, "latest { num_versions: 1 }"),
        ({"num_versions": 2}, "latest { num_versions: 2 }"),
        ({"num_versions": 2, "labels": {"a": 1, "b": 2}}, "latest { num_versions: 2 }"),
        ({"versions": [7, 9]}, "specific { versions: 7 versions: 9 }"),
        ({"versions": [7, 9], "labels": {"stable": 9}}, "specific { versions: 7 versions: 9 }"),
        ({"labels": {"stable": 9, "old": 7, "new": 9}}, "specific { versions: 7 versions: 9 }"),
        ({"all_versions": True, "labels": {"stable": 9}}, "all { }"),
    ],
)
def test_policies(options, policy):
    assert policy_of(**options) == policy


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ({}, {}, "must be a model"),
        ({"m": "models/m"}, {}, "base path of model 'm' must be absolute.*'models/m'"),
        ({"a/b": "/m"}, {}, "'a/b' cannot be the name of a model"),
        ({"m": "/m"}, {"num_versions": 0}, "num_versions must be"),
        ({"m": "/m"}, {"versions": []}, "versions is empty"),
        ({"m": "/m"}, {"versions": [0]}, "A version must be"),
        ({"m": "/m"}, {"versions": [1], "all_versions": True}, "Give one of"),
        ({"m": "/m"}, {"labels": {"st:able": 1}}, "'st:able' cannot be the label"),
        ({"m": "/m"}, {"labels": {"stable": -1}}, "The version of label 'stable' must be"),
        ({"m": "/m"}, {"versions": [1], "labels": {"b": 2}}, r"'b' is on version 2, .*: \[1\]"),
        ({"m": "/m"}, {"num_versions": 1, "labels": {"a": 1, "b": 2}}, "on 2 versions, but num"),
        ({"m": "/m", "n": "/n"}, {"labels": {"a": 1}}, "are those of one model"),
    ],
)
def test_senseless_models(models, options, message):
    with pytest.raises(ConfigError, match=message):
        model_config(models, **options)


def test_several_models():
    config = model_config({"a": "/models/a", "b": "/models/b"}, num_versions=2)
    config.MergeFrom(model_config({"c": "/models/c"}, labels={"stable": 1}))
    names = [model.name for model in config.model_config_list.config]
    assert names == ["a", "b", "c"]


def test_monitoring(tmp_path):
    config = monitoring_config()
    expected = 'prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }'
    assert config == text_format.Parse(expected, MonitoringConfig())
    path = write_config(tmp_path / "monitoring.config", config)
    assert read_monitoring_config(path) == config
    with pytest.raises(ConfigError, match="must begin with a slash; it is 'metrics'"):
        monitoring_config("metrics")
    for text, expected in [
        ("prometheus_config { enable: true path: '/m' }", "/m"),
        ("prometheus_config { enable: true }", METRICS_PATH),
        ("prometheus_config { path: 'm' }", None),
    ]:
        path.write_text(text)
        assert metrics_path_of(read_monitoring_config(path)) == expected
    for text, message in [
        ("prometheus_config { enable: true path: 'm' }", "monitoring.config: prometheus_config.pa"),
        ("prometheus {}", "monitoring.config:1:1 : .*should be a MonitoringConfig"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_monitoring_config(path)


def test_files_that_are_no_text(tmp_path):
    path = tmp_path / "models.config"
    path.write_bytes(b"# fine\nmodel_config_list {}\xff")
    with pytest.raises(ConfigError, match="models.config:2:21 : this is not UTF-8"):
        read_model_config(path)
    with pytest.raises(FileNotFoundError):
        read_model_config(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_config_list {", r"models.config:1:19 : .*ModelServerConfig"),
        ("custom_model_config {}", "Only a model_config_list is supported"),
        ("model_config_list { config { base_path: 'x' } }", "A model has no name"),
        ("model_config_list { config { name: 'm' } }", "Model m has no base_path"),
        (
            "model_config_list { config { name: 'm' base_path: 'x' } }",
            "Model m: model_platform is ''; it must be 'tensorflow'",
        ),
        (
            "model_config_list { config { name: 'm' base_path: 'x' model_platform: 'tensorflow' "
            "model_version_policy { specific {} } } }",
            "Model m: its specific versions are none",
        ),
        (
            "model_config_list {"
            + 2 * "config { name: 'm' base_path: 'x' model_platform: 'tensorflow' }"
            + "}",
            "Illegal to list model m multiple times",
        ),
    ],
)
def test_models_that_a_server_refuses(tmp_path, text, message):
    path = tmp_path / "models.config"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_model_config(path)
    assert "models.config" in str(caught.value)


def test_policies_and_labels_of_a_command_line():
    assert parse_policy(None) == {}
    assert parse_policy("latest") == {"num_versions": 1}
    assert parse_policy("latest:3") == {"num_versions": 3}
    assert parse_policy("all") == {"all_versions": True}
    assert parse_policy("4,7") == {"versions": [4, 7]}
    for wrong in ("newest", "latest:", "latest:x", "1,b", "", "all:2", "-1"):
        with pytest.raises(ConfigError, match="The policy must be"):
            parse_policy(wrong)
    assert parse_labels(["stable:1", "canary:22"]) == {"stable": 1, "canary": 22}
    for wrong in ("stable", "stable:", ":1", "stable:one"):
        with pytest.raises(ConfigError, match="A label is written LABEL:VERSION"):
            parse_labels([wrong])
    with pytest.raises(ConfigError, match="given twice"):
        parse_labels(["stable:1", "stable:2"])


def test_the_files_of_a_version(tmp_path):
    parameters = batching_parameters(4, 3.0)
    warmup = ["serving_default", "classify"]
    written = write_serving_files(tmp_path, SIGNATURES, warmup, parameters)
    assert written == [tmp_path / "batching_params.pbtxt", tmp_path / WARMUP_FILE]
    assert read_batching_parameters(written[0]) == parameters
    assert len(read_warmup(written[1])) == 2 * 3  # a short row, a long one, and a full run
    every = batching_parameters(4, allowed_batch_sizes="all")
    write_serving_files(tmp_path, SIGNATURES, warmup, every)
    assert len(read_warmup(written[1])) == 2 * 5
    # No signature is in use: no warm-up.
    cold = tmp_path / "cold"
    cold.mkdir()
    assert write_serving_files(cold, SIGNATURES, []) == [cold / "batching_params.pbtxt"]
    assert list(cold.iterdir()) == [cold / "batching_params.pbtxt"]


@pytest.fixture
def base_path(tmp_path):
    for version in (1, 2, 10):
        (tmp_path / "base" / str(version)).mkdir(parents=True)
    return tmp_path / "base"


def test_the_command_writes_what_a_server_is_started_with(base_path, tmp_path, capsys):
    output = tmp_path / "made" / "config"
    cli.main(
        [
            "serving-config",
            f"--model_base_path={base_path}",
            "--model_name=reviews",
            "--labels=stable:1,canary:10",
            "--max_batch_size=8",
            "--threads=2",
            f"--output={output}",
        ]
    )
    names = ["models.config", "batching_params.pbtxt", "monitoring.config", "tf_serving.env"]
    names += ["tf_serving.protoset"]
    assert capsys.readouterr().out == "".join(f"wrote {output / name}\n" for name in names)
    assert sorted(path.name for path in output.iterdir()) == sorted(names)
    assert read_model_config(output / "models.config") == model_config(
        {"reviews": "/models/reviews"}, labels={"stable": 1, "canary": 10}
    )
    assert read_batching_parameters(output / "batching_params.pbtxt") == batching_parameters(
        8, threads=2
    )
    assert read_monitoring_config(output / "monitoring.config") == monitoring_config()
    lines = (output / "tf_serving.env").read_text().splitlines()
    assert dict(line.split("=") for line in lines if line and line[0] != "#") == (
        serving_environment()
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--labels=stable:3"], r"There is no version 3 in .*base, but \[1, 2, 10\]"),
        (["--policy=2,5"], "There is no version 5"),
        (["--policy=last"], "The policy must be latest"),
        (["--served_path=models"], "must be absolute"),
        (["--model_base_path=./nowhere"], "no versions of a model in nowhere"),
    ],
)
def test_the_command_says_what_is_wrong(base_path, tmp_path, capsys, flags, message):
    output = tmp_path / "config"
    arguments = [f"--model_base_path={base_path}", f"--output={output}", *flags]
    with pytest.raises(SystemExit):
        cli.main(["serving-config", *arguments])
    shown = capsys.readouterr().err
    assert re.search(message, shown)
    assert not output.exists()
