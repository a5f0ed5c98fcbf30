"""Loads an export in a process of its own, and says what that took and what it answers.

    python -m benchmarks.workers.weight_quantization DIRECTORY LOADER < texts.json

LOADER is `tf2` or `session`; the texts are a JSON list. Prints one JSON object.
"""

import json
import os
import sys
import time
from collections.abc import Callable

import psutil
from distilbert_serving.tf_serving.environment import set_serving_environment

BATCHES = (1, 8)  # rows of the calls that are timed
CALLS = 30
WARMUP_CALLS = 5
ANSWER_ROWS = 32


def main() -> None:
    """Measures."""
    directory, loader = sys.argv[1:]
    texts = json.load(sys.stdin)
    set_serving_environment()  # before TensorFlow is imported
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import numpy as np
    import tensorflow as tf

    tf.constant(1.0).numpy()  # the runtime has started
    process = psutil.Process()
    before_mib = _resident_mib(process)
    start_s, start_cpu_s = time.monotonic(), time.process_time()
    call = {"tf2": _load_tf2, "session": _load_session}[loader](directory)
    result = {
        "load_s": time.monotonic() - start_s,
        "load_cpu_s": time.process_time() - start_cpu_s,
        "load_mib": _resident_mib(process) - before_mib,
    }
    for rows in BATCHES:
        result[f"call_{rows}_ms"] = 1000 * _time(call, texts[:rows])
    parts = [texts[i : i + ANSWER_ROWS] for i in range(0, len(texts), ANSWER_ROWS)]
    result["logits"] = np.concatenate([call(part) for part in parts]).tolist()
    result["served_mib"] = _resident_mib(process) - before_mib
    json.dump(result, sys.stdout)


def _load_tf2(directory: str) -> Callable:
    import tensorflow as tf

    signature = tf.saved_model.load(directory).signatures["serving_default"]
    return lambda texts: signature(text=tf.constant(texts))["logits"].numpy()


def _load_session(directory: str) -> Callable:
    import tensorflow as tf

    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        loaded = tf.compat.v1.saved_model.loader.load(session, ["serve"], directory)
    signature = loaded.signature_def["serving_default"]
    feed, fetch = signature.inputs["text"].name, signature.outputs["logits"].name
    return lambda texts: session.run(fetch, {feed: texts})


def _time(call: Callable, texts: list[str]) -> float:
    """Returns the shortest of many calls, in seconds."""
    times_s = []
    for _ in range(WARMUP_CALLS + CALLS):
        start_s = time.perf_counter()
        call(texts)
        times_s.append(time.perf_counter() - start_s)
    return min(times_s[WARMUP_CALLS:])


def _resident_mib(process: psutil.Process) -> float:
    return process.memory_info().rss / 2**20


if __name__ == "__main__":
    main()
