"""This package, as it is served: SavedModels, written in one process and loaded in another."""

import os
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.workers.protocol import InferenceWorker


class Ours(InferenceWorker):
    """Ids go to a SavedModel without a tokenizer, strings to what `export_saved_model` writes."""

    def prepare(self, checkpoint: str, artefacts: str, options: dict[str, Any]) -> None:
        """Writes the three SavedModels: ids, text, and pairs of texts."""
        from distilbert_tf import DistilBertTokenizer, TFDistilBertForSequenceClassification
        from export.saved_model import export_saved_model, trace_logits

        model = TFDistilBertForSequenceClassification.from_pretrained(checkpoint)
        tokenizer = DistilBertTokenizer.from_pretrained(checkpoint)

        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)] * 2)
        def classify(ids: tf.Tensor, mask: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"logits": trace_logits(model, {"input_ids": ids, "attention_mask": mask})}

        module = tf.Module()
        module.classify = classify
        # Not the Keras model itself, whose own signature would be traced and saved too.
        module.weights = [variable.value for variable in model.variables]
        without_gradients = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, os.path.join(artefacts, "ids"), classify, without_gradients)
        for kind in ("text", "pair"):
            export_saved_model(
                model,
                tokenizer,
                os.path.join(artefacts, kind),
                pair=kind == "pair",
                verify=False,
            )

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Loads the ids' SavedModel; those of the texts follow when a case needs them."""
        if options.get("set_threads", True):
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        self._artefacts = artefacts
        self._models: dict[str, Any] = {}  # keeps the variables alive
        self._ids = self._signature("ids")

    def _signature(self, kind: str) -> Any:
        if kind not in self._models:
            path = os.path.join(self._artefacts, kind, "" if kind == "ids" else "1")
            self._models[kind] = tf.saved_model.load(path)
        return self._models[kind].signatures["serving_default"]

    def to_inputs(self, ids: np.ndarray, mask: np.ndarray) -> Any:
        """Makes tensors."""
        return {"ids": tf.constant(ids), "mask": tf.constant(mask)}

    def run_ids(self, inputs: Any) -> np.ndarray:
        """Calls the signature."""
        return self._ids(**inputs)["logits"].numpy()

    def text_inputs(self, texts: list[Any]) -> Any:
        """Chooses the SavedModel; the strings stay Python's, so that their way in is timed."""
        if isinstance(texts[0], list):
            return self._signature("pair"), dict(
                zip(("text", "text_pair"), zip(*texts, strict=True), strict=True)
            )
        return self._signature("text"), {"text": texts}

    def run_texts(self, texts: Any) -> np.ndarray:
        """Calls the signature with strings."""
        signature, columns = texts
        return signature(**{k: tf.constant(v) for k, v in columns.items()})["logits"].numpy()


if __name__ == "__main__":
    Ours().serve()
