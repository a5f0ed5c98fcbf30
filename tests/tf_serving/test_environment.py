import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from comparing import assert_close, largest
from distilbert_serving.saved_model.exporter import export_saved_model
from distilbert_serving.tf_serving.environment import (
    ENV_FILE,
    serving_environment,
    set_serving_environment,
)
from exporting import TINY_ROUNDINGS, make_tiny_model
from processes import finish
from transformers import DistilBertConfig

from distilbert_tf.models.heads import TFDistilBertForSequenceClassification


def run_python(code, environment, *arguments):
    """Runs a program, and returns what it prints."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    return finish(process, timeout_s=120.0)[0]


def test_the_file_is_one_that_docker_reads():
    for line in ENV_FILE.read_text().splitlines():
        assert not line or line.startswith("#") or line.split("=")[0].isidentifier()
    assert serving_environment() == {
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1",
    }


def test_what_is_set_already_stays():
    environment = {"TF_ENABLE_ONEDNN_OPTS": "0", "HOME": "/somewhere"}
    set_serving_environment(environment)
    assert environment == {
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1",
        "HOME": "/somewhere",
    }


SERVE = """
import os, sys
from distilbert_tf.cli import main
import distilbert_tf.commands  # absl's flags, and no TensorFlow yet
assert "tensorflow" not in sys.modules
try:
    main(["serve", "--model_base_path=nowhere"])
except SystemExit:
    print(os.environ["TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"], "tensorflow" in sys.modules)
"""


def test_the_local_server_sets_it_before_tensorflow_starts():
    environment = {k: v for k, v in os.environ.items() if k not in serving_environment()}
    assert run_python(SERVE, environment).strip() == "1 True"


def test_training_refuses_it(monkeypatch):
    """A process that trains with packed weights would go on with the old ones."""
    config = DistilBertConfig(vocab_size=9, dim=4, n_layers=1, n_heads=1, hidden_dim=4)
    model = TFDistilBertForSequenceClassification(config)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    monkeypatch.setenv("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    with pytest.raises(RuntimeError, match="ASSUME_FROZEN_WEIGHTS is set.*processes that serve"):
        model.fit(np.ones((2, 3), "int32"), np.array([0, 1]), verbose=0)
    monkeypatch.delenv("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS")
    model.fit(np.ones((2, 3), "int32"), np.array([0, 1]), verbose=0)


def test_importing_does_not_set_it():
    code = "import os, distilbert_tf\n"
    code += "from distilbert_serving import ModelServer, PredictClient, export_saved_model\n"
    code += "assert not any(name.startswith('TF_ONEDNN') for name in os.environ)"
    environment = {k: v for k, v in os.environ.items() if k not in serving_environment()}
    run_python(code, environment)


TWO_MODELS = """
import json, sys
import numpy as np, tensorflow as tf
texts = tf.constant(["the film was never boring"])
models = [tf.saved_model.load(path) for path in sys.argv[1:]]
answers = [m.signatures["serving_default"](text=texts)["logits"].numpy() for m in models * 2]
print(json.dumps([answer.tolist() for answer in answers]))
"""


@pytest.mark.slow
def test_packed_weights_are_each_models_own(tmp_path):
    """As when a server goes over to a new version: the old one's weights must not stay."""
    model, tokenizer = make_tiny_model(tmp_path / "model")
    versions, expected = [], []
    for _ in range(2):
        versions.append(export_saved_model(model, tokenizer, tmp_path / "base", verify=False))
        encoding = tokenizer(["the film was never boring"], return_tensors="tf")
        expected.append(model(encoding).numpy())
        for weight in model.trainable_variables:
            weight.assign(weight * 0.8)
    environment = {**os.environ, **serving_environment()}
    shown = run_python(TWO_MODELS, environment, *map(str, versions))
    answers = np.array(json.loads(shown.splitlines()[-1]))
    # Weights that are a fifth smaller give other answers, far beyond rounding.
    assert np.abs(expected[0] - expected[1]).max() > 0.01 * largest(expected)
    assert_close(answers, [*expected, *expected], TINY_ROUNDINGS)
