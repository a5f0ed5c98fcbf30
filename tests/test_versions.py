"""Versions that come, go and break while a server runs, and models that it is told to serve."""

import shutil
import threading
import time

import grpc
import pytest
import serving_models
import tensorflow as tf
from serving_models import call, make_request, publish, set_spec
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from waiting import wait_until

from export.configuration.tfrecord import write_records
from export.configuration.warmup import KINDS, WARMUP_FILE
from export.server import ModelServer, warmup
from export.server.model_config import ModelSettings, VersionPolicy, read_settings_file
from export.server.versions import LoadOptions

Code = grpc.StatusCode
State = get_model_status_pb2.ModelVersionStatus
LOADING = LoadOptions(poll_wait_s=0.02, max_num_load_retries=1, retry_interval_s=0.1)


class Running:
    """A server under test, and stubs for it."""

    def __init__(self, server):
        self.server = server
        self.channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def label(self, **spec):
        return call(self.predictions, {"text": ["x"]}, **spec)["label"].tolist()[0].decode()

    def code(self, **spec):
        with pytest.raises(grpc.RpcError) as caught:
            self.label(**spec)
        return caught.value.code()

    def states(self, name="m"):
        request = get_model_status_pb2.GetModelStatusRequest()
        set_spec(request.model_spec, name)
        found = self.models.GetModelStatus(request, timeout=10).model_version_status
        return {one.version: (one.state, one.status.error_message) for one in found}

    def reload(self, text):
        request = model_management_pb2.ReloadConfigRequest()
        tf.compat.v1  # noqa: B018 (the real TensorFlow, before its messages are parsed)
        from google.protobuf import text_format

        text_format.Parse(text, request.config)
        return self.models.HandleReloadConfigRequest(request, timeout=30)

    def wait_for_state(self, version, state):
        wait_until(lambda: self.states().get(version, (None,))[0] == state)


@pytest.fixture
def start():
    """Starts servers; stops them in the end."""
    servers = []

    def start_one(*args, **kwargs):
        kwargs = {"port": 0, "loading": LOADING, **kwargs}
        servers.append(ModelServer(*args, **kwargs).start())
        return Running(servers[-1])

    yield start_one
    for server in servers:
        server.stop()


def test_a_new_version_takes_over_and_the_old_one_goes(made, start, tmp_path):
    publish(made, "a", tmp_path / "1")
    running = start(tmp_path, "m")
    assert running.label() == "a"
    publish(made, "b", tmp_path / "2")
    wait_until(lambda: running.label() == "b")
    running.wait_for_state(1, State.END)
    assert running.states() == {2: (State.AVAILABLE, ""), 1: (State.END, "")}
    assert running.code(version=1) == Code.NOT_FOUND


def test_a_lower_number_changes_nothing(made, start, tmp_path):
    publish(made, "b", tmp_path / "2")
    running = start(tmp_path, "m")
    publish(made, "a", tmp_path / "1")
    time.sleep(0.2)
    assert running.label() == "b"
    assert running.states() == {2: (State.AVAILABLE, "")}


def test_a_deleted_version_is_unloaded_and_the_one_before_is_back(made, start, tmp_path):
    publish(made, "a", tmp_path / "1")
    publish(made, "b", tmp_path / "2")
    running = start(tmp_path, "m")
    shutil.rmtree(tmp_path / "2")
    wait_until(lambda: running.label() == "a")
    running.wait_for_state(2, State.END)
    shutil.rmtree(tmp_path / "1")
    running.wait_for_state(1, State.END)
    assert running.code() == Code.NOT_FOUND
    publish(made, "c", tmp_path / "1")
    running.wait_for_state(1, State.AVAILABLE)
    assert running.label() == "c"


def test_a_base_path_that_is_away_for_a_while_changes_nothing(made, start, tmp_path):
    publish(made, "a", tmp_path / "base" / "1")
    running = start(tmp_path / "base", "m")
    (tmp_path / "base").rename(tmp_path / "away")
    time.sleep(0.2)
    assert running.label() == "a"
    (tmp_path / "away").rename(tmp_path / "base")
    publish(made, "b", tmp_path / "base" / "2")
    wait_until(lambda: running.label() == "b")


def break_variables(path):
    (path / "variables" / "variables.index").unlink()


def break_graph(path):
    (path / "saved_model.pb").write_bytes(b"\xff" * 10)


def break_warmup(path):
    (path / WARMUP_FILE).parent.mkdir()
    (path / WARMUP_FILE).write_bytes(b"this is no TFRecord")


def write_warmup(path, *logs):
    (path / WARMUP_FILE).parent.mkdir()
    write_records(
        path / WARMUP_FILE,
        (log if isinstance(log, bytes) else log.SerializeToString() for log in logs),
    )


def predict_log(inputs):
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(make_request(inputs))
    return log


def break_warmup_request(path):
    write_warmup(path, predict_log({"text": ["fits"]}), predict_log({"no_text": ["x"]}))


