"""Versions of a model that come, go and break while a server runs."""

import gc
import shutil
import time
import weakref

import grpc
import pytest
import serving_models
import tensorflow as tf
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.server.versions import collect_garbage
from distilbert_serving.signatures import REGRESS_METHOD
from distilbert_serving.tf_serving.serving_config import model_config
from distilbert_serving.tf_serving.tfrecord import write_records
from distilbert_serving.tf_serving.warmup import WARMUP_FILE
from serving_models import call, make_request, publish
from tensorflow_serving.apis import get_model_status_pb2, prediction_log_pb2
from waiting import wait_until

Code = grpc.StatusCode
State = get_model_status_pb2.ModelVersionStatus


class Circle:
    """Garbage that only a collection finds."""

    def __init__(self):
        self.itself = self


@pytest.mark.parametrize("freeze", [False, True])
def test_garbage_is_collected_even_if_it_is_frozen(freeze):
    circle = Circle()
    alive = weakref.ref(circle)
    try:
        if freeze:
            gc.freeze()
        del circle
        collect_garbage()
        assert alive() is None
        assert bool(gc.get_freeze_count()) == freeze
    finally:
        gc.unfreeze()


def test_a_new_version_takes_over_and_the_old_one_goes(made, start, tmp_path):
    publish(made, "a", tmp_path / "1")
    running = start(tmp_path, "m")
    assert running.label() == "a"
    publish(made, "b", tmp_path / "2")
    wait_until(lambda: running.label() == "b")
    running.wait_for_state(1, State.END)
    publish(made, "c", tmp_path / "0")  # a lower number changes nothing
    time.sleep(0.2)
    assert running.states() == {2: (State.AVAILABLE, ""), 1: (State.END, "")}
    assert running.code(version=1) == Code.NOT_FOUND


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
        (lambda path: (path / "saved_model.pb").unlink(), "it has no saved_model.pb"),
        (lambda path: (path / "saved_model.pb").write_bytes(b""), "no graphs at all"),
    ],
    ids=["graph", "warm-up file", "warm-up request", "batching", "no graph", "empty graph"],
)
def test_a_broken_version_is_not_served_and_says_why(made, start, tmp_path, damage, message):
    publish(made, "a", tmp_path / "1")
    running = start(tmp_path, "m")
    publish(made, "b", tmp_path / "2", damage)
    wait_until(lambda: 2 in running.states() and running.states()[2][0] == State.END)
    assert message in running.states()[2][1]
    assert running.label() == "a"
    assert running.states()[1] == (State.AVAILABLE, "")
    # Gone for a while and then mended, it is tried again, however often it failed.
    shutil.rmtree(tmp_path / "2")
    time.sleep(0.2)
    publish(made, "b", tmp_path / "2")
    wait_until(lambda: running.label() == "b")


def test_a_half_written_version_is_served_when_it_is_whole(made, start, tmp_path):
    publish(made, "a", tmp_path / "1")
    running = start(tmp_path, "m", max_num_load_retries=1000)
    (tmp_path / "2").mkdir()
    running.wait_for_state(2, State.END)
    graph = (made / "b" / "saved_model.pb").read_bytes()
    (tmp_path / "2" / "saved_model.pb").write_bytes(graph[: len(graph) // 2])
    wait_until(lambda: "damaged" in running.states()[2][1])
    assert running.label() == "a"
    shutil.copytree(made / "b", tmp_path / "2", dirs_exist_ok=True)
    wait_until(lambda: running.label() == "b")


def test_loading_is_tried_again_so_often(made, start, tmp_path):
    publish(made, "a", tmp_path / "1")
    break_graph(tmp_path / "1")
    publish(made, "b", tmp_path / "2")
    metrics = Metrics()
    models = model_config({"m": str(tmp_path)}, all_versions=True)
    start(models=models, max_num_load_retries=2, metrics=metrics)
    attempts = (
        b':tensorflow:cc:saved_model:load_attempt_count_total{model_path="m/1",status="fail"}'
    )
    wait_until(lambda: attempts + b" 3.0" in metrics.render())
    time.sleep(0.3)
    assert attempts + b" 3.0" in metrics.render()


def test_warmup_requests_are_run(made, start, tmp_path):
    path = tmp_path / "1"
    serving_models.save(path)
    count = predict_log({"text": ["a"], "gate": [""]})
    count.predict_log.request.model_spec.signature_name = serving_models.CALLS
    others = prediction_log_pb2.PredictionLog(), prediction_log_pb2.PredictionLog()
    for log, method in zip(others, ("classify", "regress"), strict=True):
        request = getattr(log, f"{method}_log").request
        request.model_spec.signature_name = method
        request.input.example_list.examples.add().CopyFrom(serving_models.make_example(text="x"))
    several = prediction_log_pb2.PredictionLog()
    task = several.multi_inference_log.request.tasks.add(method_name=REGRESS_METHOD)
    task.model_spec.name, task.model_spec.signature_name = "m", "regress"
    several.multi_inference_log.request.input.CopyFrom(others[0].classify_log.request.input)
    write_warmup(path, count, *others, several, count, count)
    running = start(tmp_path, "m")
    outputs = call(
        running.predictions, {"text": ["a"], "gate": [""]}, signature=serving_models.CALLS
    )
    assert outputs["run"].tolist() == [4]


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
