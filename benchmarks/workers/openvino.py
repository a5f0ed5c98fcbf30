"""OpenVINO on the CPU with the latency hint: float32, what it takes by itself, or int8 by NNCF."""

import csv
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import openvino

from benchmarks.workers.protocol import InferenceWorker
from benchmarks.workers.text import load_encoder

# NNCF's ranges of activations come from the package's own sentences.
CALIBRATION = os.path.join("distilbert_tf", "data", "demo_data", "sst2", "train.tsv")


def calibration_rows(checkpoint: str) -> Iterator[dict[str, np.ndarray]]:
    """Yields a sentence at a time: int64 (1, T) ids and mask."""
    encode = load_encoder(checkpoint)
    with open(CALIBRATION, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            ids, mask = encode([row["sentence"]])
            yield {"input_ids": ids.astype(np.int64), "attention_mask": mask.astype(np.int64)}


class OpenVino(InferenceWorker):
    """Converted from PyTorch, with dynamic shapes."""

    def prepare(self, checkpoint: str, artefacts: str, options: dict[str, Any]) -> None:
        """Converts and saves, weights in fp32; for int8, quantizes weights and activations."""
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
        if options.get("int8"):
            import nncf

            rows = nncf.Dataset(list(calibration_rows(checkpoint)))
            converted = nncf.quantize(converted, rows, model_type=nncf.ModelType.TRANSFORMER)
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