def break_batching(path):
    (path / "batching_params.pbtxt").write_text("max_batch_size { value: 0 }")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_graph, "saved_model.pb is damaged"),
        (break_warmup, f"{WARMUP_FILE}: record 0, at byte 0: the checksum of its length is wrong"),
        (
            break_warmup_request,
            "record 1 gets INVALID_ARGUMENT: input size does not match",
        ),
        (
            break_batching,
            "batching_params.pbtxt: max_batch_size must be an integer of at least 1",
        ),
        (lambda path: (path / "saved_model.pb").unlink(), "saved_model.pb"),
    ],
    ids=["graph", "warm-up file", "warm-up request", "batching", "no graph"],
)
def test_a_broken_version_is_not_served_and_says_why(made, start, tmp_path, damage, message):
    publish(made, "a", tmp_path / "1")
    running = start(tmp_path, "m")
    publish(made, "b", tmp_path / "2", damage)
    wait_until(lambda: 2 in running.states() and running.states()[2][0] == State.END)
    assert message in running.states()[2][1]
    assert running.label() == "a"
    assert running.states()[1] == (State.AVAILABLE, "")
    # Mended, it is tried again.
    shutil.rmtree(tmp_path / "2")
    publish(made, "b", tmp_path / "2")
    wait_until(lambda: running.label() == "b")


def test_variables_that_are_missing(made, tmp_path):
    path = tmp_path / "1"
    serving_models.save(path)
    break_variables(path)
    with pytest.raises(FileNotFoundError, match="1/variables/variables"):
        ModelServer(tmp_path, "m", port=0).start()


def test_a_half_written_version_is_served_when_it_is_whole(made, start, tmp_path):
    publish(made, "a", tmp_path / "1")
    running = start(tmp_path, "m", loading=LoadOptions(poll_wait_s=0.02, retry_interval_s=1000.0))
    (tmp_path / "2").mkdir()
    running.wait_for_state(2, State.END)
    graph = (made / "b" / "saved_model.pb").read_bytes()
    (tmp_path / "2" / "saved_model.pb").write_bytes(graph[: len(graph) // 2])
    wait_until(lambda: "damaged" in running.states()[2][1])
    assert running.label() == "a"
    shutil.copytree(made / "b", tmp_path / "2", dirs_exist_ok=True)
    wait_until(lambda: running.label() == "b")


def test_loading_is_tried_again_so_often(made, tmp_path):
    publish(made, "a", tmp_path / "1")
    break_graph(tmp_path / "1")
    publish(made, "b", tmp_path / "2")
    attempts = []

    class Counting:
        def __getattr__(self, name):
            return lambda *args: attempts.append(args) if name == "observe_load" else None

    policy = VersionPolicy(all=True)
    models = [ModelSettings("m", tmp_path, policy)]
    with ModelServer(models=models, port=0, loading=LOADING, metrics=Counting()):
        time.sleep(1.0)
    tried = [(version, ok) for _, version, _, ok in attempts]
    assert tried == [(2, True), (1, False), (1, False)]


def test_warmup_requests_are_run(made, start, tmp_path):
    path = tmp_path / "1"
    serving_models.save(path)
    count = predict_log({"text": ["a"], "gate": [""]})
    count.predict_log.request.model_spec.signature_name = serving_models.CALLS
    classify = prediction_log_pb2.PredictionLog()
    classify.classify_log.request.model_spec.signature_name = "classify"
    examples = classify.classify_log.request.input.example_list.examples
    examples.add().CopyFrom(serving_models.make_example(text="x"))
    write_warmup(path, count, classify, count, count)
    running = start(tmp_path, "m")
    outputs = call(
        running.predictions, {"text": ["a"], "gate": [""]}, signature=serving_models.CALLS
    )
    assert outputs["run"].tolist() == [4]


def test_every_kind_of_request_can_be_run():
    assert set(warmup._CALLS) == set(KINDS)


def test_at_most_a_thousand_warmup_requests(made, tmp_path):
    publish(made, "a", tmp_path / "1")
    write_warmup(tmp_path / "1", *[predict_log({"text": ["x"]})] * 1001)
    with pytest.raises(ValueError, match="1001 records; a server refuses more than 1000"):
        ModelServer(tmp_path, "m", port=0).start()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"\xff" * 20, "record 0 is no PredictionLog"),
        (
            prediction_log_pb2.PredictionLog(),
            "record 0 is no request .* log_type is None, not",
        ),
    ],
)
def test_records_that_are_no_requests(made, tmp_path, record, message):
    publish(made, "a", tmp_path / "1")
    write_warmup(tmp_path / "1", record)
    with pytest.raises(ValueError, match=message):
        ModelServer(tmp_path, "m", port=0).start()


def test_no_request_fails_while_versions_change(made, start, tmp_path):
    publish(made, "a", tmp_path / "1")
    running = start(tmp_path, "m")
    seen, errors, stop = [], [], threading.Event()

    def ask():
        while not stop.is_set():
            try:
                seen.append(running.label())
            except grpc.RpcError as error:
                errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for version, label in enumerate("bcab", start=2):
        publish(made, label, tmp_path / str(version))
        running.wait_for_state(version, State.AVAILABLE)
        running.wait_for_state(version - 1, State.END)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert set(seen) == {"a", "b", "c"}
    assert running.label() == "b"


