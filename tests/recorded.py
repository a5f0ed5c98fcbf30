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


def at_tokens(output: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Gives the outputs for true tokens, (N, C), or for whole rows, (B, C), as they are.

    PyTorch computes the others too, from what no token sees; here they are left out.
    """
    return output[mask != 0] if output.ndim == 3 else output


def outputs(model: keras.Model, directory: Path) -> np.ndarray:
    expected = np.load(directory / "expected.npz")
    output = model({name: expected[name] for name in ("input_ids", "attention_mask")})
    output = np.asarray(output if tf.is_tensor(output) else output.last_hidden_state)
    return at_tokens(output, expected["attention_mask"])


def recorded_outputs(directory: Path) -> np.ndarray:
    arrays = np.load(directory / "expected.npz")
    states = [name for name in arrays if name.startswith("hidden_states")]
    output = arrays["logits"] if "logits" in arrays else arrays[max(states)]
    return at_tokens(output, arrays["attention_mask"])


def recorded_encoding(directory: Path) -> np.ndarray:
    arrays = np.load(directory / "expected.npz")
    output = arrays[max(name for name in arrays if name.startswith("hidden_states"))]
    return at_tokens(output, arrays["attention_mask"])


def assert_equals_recorded(model: keras.Model, directory: Path) -> None:
    np.testing.assert_allclose(outputs(model, directory), recorded_outputs(directory), atol=1e-5)
