"""What the web servers answer with: a checkpoint in PyTorch or in ONNX Runtime, fp32."""

import json
import os
from collections.abc import Callable, Sequence

import numpy as np

MAX_LENGTH = 128  # tokens of a row, as the served checkpoints were trained
Answer = dict[str, str | float]
Classify = Callable[[Sequence[str]], list[Answer]]


def load_torch(checkpoint: str, artefacts: str, threads: int) -> Classify:
    """Loads transformers' pipeline: in eval mode, which it sets, and in inference mode."""
    import torch
    from transformers import pipeline

    torch.set_num_threads(threads)
    pipe = pipeline("text-classification", model=checkpoint, device="cpu", dtype=torch.float32)

    def classify(texts: Sequence[str]) -> list[Answer]:
        with torch.inference_mode():
            return pipe(list(texts), batch_size=len(texts), truncation=True, max_length=MAX_LENGTH)

    return classify


def load_onnxruntime(checkpoint: str, artefacts: str, threads: int) -> Classify:
    """Loads the fused graph, and the Rust tokenizer."""
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.path.join(checkpoint, "tokenizer.json"))
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    with open(os.path.join(checkpoint, "config.json"), encoding="utf-8") as file:
        names = {int(number): name for number, name in json.load(file)["id2label"].items()}
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(
        os.path.join(artefacts, "model.onnx"), settings, providers=["CPUExecutionProvider"]
    )

    def classify(texts: Sequence[str]) -> list[Answer]:
        rows = tokenizer.encode_batch(list(texts))
        inputs = {
            "input_ids": np.array([row.ids for row in rows], np.int64),
            "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
        }
        (logits,) = session.run(["logits"], inputs)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = powers / powers.sum(axis=1, keepdims=True)
        best = scores.argmax(axis=1)
        return [
            {"label": names[int(number)], "score": float(row[number])}
            for number, row in zip(best, scores, strict=True)
        ]

    return classify


LOADERS = {"torch": load_torch, "onnxruntime": load_onnxruntime}
