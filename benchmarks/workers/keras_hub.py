"""KerasHub's DistilBERT classifier with the checkpoint's weights, in a tf.function."""

import os
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.workers.protocol import InferenceWorker


def load_classifier(checkpoint: str, **options: Any) -> Any:
    """Builds KerasHub's DistilBertTextClassifier with a checkpoint's weights.

    Args:
        checkpoint: Directory with config.json and model.safetensors.
        **options: Its own arguments, such as `preprocessor`.

    Returns:
        The classifier: `token_ids` and `padding_mask` (B, T) in, logits (B, C) out.
    """
    import keras_nlp

    from distilbert_tf import TFDistilBertForSequenceClassification

    ours = TFDistilBertForSequenceClassification.from_pretrained(checkpoint)
    classifier = keras_nlp.models.DistilBertTextClassifier(
        backbone=ours.distilbert.to_keras_hub(),
        num_classes=ours.config.num_labels,
        dropout=ours.config.seq_classif_dropout,
        **options,
    )
    # Both heads are a ReLU layer on [CLS] and a linear one.
    for theirs, head in (
        (classifier.pooled_dense, ours.pre_classifier),
        (classifier.output_dense, ours.classifier),
    ):
        theirs.set_weights(head.get_weights())
    return classifier


class KerasHub(InferenceWorker):
    """`predict_on_batch` would add Python on every call, so the model is called in a graph."""

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Builds the classifier."""
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        model = load_classifier(checkpoint, preprocessor=None)
        self._run = tf.function(
            lambda ids, mask: model({"token_ids": ids, "padding_mask": mask}, training=False),
            input_signature=[tf.TensorSpec([None, None], tf.int32)] * 2,
        )

    def to_inputs(self, ids: np.ndarray, mask: np.ndarray) -> Any:
        """Makes tensors."""
        return tf.constant(ids), tf.constant(mask)

    def run_ids(self, inputs: Any) -> np.ndarray:
        """Runs the model."""
        return self._run(*inputs).numpy()


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    KerasHub().serve()
