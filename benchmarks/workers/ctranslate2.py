"""CTranslate2's encoder in fp32, with the classifier's head in NumPy."""

import os
from typing import Any

import ctranslate2
import numpy as np

from benchmarks.workers.protocol import InferenceWorker

HEAD = ("pre_classifier.weight", "pre_classifier.bias", "classifier.weight", "classifier.bias")


class CTranslate2(InferenceWorker):
    """The library takes padding out of the dense layers by itself."""

    def prepare(self, checkpoint: str, artefacts: str, options: dict[str, Any]) -> None:
        """Converts the encoder."""
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(checkpoint).convert(os.path.join(artefacts, "model"), force=True)

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Loads the encoder, and the head from the checkpoint."""
        from safetensors.numpy import load_file

        tensors = load_file(os.path.join(checkpoint, "model.safetensors"))
        self._head = [tensors[name] for name in HEAD]
        self._encoder = ctranslate2.Encoder(
            os.path.join(artefacts, "model"),
            device="cpu",
            compute_type="float32",
            inter_threads=1,
            intra_threads=threads,
        )

    def to_inputs(self, ids: np.ndarray, mask: np.ndarray) -> Any:
        """Makes views of ids (B, T) and lengths (B,), int32; padding must be on the right."""
        lengths = mask.sum(axis=1, dtype=np.int32)
        # The views do not own the arrays, so these are kept beside them.
        return ids, lengths

    def run_ids(self, inputs: Any) -> np.ndarray:
        """Encodes, then applies the head to [CLS]."""
        ids, lengths = map(ctranslate2.StorageView.from_array, inputs)
        hidden = np.array(self._encoder.forward_batch(ids, lengths).last_hidden_state)
        w1, b1, w2, b2 = self._head
        pooled = np.maximum(hidden[:, 0] @ w1.T + b1, 0)
        return pooled @ w2.T + b2


if __name__ == "__main__":
    CTranslate2().serve()
