"""The smoke test passes on the local server, and sees what is wrong with bad ones."""

import os
import re
import subprocess
import sys

import distilbert_serving.smoke_test.run as smoke_test_module
import fake_serving
import numpy as np
import pytest
import serving_models
import tensorflow as tf
from absl import flags
from distilbert_serving.client.predict_client import Tls
from distilbert_serving.client.tls_flags import make_tls
from distilbert_serving.server import ModelServer
from distilbert_serving.smoke_test.run import FAILED, OK, SKIPPED, smoke_test
from distilbert_serving.tf_serving.config_protos import BatchingParameters
from distilbert_serving.tf_serving.serving_config import METRICS_PATH
from processes import finish


class Table(list):
    """The lines of a report, and the states and notes in it by check."""

    @property
    def states(self):
        return {name: state for state, name, _ in self._rows()}

    @property
    def notes(self):
        return {name: note for _, name, note in self._rows()}

    def _rows(self):
        for line in self[:-1]:
            yield re.fullmatch(r"(\S+) +(.+?) +[\d.]+ ms  (.*)\n", line, re.DOTALL).groups()


def run(target, wait_s=5.0, **options):
    table = Table()
    passed = smoke_test(target, "m", wait_s=wait_s, timeout_s=20.0, report=table.append, **options)
    return passed, table


@pytest.fixture(scope="module")
def target(server):
    return f"127.0.0.1:{server.port}"


def serve(path):
    return ModelServer(path, "m", port=0)


def save(path, answer, signature="text"):
    """Writes a model whose one signature is a function of texts."""
    module = tf.Module()
    module.answer = tf.function(
        answer, input_signature=[tf.TensorSpec([None], tf.string, name=signature)]
    )
    tf.saved_model.save(module, os.fspath(path), signatures=module.answer)


def test_a_good_server_passes(target):
    passed, table = run(target)
    assert passed, "".join(table)
    states = table.states
    for name in (
        "ready", "status", "metadata", "one text", "many rows", "odd texts", "concurrent calls",
        "bad requests",
    ):  # fmt: skip
        assert states[name] == OK, "".join(table)
    assert states["token ids"] == states["REST predict"] == SKIPPED
    assert table.notes["one text"].startswith("'très long' ")
    assert "version 30: calls, " in table.notes["metadata"]
    assert re.fullmatch(r"\d+ ok, \d+ skipped, 0 FAILED\n", table[-1])


