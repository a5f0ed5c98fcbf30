"""The smoke test passes on the local server, and sees what is wrong with bad ones."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import serving_models
import tensorflow as tf
from absl import flags

import export.smoke_test as smoke_test_module
from export.calls.tls_flags import make_tls
from export.client import Tls
from export.configuration.serving_config import METRICS_PATH
from export.server import ModelServer
from export.smoke_test import FAILED, OK, SKIPPED, smoke_test

ROOT = Path(__file__).parents[1]


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
        "ready", "status", "metadata", "one text", "many texts", "odd texts", "concurrent calls",
        "bad requests",
    ):  # fmt: skip
        assert states[name] == OK, "".join(table)
    assert states["token ids"] == states["REST predict"] == SKIPPED
    assert table.notes["one text"].startswith("'très long' ")
    assert "version 30: calls, " in table.notes["metadata"]
    assert re.fullmatch(r"\d+ ok, \d+ skipped, 0 FAILED\n", table[-1])


def test_a_script_says_it_with_its_exit_status(target):
    def status_of(*flags):
        command = [sys.executable, "-m", "export.smoke_test", f"--target={target}", *flags]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    good = status_of("--model_name=m")
    assert good.returncode == 0, good.stdout + good.stderr
    assert "ok       many texts" in good.stdout
    bad = status_of("--model_name=other", "--wait_s=0.2")
    assert bad.returncode == 1
    first, last = bad.stdout.splitlines()
    assert first.startswith("FAILED   ready")
    assert "not ready within 0.2 s" in first
    assert last == "0 ok, 0 skipped, 1 FAILED"
    assert "Traceback" not in bad.stdout + bad.stderr


def test_requests_fit_to_the_servers_batches(target):
    passed, table = run(target, batch_size=2)
    assert passed, "".join(table)
    assert table.notes["many texts"] == "2 rows"
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
        (depends_on_neighbours, "many texts", "single texts: length differ by 7.0e+00 in row 0"),
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


def test_ids_and_masks_are_compared_with_texts(tmp_path):
    """A model with all signatures that take text, and with ids that lead elsewhere."""

    class Model(tf.Module):
        def __init__(self, shift):
            super().__init__()
            self.shift = shift

        def logits(self, sizes):
            sizes = tf.cast(sizes, tf.float32)
            logits = tf.stack([sizes / 10.0, -sizes / 10.0], axis=1)
            labels = tf.gather(tf.constant(["long", "short"]), tf.argmax(logits, axis=1))
            return {"label": labels, "probabilities": tf.nn.softmax(logits), "logits": logits}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def classify(self, text):
            return self.logits(tf.strings.length(text))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def tokenize(self, text):
            ids = tf.strings.bytes_split(text).to_tensor(default_value="")
            mask = tf.cast(ids != "", tf.int32)
            return {"input_ids": mask * 7, "attention_mask": mask, "tokens": ids}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, None], tf.int32, name="input_ids"),
                tf.TensorSpec([None, None], tf.int32, name="attention_mask"),
            ]
        )
        def from_ids(self, input_ids, attention_mask):
            sizes = tf.reduce_sum(attention_mask, axis=1) + self.shift
            return self.logits(sizes + 0 * tf.reduce_sum(input_ids, axis=1))

    for shift, state in ((0, OK), (3, FAILED)):
        module = Model(shift)
        tf.saved_model.save(
            module,
            os.fspath(tmp_path / str(shift) / "1"),
            signatures={
                "serving_default": module.classify,
                "tokenize": module.tokenize,
                "from_ids": module.from_ids,
            },
        )
        with serve(tmp_path / str(shift)) as server:
            _, table = run(f"127.0.0.1:{server.port}")
        assert table.states["token ids"] == state, "".join(table)
        assert table.states["other signatures"] == OK, "".join(table)


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
    smoke_test_module._define_flags(values)
    values(["smoke_test"])
    assert make_tls(values) is None
    values(["smoke_test", "--tls"])
    assert make_tls(values) == Tls()
    files = {name: f"{name}.pem" for name in ("root_certificates", "client_key", "server_name")}
    values(["smoke_test", "--notls", *(f"--{name}={file}" for name, file in files.items())])
    assert make_tls(values) == Tls(**files)


def test_the_smoke_test_needs_no_tensorflow():
    code = "import sys, export.smoke_test; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
