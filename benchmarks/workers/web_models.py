"""What the web servers answer with: a checkpoint in PyTorch, ONNX Runtime or OpenVINO."""

import functools
import json
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

MAX_LENGTH = 128  # tokens of a row, as the served checkpoints were trained
Answer = dict[str, str | float]
Classify = Callable[[Sequence[str]], list[Answer]]


def load_torch(checkpoint: str, artefacts: str, threads: int, runs: int) -> Classify:
    """Loads transformers' pipeline: in eval mode, which it sets, and in inference mode."""
    import torch
    from transformers import pipeline

    torch.set_num_threads(threads)
    pipe = pipeline("text-classification", model=checkpoint, device="cpu", dtype=torch.float32)

    def classify(texts: Sequence[str]) -> list[Answer]:
        with torch.inference_mode():
            return pipe(list(texts), batch_size=len(texts), truncation=True, max_length=MAX_LENGTH)

    return classify


def load_onnxruntime(checkpoint: str, artefacts: str, threads: int, runs: int) -> Classify:
    """Loads the fused graph, and the Rust tokenizer."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(
        os.path.join(artefacts, "model.onnx"), settings, providers=["CPUExecutionProvider"]
    )
    return _around(checkpoint, lambda inputs: session.run(["logits"], inputs)[0])


def load_openvino(
    checkpoint: str, artefacts: str, threads: int, runs: int, precision: str = "f32"
) -> Classify:
    """Loads the converted graph, with a stream for each of the runs, and the Rust tokenizer."""
    import openvino

    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads * runs, "NUM_STREAMS": runs}
    if precision:
        settings["INFERENCE_PRECISION_HINT"] = precision
    path = os.path.join(artefacts, "model.xml")
    model = openvino.Core().compile_model(path, "CPU", settings)
    mine = threading.local()  # a request is not for two threads

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        if not hasattr(mine, "request"):
            mine.request = model.create_infer_request()
        return np.array(mine.request.infer(inputs, share_inputs=True)["logits"])

    return _around(checkpoint, run)


def _around(checkpoint: str, run: Callable[[dict[str, np.ndarray]], np.ndarray]) -> Classify:
    """Puts the Rust tokenizer before a graph, and softmax and label behind it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.path.join(checkpoint, "tokenizer.json"))
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    with open(os.path.join(checkpoint, "config.json"), encoding="utf-8") as file:
        names = {int(number): name for number, name in json.load(file)["id2label"].items()}

    def classify(texts: Sequence[str]) -> list[Answer]:
        rows = tokenizer.encode_batch(list(texts))
        inputs = {
            "input_ids": np.array([row.ids for row in rows], np.int64),
            "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
        }
        logits = run(inputs)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = powers / powers.sum(axis=1, keepdims=True)
        best = scores.argmax(axis=1)
        return [
            {"label": names[int(number)], "score": float(row[number])}
            for number, row in zip(best, scores, strict=True)
        ]

    return classify


LOADERS: dict[str, Callable[[str, str, int, int], Classify]] = {
    "torch": load_torch,
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
    "openvino_as_it_comes": functools.partial(load_openvino, precision=""),
}
