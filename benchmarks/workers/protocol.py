"""The worker's side of the conversation: JSON lines in, JSON lines out.

A request is `{"do": NAME, ...arguments}`, the reply `{"result": ...}` or `{"error": TRACEBACK}`.
Workers need nothing but the standard library and NumPy here, so that every peer can import this.
"""

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np

PACKAGES = (
    "tensorflow",
    "keras",
    "keras-hub",
    "tf-keras",
    "torch",
    "transformers",
    "tokenizers",
    "onnx",
    "onnxruntime",
    "openvino",
    "ctranslate2",
    "fastapi",
    "uvicorn",
    "apache-beam",
    "grpcio",
    "numpy",
)
MIN_CALLS = 3
SLOW_CALL_S = 2.0  # a call beyond this is timed once a visit


class Channel:
    """The worker's end of the two pipes.

    Libraries print to stdout, in C as well as in Python, so the real stdout is moved away and
    file descriptor 1 becomes stderr.
    """

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def read(self) -> dict[str, Any]:
        """Waits for the next request; the end of the pipe reads as `{"do": "stop"}`."""
        line = sys.stdin.readline()
        return json.loads(line) if line else {"do": "stop"}

    def write(self, reply: dict[str, Any]) -> None:
        """Sends a reply."""
        self._out.write(json.dumps(reply) + "\n")
        self._out.flush()


def serve(handlers: dict[str, Callable[..., Any]], channel: Channel | None = None) -> None:
    """Answers requests until `stop` or the end of the pipe.

    Args:
        handlers: What each `do` calls, with the request's other fields as keyword arguments.
        channel: Its pipes; made here if the worker did not need them earlier.
    """
    channel = channel or Channel()
    while (request := channel.read())["do"] != "stop":
        try:
            result = handlers[request.pop("do")](**request)
            channel.write({"result": result})
        except Exception:
            channel.write({"error": traceback.format_exc(limit=-6)})
    channel.write({"result": None})


def versions() -> dict[str, str]:
    """Lists the installed ones among the packages that matter here."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory_mib() -> float:
    """Returns the process' highest resident size so far, in MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def time_calls(call: Callable[[], Any], min_time_s: float) -> list[float]:
    """Times a call over and over.

    Args:
        call: What to time.
        min_time_s: Goes on until this much time is filled and `MIN_CALLS` are made; a single call
            of more than `SLOW_CALL_S` is enough.

    Returns:
        Seconds of each call.
    """
    times_s: list[float] = []
    gc.collect()
    gc.disable()  # a collection would hit some calls and not others
    try:
        while len(times_s) < MIN_CALLS or sum(times_s) < min_time_s:
            start_s = time.perf_counter()
            call()
            times_s.append(time.perf_counter() - start_s)
            if times_s[0] > SLOW_CALL_S:
                break
    finally:
        gc.enable()
    return times_s


class InferenceWorker:
    """What inference.py asks of a peer. A subclass implements `load` and `run_ids`.

    Shapes: B rows, T tokens of the longest row, C classes.
    """

    def __init__(self) -> None:
        self.cases: dict[str, tuple[Callable[[Any], np.ndarray], list[Any]]] = {}
        self._encode: Callable[[list[Any]], tuple[np.ndarray, np.ndarray]] | None = None

    def prepare(self, checkpoint: str, artefacts: str, options: dict[str, Any]) -> None:
        """Converts a checkpoint, untimed and in a process of its own. Nothing by default."""

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Loads the model.

        Args:
            checkpoint: Directory with config.json, model.safetensors and vocab.txt.
            artefacts: Directory that `prepare` wrote to.
            threads: Threads to compute with.
            options: The peer's own, from peers.py.
        """
        raise NotImplementedError

    def to_inputs(self, ids: np.ndarray, mask: np.ndarray) -> Any:
        """Puts int32 (B, T) ids and mask into the form that the peer takes; untimed for ids."""
        return ids, mask

    def run_ids(self, inputs: Any) -> np.ndarray:
        """Returns the logits of `to_inputs`' result, float32 (B, C)."""
        raise NotImplementedError

    def run_texts(self, texts: list[Any]) -> np.ndarray:
        """Returns the logits of strings (or pairs of strings), float32 (B, C)."""
        assert self._encode is not None
        return self.run_ids(self.to_inputs(*self._encode(texts)))

    def text_inputs(self, texts: list[Any]) -> Any:
        """Puts strings into the form that `run_texts` takes; untimed."""
        return texts

    def handle_load(self, checkpoint: str, **arguments: Any) -> dict[str, str]:
        """Loads model and tokenizer, and says which versions are at work."""
        from benchmarks.workers.text import load_encoder

        self._encode = load_encoder(checkpoint)
        self.load(checkpoint, **arguments)
        return versions()

    def handle_case(self, name: str, path: str) -> list[Any]:
        """Reads a case, and runs it once.

        Args:
            name: What `time` will call it.
            path: JSON file with `batches`, a list; each has `ids` and `mask`, or `texts`.

        Returns:
            The logits of all rows, a list of C floats for each.
        """
        with open(path, encoding="utf-8") as file:
            batches = json.load(file)["batches"]
        if "texts" in batches[0]:
            inputs = [self.text_inputs(batch["texts"]) for batch in batches]
            run: Callable[[Any], np.ndarray] = self.run_texts
        else:
            arrays = [[np.array(b[key], np.int32) for key in ("ids", "mask")] for b in batches]
            inputs = [self.to_inputs(ids, mask) for ids, mask in arrays]
            run = self.run_ids
        self.cases[name] = run, inputs
        return np.concatenate([run(batch) for batch in inputs]).tolist()

    def handle_time(self, name: str, min_time_s: float) -> list[float]:
        """Times a case: all of its batches, one after the other, in seconds a call."""
        run, inputs = self.cases[name]

        def call() -> None:
            for batch in inputs:
                run(batch)

        if min_time_s > 0:  # caches belong to whoever was timed before
            run(inputs[0])
        return time_calls(call, min_time_s)

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """Returns what the parent may ask for, by name."""
        return {
            "prepare": self.prepare,
            "load": self.handle_load,
            "case": self.handle_case,
            "time": self.handle_time,
            "memory": peak_memory_mib,
        }

    def serve(self) -> None:
        """Answers the parent's requests."""
        serve(self.handlers(), Channel())