def test_a_request_ends_on_the_version_that_it_began_on(made, start, tmp_path):
    serving_models.save(tmp_path / "1")
    running = start(tmp_path, "m")
    gate = tmp_path / "gate"
    request = make_request({"text": ["held"], "gate": [str(gate)]}, signature=serving_models.CALLS)
    held = running.predictions.Predict.future(request, timeout=60)
    try:
        wait_until(gate.with_suffix(".started").exists)
        publish(made, "b", tmp_path / "2")
        running.wait_for_state(1, State.UNLOADING)
        assert running.label() == "b"
        assert not held.done()
    finally:
        gate.touch()
    assert tf.make_ndarray(held.result().outputs["echo"]).tolist() == [b"held"]
    running.wait_for_state(1, State.END)


CONFIG = """
model_config_list {{
  config {{
    name: "m" base_path: "{path}" model_platform: "tensorflow"
    model_version_policy {{ {policy} }}
    {labels}
  }}
  {more}
}}
"""


def config(path, policy="all {}", labels=None, more=""):
    text = " ".join(
        f'version_labels {{ key: "{label}" value: {version} }}'
        for label, version in (labels or {}).items()
    )
    return CONFIG.format(path=path, policy=policy, labels=text, more=more)


@pytest.fixture
def three(made, tmp_path):
    for version, label in enumerate("abc", start=1):
        publish(made, label, tmp_path / "three" / str(version))
    return tmp_path / "three"


def start_config(start, tmp_path, text, **kwargs):
    file = tmp_path / "models.config"
    file.write_text(text)
    return start(models=read_settings_file(file), **kwargs)


def test_policies(start, three, tmp_path):
    running = start_config(start, tmp_path, config(three, "latest { num_versions: 2 }"))
    assert [running.label(version=v) for v in (2, 3)] == ["b", "c"]
    assert running.code(version=1) == Code.NOT_FOUND
    running.reload(config(three, "specific { versions: 1 versions: 2 }"))
    assert running.label() == "b"
    assert running.label(version=1) == "a"
    running.wait_for_state(3, State.END)
    running.reload(config(three, "all {}"))
    assert [running.label(version=v) for v in (1, 2, 3)] == ["a", "b", "c"]


def test_labels(start, three, tmp_path):
    labels = {"stable": 1, "canary": 3}
    running = start_config(start, tmp_path, config(three, labels=labels))
    assert running.label(label="stable") == "a"
    assert running.label(label="canary") == "c"
    assert running.code(label="none") == Code.INVALID_ARGUMENT
    running.reload(config(three, "specific { versions: 2 versions: 3 }", {"stable": 2}))
    assert running.label(label="stable") == "b"
    assert running.code(label="canary") == Code.INVALID_ARGUMENT


def test_labels_only_of_versions_that_answer(start, three, tmp_path):
    wrong = config(three, "specific { versions: 1 }", {"stable": 2})
    with pytest.raises(ValueError, match=r"label stable to version 2 of model m, .* not curren"):
        start_config(start, tmp_path, wrong)
    running = start_config(start, tmp_path, wrong, allow_version_labels_for_unavailable_models=True)
    assert running.code(label="stable") == Code.NOT_FOUND
    running = start_config(start, tmp_path, config(three, labels={"stable": 1}))
    with pytest.raises(grpc.RpcError) as caught:
        running.reload(wrong)
    assert caught.value.code() == Code.FAILED_PRECONDITION
    # All is as it was.
    assert running.label(label="stable") == "a"
    assert running.label() == "c"


def test_models_come_and_go(made, start, three, tmp_path):
    publish(made, "b", tmp_path / "other" / "7")
    more = f'config {{ name: "n" base_path: "{tmp_path}/other" model_platform: "tensorflow" }}'
    running = start_config(start, tmp_path, config(three))
    assert running.code(name="n") == Code.NOT_FOUND
    running.reload(config(three, more=more))
    assert [running.label(), running.label(name="n"), running.label(name="n", version=7)] == [
        "c",
        "b",
        "b",
    ]
    running.reload(config(tmp_path / "other"))
    assert running.label() == "b"
    assert running.code(name="n") == Code.NOT_FOUND


def test_a_config_that_cannot_be_served_changes_nothing(start, three, tmp_path):
    running = start_config(start, tmp_path, config(three))
    for text, code in [
        (config(tmp_path / "nowhere"), Code.NOT_FOUND),
        (config(three, "specific { versions: 9 }"), Code.NOT_FOUND),
        (config(three, "specific {}"), Code.INVALID_ARGUMENT),
        ("", Code.INVALID_ARGUMENT),
    ]:
        with pytest.raises(grpc.RpcError) as caught:
            running.reload(text)
        assert caught.value.code() == code, text
        assert running.label() == "c"


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
            "model_config_list {"
            + 2 * "config { name: 'm' base_path: 'x' model_platform: 'tensorflow' }"
            + "}",
            "Illegal to list model m multiple times",
        ),
    ],
)
def test_config_files_that_are_wrong(tmp_path, text, message):
    file = tmp_path / "models.config"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_settings_file(file)
