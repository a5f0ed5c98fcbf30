"""Models on recorded checkpoints, compared with what PyTorch computed: see make_references.py."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from comparing import EPS, WITH_GRADIENTS, assert_close, largest, roundings

from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.models.weight_names import list_slots

Arrays = Mapping[str, np.ndarray]

CLASSES = {
    "base": TFDistilBertModel,
    "base_sinusoidal": TFDistilBertModel,
    "classifier": TFDistilBertForSequenceClassification,
    "masked_lm": TFDistilBertForMaskedLM,
    "masked_lm_untied": TFDistilBertForMaskedLM,
}
KINDS = ("loss", "logits", "hidden_states", "attentions", "gradient")


def run(model: keras.Model, arrays: Arrays, training: bool = False) -> dict[str, np.ndarray]:
    """Does with TensorFlow what `make_references.run_torch` does, under the same names.

    In training, `model` must have no dropout.
    """
    inputs = {name: arrays[name] for name in ("input_ids", "attention_mask")}
    found = list_slots(model)
    with tf.GradientTape() as tape:
        output = model(inputs, training=training, output_hidden_states=True, output_attentions=True)
        loss = compute_loss(output, arrays)
    results = {"loss": loss.numpy()}
    if hasattr(output, "logits"):
        results["logits"] = output.logits.numpy()
    for kind in ("hidden_states", "attentions"):
        results |= {f"{kind}.{i}": x.numpy() for i, x in enumerate(getattr(output, kind))}
    gradients = tape.gradient(loss, [slot.variable.value for slot in found.values()])
    for (name, slot), gradient in zip(found.items(), gradients, strict=True):
        if gradient is not None:
            results[f"gradient.{name}"] = slot.take(tf.convert_to_tensor(gradient).numpy())
    return results


def compute_loss(output: Any, arrays: Arrays) -> tf.Tensor:
    if not hasattr(output, "logits"):
        return tf.reduce_mean(output.last_hidden_state * arrays["projection"])
    logits = output.logits
    labels = arrays["words" if logits.shape.rank == 3 else "labels"].reshape(-1)
    counts = labels != -100
    logits = tf.boolean_mask(tf.reshape(logits, [-1, logits.shape[-1]]), counts)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels[counts], logits)
    return tf.reduce_mean(losses)


def largest_differences(results: Arrays, expected: Arrays, model: Any) -> dict[str, float]:
    """Returns the largest difference of each kind of array, as a multiple of its bound.

    Every expected result must be there, in the same shape; the names of gradients may differ
    by the prefix `distilbert.`.

    Args:
        results: What `run` returns.
        expected: The same from PyTorch; other arrays, such as inputs, are left out.
        model: The model, or its configuration.
    """
    states = [name for name in expected if name.startswith(("logits", "hidden_states"))]
    gradients = [name for name in expected if name.startswith("gradient")]
    sizes = {
        "attentions": 1.0,
        # A mean of outputs or of their differences, whatever is left of it.
        "loss": max(largest(expected[name]) for name in states),
        # A gradient may be small because large ones cancel: that of a bias of keys is 0.
        "gradient": max((largest(expected[name]) for name in gradients), default=0.0),
    }
    results, expected = (
        {name.replace("gradient.distilbert.", "gradient."): array for name, array in side.items()}
        for side in (results, expected)
    )
    differences: dict[str, float] = {}
    for name, array in expected.items():
        kind = name.partition(".")[0]
        if kind not in KINDS:
            continue
        passes = WITH_GRADIENTS if kind == "gradient" else 1
        assert results[name].shape == array.shape, name
        bound = roundings(model, passes) * EPS * sizes.get(kind, largest(array))
        difference = largest(results[name] - np.asarray(array, np.float64)) / bound
        assert not np.isnan(difference), name
        differences[kind] = max(differences.get(kind, 0.0), difference)
    return differences


def at_tokens(output: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the outputs for true tokens, (N, C), or for whole rows, (B, C), as they are.

    PyTorch computes the others too, from what no token sees; here they are left out.
    """
    return output[mask != 0] if output.ndim == 3 else output


def outputs(model: keras.Model, directory: Path) -> np.ndarray:
    expected = np.load(directory / "expected.npz")
    output = model({name: expected[name] for name in ("input_ids", "attention_mask")})
    output = np.asarray(output if tf.is_tensor(output) else output.last_hidden_state)
    return at_tokens(output, expected["attention_mask"])


def recorded_outputs(directory: Path, of_encoder: bool = False) -> np.ndarray:
    arrays = np.load(directory / "expected.npz")
    states = [name for name in arrays if name.startswith("hidden_states")]
    output = arrays[max(states)] if of_encoder or "logits" not in arrays else arrays["logits"]
    return at_tokens(output, arrays["attention_mask"])


def assert_equals_recorded(
    model: keras.Model, directory: Path, *, of_encoder: bool = False
) -> None:
    expected = recorded_outputs(directory, of_encoder)
    assert_close(outputs(model, directory), expected, roundings(model))


def assert_encodes_as_recorded(model: keras.Model, directory: Path) -> None:
    assert_equals_recorded(model, directory, of_encoder=True)
