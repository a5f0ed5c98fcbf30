"""What tests need to compare a model with a recorded or a live run of PyTorch."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distilbert_tf.checkpoint import slots

Arrays = Mapping[str, np.ndarray]


def run(model: keras.Model, arrays: Arrays) -> dict[str, np.ndarray]:
    """Does with TensorFlow what `make_references.run_torch` does, under the same names."""
    inputs = {name: arrays[name] for name in ("input_ids", "attention_mask")}
    found = slots(model)
    with tf.GradientTape() as tape:
        output = model(inputs, output_hidden_states=True, output_attentions=True)
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


def largest_differences(results: Arrays, expected: Arrays) -> dict[str, float]:
    """Gives the largest difference per kind of array: loss, logits, hidden_states, ...

    Every expected result must be there, in the same shape; the names of gradients may differ
    by the prefix `distilbert.`.
    """
    differences: dict[str, float] = {}
    for name, array in expected.items():
        kind, _, rest = name.partition(".")
        if kind not in ("loss", "logits", "hidden_states", "attentions", "gradient"):
            continue  # an input
        if kind == "gradient":
            name = f"gradient.{rest.removeprefix('distilbert.')}"
        assert results[name].shape == array.shape, name
        difference = float(np.abs(results[name] - array).max())
        assert not np.isnan(difference), name
        differences[kind] = max(differences.get(kind, 0.0), difference)
    return differences
