"""Real exports of tiny random models with signatures of every kind, and requests that fit."""

import pathlib

import keras
import numpy as np
import tensorflow as tf
from distilbert_serving.saved_model.exporter import export_saved_model
from exporting import TINY_MAX_LENGTH, make_tiny_model
from serving_models import write_examples

from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM

# Three models: a classifier of texts, one of pairs, and a masked-LM model.
NAMES = ("single", "pair", "words")

TEXTS = [b"the film was never boring", b"not good", b""]
TEXT_PAIRS = [b"it was very good", b"", b"the film was bad, and it was very, very boring"]
MASKED = [b"the [MASK] was good", b"no gap here", b"[MASK] very [MASK]"]
IDS = np.array([[2, 6, 7, 3], [2, 8, 3, 0]], np.int32)
NUM_TOKENS = np.array([4, 3], np.int32)


def export_all(directory: pathlib.Path) -> dict[str, pathlib.Path]:
    """Exports the three models.

    Returns:
        Their base paths by name.
    """
    model, tokenizer = make_tiny_model(directory / "model")
    keras.utils.set_random_seed(11)
    words = TFDistilBertForMaskedLM(model.config)
    options = {"max_length": TINY_MAX_LENGTH, "verify": False}
    export_saved_model(model, tokenizer, directory / "single", **options)
    export_saved_model(model, tokenizer, directory / "pair", pair=True, **options)
    export_saved_model(words, tokenizer, directory / "words", top_k=3, **options)
    return {name: directory / name for name in NAMES}


def _good_inputs() -> dict[tuple[str, str], dict]:
    """Returns inputs for every signature of the three models, by model and signature."""
    single, pair = {"text": TEXTS}, {"text": TEXTS, "text_pair": TEXT_PAIRS}
    inputs = {
        ("single", "serving_default"): single,
        ("single", "classify_text"): single,
        ("pair", "serving_default"): pair,
        ("pair", "classify_text"): pair,
        ("words", "serving_default"): {"text": MASKED},
        ("words", "fill_mask"): {"text": MASKED},
        ("words", "tokenize"): {"text": MASKED},
        ("single", "tokenize"): single,
        ("pair", "tokenize"): pair,
    }
    for name in NAMES:
        inputs[name, "encode"] = single
        inputs[name, "from_ids"] = {"input_ids": IDS, "num_tokens": NUM_TOKENS}
    for signature in ("classify", "regress"):
        inputs["single", signature] = {"inputs": write_examples(text=TEXTS)}
        inputs["pair", signature] = {"inputs": write_examples(text=TEXTS, text_pair=TEXT_PAIRS)}
    return inputs


def strings(values: list[bytes]):
    """Makes a TensorProto of strings, of none as well."""
    return tf.make_tensor_proto(np.array(values, object), tf.string)


INPUTS = _good_inputs()
