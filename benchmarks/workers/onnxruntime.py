"""ONNX Runtime with its own transformer optimizer, fp32 or dynamically quantised to int8."""

import json
import os
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.workers.protocol import InferenceWorker


def export_onnx(checkpoint: str, path: str) -> None:
    """Exports the classifier with PyTorch: `input_ids` and `attention_mask`, int64 (B, T)."""
    import torch
    from transformers import DistilBertForSequenceClassification

    model = DistilBertForSequenceClassification.from_pretrained(
        checkpoint, attn_implementation="eager", dtype=torch.float32
    ).eval()
    names = ["input_ids", "attention_mask"]
    ids = torch.randint(1000, 30000, (2, 16))
    torch.onnx.export(
        model,
        (),
        path,
        kwargs={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        input_names=names,
        output_names=["logits"],
        dynamic_axes={name: {0: "rows", 1: "tokens"} for name in names} | {"logits": {0: "rows"}},
        opset_version=17,
        dynamo=False,  # the optimizer's fusions know this exporter's graphs
    )


class OnnxRuntime(InferenceWorker):
    """Fused attention, GELU and LayerNorm; all graph optimizations at load."""

    def prepare(self, checkpoint: str, artefacts: str, options: dict[str, Any]) -> None:
        """Exports, fuses and, for int8, quantises."""
        from onnxruntime.transformers import optimizer

        exported = os.path.join(artefacts, "exported.onnx")
        export_onnx(checkpoint, exported)
        with open(os.path.join(checkpoint, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        fused = optimizer.optimize_model(
            exported, model_type="bert", num_heads=config["n_heads"], hidden_size=config["dim"]
        )
        path = os.path.join(artefacts, "model.onnx")
        fused.save_model_to_file(path)
        with open(os.path.join(artefacts, "fusions.json"), "w", encoding="utf-8") as file:
            json.dump(fused.get_fused_operator_statistics(), file)
        if options.get("int8"):
            import onnx
            from onnxruntime.quantization import QuantType, quantize_dynamic

            full = os.path.join(artefacts, "fp32.onnx")
            os.rename(path, full)
            # Shape inference does not know the fused operators' results.
            defaults = {"DefaultTensorType": onnx.TensorProto.FLOAT}
            quantize_dynamic(full, path, weight_type=QuantType.QInt8, extra_options=defaults)

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Opens a session."""
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self._session = onnxruntime.InferenceSession(
            os.path.join(artefacts, "model.onnx"), settings, providers=["CPUExecutionProvider"]
        )

    def to_inputs(self, ids: np.ndarray, mask: np.ndarray) -> Any:
        """Makes int64 arrays."""
        return {"input_ids": ids.astype(np.int64), "attention_mask": mask.astype(np.int64)}

    def run_ids(self, inputs: Any) -> np.ndarray:
        """Runs the session."""
        return self._session.run(["logits"], inputs)[0]


if __name__ == "__main__":
    OnnxRuntime().serve()
