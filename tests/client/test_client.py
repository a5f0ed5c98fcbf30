"""PredictClient against the local server."""

import os
import subprocess
import sys
from concurrent import futures

import grpc
import numpy as np
import pytest
import serving_models
from comparing import FEW, assert_close
from distilbert_serving.client.predict_client import PredictClient, PredictError
from distilbert_serving.client.results import TensorInfo, VersionStatus
from distilbert_serving.server import ModelServer
from processes import finish

Code = grpc.StatusCode
STRINGS = TensorInfo("string", (None,))
TEXTS = ["abc", "", "a longer text than that", "mid size", "naïve façade", "nul\x00", "x" * 30]


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    serving_models.save(path / "3")
    return path


@pytest.fixture(scope="module")
def target(base_path):
    with ModelServer(base_path, port=0) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def client(target):
    with PredictClient(target) as open_client:
        open_client.wait_until_ready(10.0)
        yield open_client


# Answers.


def test_one_text_gives_one_prediction(client):
    prediction = client.predict("abc")
    assert prediction.label == "short"
    assert prediction.label_id == 0  # the export is older and does not tell
    np.testing.assert_array_equal(prediction.logits, np.float32([3.0, 2.5, -9.0]))
    exponentials = np.exp([3.0, 2.5, -9.0])
    probabilities = exponentials / exponentials.sum()
    assert_close(prediction.probabilities, probabilities, FEW, size=9.0)  # the logits'
    assert prediction.score == prediction.probabilities[0]
    assert client.predict("x" * 30).label == "très long"


def test_predict_takes_any_signature_that_classifies(client):
    pairs = client.predict(TEXTS, TEXTS[::-1], signature_name="pairs", batch_size=3)
    expected = [serving_models.logits_of(*pair) for pair in zip(TEXTS, TEXTS[::-1], strict=True)]
    np.testing.assert_array_equal(pairs.logits, expected)
    np.testing.assert_array_equal(client.predict("abc").logits, serving_models.logits_of("abc"))
    with pytest.raises(ValueError, match=r"'pairs'.*give text_pairs, too"):
        client.predict("abc", signature_name="pairs")
    with pytest.raises(PredictError, match="no signature 'sign', but"):
        client.predict("abc", signature_name="sign")


def test_call_takes_any_signature(client):
    x = np.array([[1.5, -2.0], [0.0, 3.0]], np.float32)
    outputs = client.call({"x": x}, signature_name="finite")
    np.testing.assert_array_equal(outputs["y"], 2 * x)
    assert outputs["y"].dtype == np.float32
    outputs = client.call({"text": ["é", b"\xff\x00"], "gate": ["", ""]}, signature_name="calls")
    assert outputs["echo"].tolist() == ["é".encode(), b"\xff\x00"]
    outputs = client.call({"text": np.array(["ab", "c"])}, outputs=["label"])
    assert {name: array.tolist() for name, array in outputs.items()} == {"label": [b"short"] * 2}


def test_metadata_and_status(client):
    metadata = client.metadata()
    assert (metadata.name, metadata.version) == ("distilbert", 3)
    assert metadata.signatures["pairs"].inputs == {"text": STRINGS, "text_pair": STRINGS}
    assert metadata.signatures["serving_default"].outputs == {
        "label": STRINGS,
        "probabilities": TensorInfo("float", (None, 3)),
        "logits": TensorInfo("float", (None, 3)),
    }
    assert metadata.signatures["square"].inputs == {"x": TensorInfo("float", ())}
    assert "__saved_model_init_op" not in metadata.signatures
    assert client.model_status() == [VersionStatus(3, "AVAILABLE", "")]


def test_threads_share_a_client(client):
    texts = [["y" * (i % 20)] * (1 + i % 3) for i in range(60)]
    with futures.ThreadPoolExecutor(8) as pool:
        for given, predictions in zip(texts, pool.map(client.predict, texts), strict=True):
            expected = [serving_models.logits_of(text) for text in given]
            np.testing.assert_array_equal(predictions.logits, expected)


