"""OpenVINO on the CPU with the latency hint, in float32 or in what it takes by itself."""

import os
from typing import Any

import numpy as np
import openvino

from benchmarks.workers.protocol import InferenceWorker


class OpenVino(InferenceWorker):
    """Converted from PyTorch, with dynamic shapes."""

    def prepare(self, checkpoint: str, artefacts: str, options: dict[str, Any]) -> None:
        """Converts and saves, weights in fp32."""
        import torch
        from transformers import DistilBertForSequenceClassification

        model = DistilBertForSequenceClassification.from_pretrained(
            checkpoint, attn_implementation="sdpa", dtype=torch.float32
        ).eval()
        ids = torch.randint(1000, 30000, (2, 16))
        mask = torch.ones_like(ids)
        mask[1, 9:] = 0  # without padding, the trace would hold no mask
        converted = openvino.convert_model(
            model,
            example_input={"input_ids": ids, "attention_mask": mask},
            input=[("input_ids", [-1, -1]), ("attention_mask", [-1, -1])],
        )
        openvino.save_model(converted, os.path.join(artefacts, "model.xml"), compress_to_fp16=False)

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Compiles the model."""
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        if precision := options.get("precision", "f32"):
            settings["INFERENCE_PRECISION_HINT"] = precision
        model = os.path.join(artefacts, "model.xml")
        self._model = openvino.Core().compile_model(model, "CPU", settings)
        self._request = self._model.create_infer_request()

    def to_inputs(self, ids: np.ndarray, mask: np.ndarray) -> Any:
        """Makes int64 arrays."""
        return {"input_ids": ids.astype(np.int64), "attention_mask": mask.astype(np.int64)}

    def run_ids(self, inputs: Any) -> np.ndarray:
        """Runs the request, whose inputs need no copy."""
        return np.array(self._request.infer(inputs, share_inputs=True)["logits"])


if __name__ == "__main__":
    OpenVino().serve()
