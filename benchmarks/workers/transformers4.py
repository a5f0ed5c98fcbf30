"""Hugging Face's last TensorFlow DistilBERT (transformers 4.57), in a tf.function."""

import os
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.workers.protocol import InferenceWorker


def convert(checkpoint: str, directory: str) -> None:
    """Writes a checkpoint's `tf_model.h5`.

    transformers 4.57.6 cannot read safetensors into TensorFlow itself (its own bug), so the way
    leads through PyTorch.
    """
    from transformers import (
        DistilBertForSequenceClassification,
        TFDistilBertForSequenceClassification,
    )
    from transformers.modeling_tf_pytorch_utils import load_pytorch_model_in_tf2_model

    source = DistilBertForSequenceClassification.from_pretrained(checkpoint)
    model = TFDistilBertForSequenceClassification(source.config)
    model(model.dummy_inputs)
    load_pytorch_model_in_tf2_model(model, source, allow_missing_keys=True)
    model.save_pretrained(directory)


class Transformers4(InferenceWorker):
    """With XLA if `options["xla"]`, which compiles anew for every shape."""

    def prepare(self, checkpoint: str, artefacts: str, options: dict[str, Any]) -> None:
        """Converts the weights."""
        convert(checkpoint, os.path.join(artefacts, "model"))

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Loads the classifier."""
        from transformers import TFDistilBertForSequenceClassification

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        model = TFDistilBertForSequenceClassification.from_pretrained(
            os.path.join(artefacts, "model")
        )
        xla = bool(options.get("xla"))
        self._run = tf.function(
            lambda ids, mask: (
                model({"input_ids": ids, "attention_mask": mask}, training=False).logits
            ),
            input_signature=None if xla else [tf.TensorSpec([None, None], tf.int32)] * 2,
            jit_compile=xla,
        )

    def to_inputs(self, ids: np.ndarray, mask: np.ndarray) -> Any:
        """Makes tensors."""
        return tf.constant(ids), tf.constant(mask)

    def run_ids(self, inputs: Any) -> np.ndarray:
        """Runs the model."""
        return self._run(*inputs).numpy()


if __name__ == "__main__":
    Transformers4().serve()