# Mistakes.


def test_pairs_must_be_what_the_signature_wants(target, client):
    with pytest.raises(ValueError, match="takes single texts: it takes no text_pairs"):
        client.predict("a", "b")
    with PredictClient(target, signature_name="pairs") as pairs:
        with pytest.raises(ValueError, match=r"'pairs'.*takes pairs of texts: give text_pair"):
            pairs.predict("a")
        with pytest.raises(ValueError, match="There are 2 texts, but 1 text_pairs"):
            pairs.predict(["a", "b"], ["c"])
        with pytest.raises(ValueError, match="a list of each"):
            pairs.predict("a", ["b"])
    with (
        PredictClient(target, signature_name="total") as total,
        pytest.raises(ValueError, match=r"takes \['ids'\], not \['text'\]; call\(\) sends"),
    ):
        total.predict("a")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"model_name": "other"}, Code.NOT_FOUND, r"Latest\(other\)"),
        ({"version": 4}, Code.NOT_FOUND, r"Specific\(distilbert, 4\)"),
        ({"version_label": "canary"}, Code.INVALID_ARGUMENT, "label: canary"),
        ({"signature_name": "sign"}, Code.FAILED_PRECONDITION, r"'sign', but .*'serving_default'"),
    ],
)
def test_errors_say_who_answered_what(target, options, code, message):
    with (
        PredictClient(target, **options) as client,
        pytest.raises(PredictError, match=message) as caught,
    ):
        client.predict("a")
    name = options.get("model_name", "distilbert")
    assert (caught.value.code, caught.value.target) == (code, target)
    assert str(caught.value) == f"Model {name!r} at {target} gave {code.name}: " + (
        caught.value.details
    )


def test_version_by_number(target):
    with PredictClient(target, version=3) as client:
        assert client.predict("a").label == "short"
        assert client.model_status() == [VersionStatus(3, "AVAILABLE", "")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 1, "version_label": "x"}, "version or version_label, not both"),
        ({"timeout_s": 0.0}, "timeout_s must be positive, not 0.0"),
        ({"max_attempts": 0}, "max_attempts must be at least 1, not 0"),
    ],
)
def test_senseless_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        PredictClient("127.0.0.1:1", **options)
    with PredictClient("127.0.0.1:1") as client, pytest.raises(ValueError, match="batch_size"):
        client.predict("a", batch_size=0)


# Servers that come and go.


def test_a_new_version_with_other_inputs_is_noticed(tmp_path, base_path, free_port):
    serving_models.save_constant(tmp_path / "1", "constant")
    with PredictClient(f"127.0.0.1:{free_port}", signature_name="pairs") as client:
        with ModelServer(tmp_path, port=free_port), pytest.raises(PredictError, match="no signat"):
            client.predict("a", "b")
        with ModelServer(base_path, port=free_port):
            assert client.predict("a", "b").label == "short"


# What it costs to import.

LIGHT_IMPORT = """
import sys
import distilbert_serving.client.async_predict_client
import distilbert_serving.client.predict_client
from distilbert_serving.protos import predict_pb2
heavy = {"distilbert_tf", "keras", "tensorflow", "transformers"} & set(sys.modules)
assert not heavy, heavy

import tensorflow as tf
request = predict_pb2.PredictRequest()
request.inputs["text"].CopyFrom(tf.make_tensor_proto(["a"]))
assert tf.constant(2).numpy() + 2 == 4
assert tf.make_ndarray(request.inputs["text"]).tolist() == [b"a"]
import distilbert_serving.protos
assert sys.modules["tensorflow"] is tf
"""


@pytest.mark.slow
def test_importing_the_client_leaves_tensorflow_alone():
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    finish(subprocess.Popen([sys.executable, "-c", LIGHT_IMPORT], env=environment), timeout_s=120.0)
