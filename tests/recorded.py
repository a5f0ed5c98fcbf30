"""Models on recorded checkpoints: see make_references.py."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from distilbert_tf.heads import TFDistilBertForMaskedLM, TFDistilBertForSequenceClassification
from distilbert_tf.model import TFDistilBertModel

CLASSES = {
    "base": TFDistilBertModel,
    "base_sinusoidal": TFDistilBertModel,
    "classifier": TFDistilBertForSequenceClassification,
    "masked_lm": TFDistilBertForMaskedLM,
    "masked_lm_untied": TFDistilBertForMaskedLM,
}


def outputs(model: keras.Model, directory: Path) -> np.ndarray:
    expected = np.load(directory / "expected.npz")
    output = model({name: expected[name] for name in ("input_ids", "attention_mask")})
    return np.asarray(output if tf.is_tensor(output) else output.last_hidden_state)


def recorded_outputs(directory: Path) -> np.ndarray:
    arrays = np.load(directory / "expected.npz")
    states = [name for name in arrays if name.startswith("hidden_states")]
    return arrays["logits"] if "logits" in arrays else arrays[max(states)]


def recorded_encoding(directory: Path) -> np.ndarray:
    arrays = np.load(directory / "expected.npz")
    return arrays[max(name for name in arrays if name.startswith("hidden_states"))]


def assert_equals_recorded(model: keras.Model, directory: Path) -> None:
    np.testing.assert_allclose(outputs(model, directory), recorded_outputs(directory), atol=1e-5)
