"""PyTorch transformers: eager, or `torch.compile` with dynamic shapes; in bfloat16 by autocast."""

from typing import Any

import numpy as np
import torch
from transformers import DistilBertForSequenceClassification

from benchmarks.workers.protocol import InferenceWorker


class Torch(InferenceWorker):
    """`inference_mode` and scaled_dot_product_attention, as transformers advises on a CPU."""

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Loads the classifier."""
        torch.set_num_threads(threads)
        model = DistilBertForSequenceClassification.from_pretrained(
            checkpoint, attn_implementation="sdpa", dtype=torch.float32
        ).eval()
        self._model = torch.compile(model, dynamic=True) if options.get("compile") else model
        self._autocast = torch.autocast("cpu", torch.bfloat16, "dtype" in options)

    def to_inputs(self, ids: np.ndarray, mask: np.ndarray) -> Any:
        """Makes int64 tensors; without padding, no mask, which sdpa then need not apply."""
        inputs = {"input_ids": torch.from_numpy(ids.astype(np.int64))}
        if not mask.all():
            inputs["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
        return inputs

    @torch.inference_mode()
    def run_ids(self, inputs: Any) -> np.ndarray:
        """Runs the model."""
        with self._autocast:
            return self._model(**inputs).logits.float().numpy()


if __name__ == "__main__":
    Torch().serve()
