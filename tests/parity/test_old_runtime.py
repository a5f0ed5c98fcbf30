"""Exports of today on the library of the oldest server, TensorFlow 2.12's, in its own environment.

The old process imports nothing of this package: see `inspection.reload`. Prints the largest
differences: `pytest tests/parity/test_old_runtime.py`.
"""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from distilbert_serving.inspection.fresh_process import Reloaded, ReloadError
from distilbert_serving.inspection.inspection import inspect_export
from distilbert_serving.inspection.loader_comparison import (
    compare_answers,
    compare_loaders,
    run_signatures,
)
from distilbert_serving.inspection.saved_model_files import find_compute_dtype, read_meta_graph
from distilbert_serving.output_comparison import TOLERANCES
from distilbert_serving.saved_model.exporter import export_saved_model
from exporting import TINY_MAX_LENGTH, make_tiny_model

from benchmarks.environments import python_of
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

pytestmark = [
    pytest.mark.parity,
    pytest.mark.timeout(1200),  # the first of them installs TensorFlow 2.12
    pytest.mark.skipif(
        sys.version_info[:2] != (3, 11), reason="TensorFlow 2.12 has wheels for Python 3.11 at most"
    ),
    pytest.mark.skipif(sys.platform != "linux", reason="its requirements are for Linux"),
]

LOADER = Path(__file__).parents[1] / "c_api_loader.py"
ENVIRONMENT = "tensorflow2_12"
# Of the encoder's export; the tiny model's matrices are too small to be quantized.
OPTIONS: list[dict[str, object]] = [
    {},
    {"weights": "fp16"},
    {"weights": "int8"},
    {"compute": "bfloat16"},
    {"compute": "bfloat16", "weights": "int8"},
]


@pytest.fixture(scope="module")
def old_python() -> str:
    return python_of(ENVIRONMENT)


def load_as_server(directory: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Loads it as TF Serving does, into an environment's library."""
    (package,) = Path(python).parents[1].glob("lib/python*/site-packages/tensorflow")
    command = [sys.executable, str(LOADER), str(package), str(directory)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _show(capsys: pytest.CaptureFixture[str], what: str, old: Reloaded, largest: dict) -> None:
    with capsys.disabled():
        for signature, difference in sorted(largest.items()):
            print(f"\n{what}, TensorFlow {old.tensorflow}, {signature}: {difference:.1e}", end="")


def assert_same_on_both(
    directory: Path,
    old_python: str,
    what: str,
    capsys: pytest.CaptureFixture[str],
    varied: str = "logits",
    least: float = 0.1,
) -> None:
    tolerance = TOLERANCES[find_compute_dtype(read_meta_graph(directory))]
    report = inspect_export(directory)
    assert (report.first_server, report.is_servable) == ("2.12", True)
    loaded = load_as_server(directory, old_python)
    assert loaded.returncode == 0, loaded.stdout
    new, old = run_signatures(directory), run_signatures(directory, old_python)
    assert old.tensorflow.startswith("2.12.")
    signatures = {signature.name for signature in report.signatures}
    for reloaded in (new, old):
        assert set(reloaded.answers) == {"tf2", "session"}
        assert all(answers.keys() == signatures for answers in reloaded.answers.values())
        compare_loaders(reloaded, tolerance)
    differences = [
        compare_answers(new.answers[loader], old.answers[loader], tolerance)
        for loader in new.answers
    ]
    largest = {name: max(each[name] for each in differences) for name in signatures}
    _show(capsys, what, old, largest)
    # Or the comparison would prove little.
    answers = new.answers["tf2"]["serving_default"]
    rows = np.concatenate([each[varied].reshape(-1, each[varied].shape[-1]) for each in answers])
    assert np.ptp(rows, axis=0).min() > least


@pytest.mark.parametrize("pair", [False, True], ids=["single", "pair"])
def test_tiny_model(old_python, pair, tmp_path, capsys):
    model, tokenizer = make_tiny_model(tmp_path / "model")
    version = export_saved_model(
        model, tokenizer, tmp_path / "base", max_length=TINY_MAX_LENGTH, pair=pair, verify=False
    )
    what = f"tiny model, {'pairs' if pair else 'single texts'}"
    assert_same_on_both(version, old_python, what, capsys)


def test_several_tasks(old_python, tmp_path, capsys):
    first, tokenizer = make_tiny_model(tmp_path / "model")
    fields = {"id2label": {0: "different", 1: "same"}, "text_pair": True}
    second, _ = make_tiny_model(tmp_path / "model", seed=8, fields=fields, encoder=first.distilbert)
    version = export_saved_model(
        {"mood": first, "twins": second}, tokenizer, tmp_path / "base",
        max_length=TINY_MAX_LENGTH, verify=False,
    )  # fmt: skip
    assert_same_on_both(version, old_python, "tiny model, two tasks", capsys)


def test_masked_lm(old_python, tmp_path, capsys):
    classifier, tokenizer = make_tiny_model(tmp_path / "model")
    model = TFDistilBertForMaskedLM(classifier.config)
    version = export_saved_model(
        model, tokenizer, tmp_path / "base", max_length=TINY_MAX_LENGTH, verify=False
    )
    assert_same_on_both(version, old_python, "tiny masked LM", capsys, "scores", least=1e-3)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_demo_encoder(old_python, demo, options, tmp_path, capsys):
    keras.utils.set_random_seed(3)  # of a head that tells the sentences apart
    model = TFDistilBertForSequenceClassification.from_pretrained(
        demo, id2label={0: "negative", 1: "positive"}
    )
    model.classifier.kernel.assign(model.classifier.kernel * 100)  # as far apart as after training
    tokenizer = DistilBertTokenizer.from_pretrained(demo)
    version = export_saved_model(model, tokenizer, tmp_path, verify=False, **options)
    assert_same_on_both(version, old_python, f"demo encoder {options or ''}", capsys)


def test_what_the_report_refuses_fails_there(old_python, tmp_path):
    """The report is right about an op that came later: 2.12 does not load it."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def twice(text):
        return {"text": tf.strings.as_string(text)}  # for strings only since 2.13

    tf.saved_model.save(module, str(tmp_path / "1"), {"serving_default": twice})
    report = inspect_export(tmp_path / "1")
    assert (report.first_server, report.is_servable) == ("2.13", False)
    compare_loaders(run_signatures(tmp_path / "1"))
    with pytest.raises(ReloadError, match="not in the list of allowed values"):
        run_signatures(tmp_path / "1", old_python)
    # A server does load it, since it looks into functions late: its first request would fail.
    assert load_as_server(tmp_path / "1", old_python).returncode == 0