def test_a_script_says_it_with_its_exit_status(target):
    def run_script(code, *flags):
        process = subprocess.Popen(
            [sys.executable, "-m", "distilbert_serving.smoke_test", f"--target={target}", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return finish(process, code)

    assert "ok       many rows" in run_script(0, "--model_name=m")[0]
    report, errors = run_script(1, "--model_name=other", "--wait_s=0.2")
    first, last = report.splitlines()
    assert first.startswith("FAILED   ready")
    assert "not ready within 0.2 s" in first
    assert last == "0 ok, 0 skipped, 1 FAILED"
    assert "Traceback" not in report + errors


def test_requests_fit_to_the_servers_batches(target):
    passed, table = run(target, batch_size=2)
    assert passed, "".join(table)
    assert table.notes["many rows"] == "2 rows"
    assert table.notes["odd texts"].startswith("2 rows")


def test_nobody_there():
    passed, table = run("127.0.0.1:1", wait_s=0.3, rest_target="127.0.0.1:1")
    assert not passed
    assert table.states["ready"] == FAILED


def depends_on_neighbours(text):
    return {
        "length": tf.cast(tf.strings.length(text), tf.float32) + tf.cast(tf.size(text), "float")
    }


def not_finite(text):
    size = tf.cast(tf.strings.length(text), tf.float32)
    return {"score": 1.0 / size}  # infinite for an empty text


def sums_to_more(text):
    rows = tf.size(text)
    return {
        "label": tf.fill([rows], "good"),
        "probabilities": tf.tile([[0.75, 0.5]], [rows, 1]),
        "logits": tf.tile([[0.75, 0.5]], [rows, 1]),
    }


@pytest.mark.parametrize(
    ("answer", "check", "message"),
    [
        (
            depends_on_neighbours,
            "many rows",
            "single texts: length is [143.0] instead of [44.0]; they differ by 9.9e+01",
        ),
        (depends_on_neighbours, "odd texts", "differ by"),
        (not_finite, "odd texts", "score is not finite"),
        (sums_to_more, "one text", "probabilities do not sum to 1: [[0.75, 0.5]]"),
    ],
)
def test_wrong_answers_are_seen(tmp_path, answer, check, message):
    save(tmp_path / "1", answer)
    with serve(tmp_path) as server:
        passed, table = run(f"127.0.0.1:{server.port}")
    assert not passed
    assert table.states[check] == FAILED
    assert message in table.notes[check]


def test_a_model_that_takes_no_text(tmp_path):
    save(tmp_path / "1", lambda text: {"echo": text}, signature="words")
    with serve(tmp_path) as server:
        passed, table = run(f"127.0.0.1:{server.port}")
    assert not passed
    assert "serving_default does not take 'text'" in table.notes["metadata"]
    assert table.states["one text"] == SKIPPED


TEXT = tf.TensorSpec([None], tf.string, name="text")
IDS = tf.TensorSpec([None, None], tf.int32, name="input_ids")
COUNTS = tf.TensorSpec([None], tf.int32, name="num_tokens")
MASK = tf.TensorSpec([None, None], tf.int32, name="attention_mask")


class Model(tf.Module):
    """A model with the signatures of an export: its logits are those of a text's length.

    Args:
        shift: Added to the length where ids are given.
        blank: What the numbers of a row that cannot be computed are.
        spoils: Whether such a row spoils the others.
        is_old: Whether `from_ids` takes a mask.
    """

    def __init__(self, shift=0, blank=np.nan, spoils=False, is_old=False):
        super().__init__()
        self.shift, self.blank, self.spoils, self.is_old = shift, blank, spoils, is_old

    def logits(self, sizes, is_valid):
        logits = tf.stack([tf.cast(sizes, tf.float32) / 10.0, tf.zeros(tf.shape(sizes))], axis=1)
        ids = tf.where(is_valid, tf.argmax(logits, axis=1, output_type=tf.int32), -1)
        if self.spoils:
            logits += tf.cast(tf.reduce_any(~is_valid), tf.float32) * [1.0, 0.0]
        logits = tf.where(is_valid[:, tf.newaxis], logits, self.blank)
        labels = tf.where(is_valid, tf.gather(["long", "short"], tf.maximum(ids, 0)), "")
        probabilities = tf.nn.softmax(logits)
        return {"label": labels, "label_id": ids, "probabilities": probabilities, "logits": logits}

    def save(self, path):
        @tf.function(input_signature=[TEXT])
        def classify(text):
            return self.logits(tf.strings.length(text), tf.ones_like(text, tf.bool))

        @tf.function(input_signature=[TEXT])
        def tokenize(text):
            tokens = tf.strings.bytes_split(text).to_tensor(default_value="", shape=[None, 5000])
            is_token = tf.cast(tokens != "", tf.int32)
            counts = tf.reduce_sum(is_token, axis=1)
            return {"input_ids": 7 * is_token, "num_tokens": counts, "tokens": tokens}

        def answer_ids(input_ids, counts):
            is_padding = tf.range(tf.shape(input_ids)[1]) >= counts[:, tf.newaxis]
            is_valid = tf.reduce_all((input_ids >= 0) | is_padding, axis=1)
            return self.logits(counts + self.shift, is_valid)

        if self.is_old:
            from_ids = tf.function(
                lambda input_ids, attention_mask: answer_ids(
                    input_ids, tf.reduce_sum(attention_mask, axis=1)
                ),
                input_signature=[IDS, MASK],
            )
        else:
            from_ids = tf.function(answer_ids, input_signature=[IDS, COUNTS])
        endpoints = {"serving_default": classify, "tokenize": tokenize, "from_ids": from_ids}
        self.endpoints = list(endpoints.values())
        tf.saved_model.save(self, os.fspath(path), signatures=endpoints)


@pytest.mark.parametrize(
    ("model", "batching", "check", "message"),
    [
        ({}, {"pad_variable_length_inputs": True}, None, ""),
        ({"shift": 3}, {}, "token ids", "ids and texts: "),
        ({"blank": 0.0}, {}, "bad rows", "of a row that cannot be computed is [0"),
        ({"spoils": True}, {}, "bad rows", "from_ids with a bad row and without: "),
        ({"is_old": True}, {}, "export", "Export the model again; until then, delete"),
        ({}, {"max_batch_size": {"value": 32}}, "many rows", "enable_large_batch_splitting to t"),
        ({}, {}, "different lengths", "set pad_variable_length_inputs: true in batching_params.pb"),
    ],
)  # fmt: skip
def test_exports_and_servers_whose_rows_hurt_each_other_are_seen(
    tmp_path, model, batching, check, message
):
    Model(**model).save(tmp_path / "1")
    parameters = BatchingParameters(num_batch_threads={"value": 1}, **batching)
    with ModelServer(tmp_path, "m", port=0, batching=parameters) as server:
        passed, table = run(f"127.0.0.1:{server.port}")
    report = "".join(table)
    assert passed == (check is None), report
    if check is None:
        assert table.notes["different lengths"].startswith("24 at once, of 2 to ")
        return
    assert table.states[check] == FAILED, report
    assert message in table.notes[check], report
    if check == "export":
        assert table.states["token ids"] == table.states["bad rows"] == SKIPPED, report


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_no_request_without_rows_is_sent(batch_size):
    servicer = fake_serving.FakeServing()
    server, port = fake_serving.start(servicer)
    _, table = run(f"127.0.0.1:{port}", batch_size=batch_size)
    server.stop(0)
    for name in ("many rows", "odd texts", "different lengths", "bad rows"):
        assert table.states[name] == OK, "".join(table)
    sizes = [
        proto.tensor_shape.dim[0].size
        for request in servicer.requests
        if hasattr(request, "inputs")
        for proto in request.inputs.values()
    ]
    assert min(sizes) == 1
    assert max(sizes) == batch_size


def test_rest_answers_as_grpc_does(tmp_path, base_path, target):
    serving_models.save_constant(tmp_path / "1", "short")
    for path, state in ((base_path, OK), (tmp_path, FAILED)):
        # The second has another model of the same name.
        with ModelServer(path, "m", port=0, rest_port=0, monitoring_path=METRICS_PATH) as rest:
            passed, table = run(target, rest_target=f"127.0.0.1:{rest.rest_port}")
        assert passed == (state == OK)
        assert table.states["REST predict"] == state, "".join(table)
        for name in ("REST status", "REST bad request", "metrics"):
            assert table.states[name] == OK, "".join(table)
    with ModelServer(base_path, "m", port=0, rest_port=0) as rest:
        passed, table = run(target, rest_target=f"http://127.0.0.1:{rest.rest_port}/")
    assert passed
    assert table.states["metrics"] == SKIPPED


def test_flags_for_tls():
    values = flags.FlagValues()
    smoke_test_module.define_flags(values)
    values(["smoke_test"])
    assert make_tls(values) is None
    values(["smoke_test", "--tls"])
    assert make_tls(values) == Tls()
    files = {name: f"{name}.pem" for name in ("root_certificates", "client_key", "server_name")}
    values(["smoke_test", "--notls", *(f"--{name}={file}" for name, file in files.items())])
    assert make_tls(values) == Tls(**files)


def test_the_smoke_test_needs_no_tensorflow():
    code = "import sys, distilbert_serving.smoke_test.run; sys.exit('tensorflow' in sys.modules)"
    finish(subprocess.Popen([sys.executable, "-c", code]))
