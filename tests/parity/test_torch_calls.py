"""Calls as in transformers 4, live against transformers on PyTorch: losses and parameters."""

import numpy as np
import pytest
import transformers
from comparing import near, roundings
from tiny_pipelines import SENTENCES, make_config, make_filler, make_tokenizer, randomize

from distilbert_tf.models.heads import TFDistilBertForSequenceClassification

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
pytestmark = pytest.mark.parity

RANDOM = np.random.default_rng(0)
MULTI = {"num_labels": 3, "problem_type": "multi_label_classification"}


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({"num_labels": 3}, np.array([0, 2, -100, 1])),
        ({"num_labels": 1}, np.array([0.5, -1.0, 2.0, 0.1], "float32")),
        ({"num_labels": 2, "problem_type": "regression"}, RANDOM.normal(size=(4, 2))),
        (MULTI, RANDOM.integers(0, 2, (4, 3)).astype("float32")),
        (None, "some"),
        (None, "all"),
    ],
    ids=["labels", "number", "numbers", "several labels", "some words", "all words"],
)
def test_losses_and_parameters(fields, labels, tmp_path):
    encoding = make_tokenizer(tmp_path)(SENTENCES[:4], padding=True, return_tensors="np")
    if fields is None:
        model, theirs = make_filler(), transformers.DistilBertForMaskedLM
        ids = encoding["input_ids"]  # of padding too, where all are labels
        labels = ids if labels == "all" else np.where(RANDOM.random(ids.shape) < 0.3, ids, -100)
    else:
        model = randomize(TFDistilBertForSequenceClassification(make_config(**fields)), 1)
        theirs = transformers.DistilBertForSequenceClassification
        labels = labels.astype("float32") if labels.dtype == "float64" else labels
    model.save_pretrained(tmp_path)
    reference = theirs.from_pretrained(tmp_path).eval()
    tensors = {name: torch.tensor(array) for name, array in encoding.items()}
    with torch.no_grad():
        expected = reference(**tensors, labels=torch.tensor(labels))
    output = model(**encoding, labels=labels)
    size = float(expected.logits.abs().max())
    assert float(output.loss) == near(float(expected.loss), roundings(model), size=size)
    for options in ({}, {"exclude_embeddings": True}):
        assert model.num_parameters(**options) == reference.num_parameters(**options)
