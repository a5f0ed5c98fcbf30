"""Reloads a SavedModel and answers requests, in a process that has TensorFlow and nothing else.

A script, not a module: it is run by its path, also by the interpreters of older TensorFlow releases
(2.12 and newer). So it imports nothing of this package, which a server lacks, and uses
no recent API.

Standard input: JSON with `saved_model` (directory), `batches` (for each signature by name a list of
`{input name: array}`) and `sys_path` (where else to look for TensorFlow).
Standard output: JSON with `tensorflow` (its release), `seconds` (to load, by loader) and `answers`,
`{loader: {signature: [{output name: array}, ...]}}`, one item for each batch; a signature that
fails has `{"error": text}` instead of a list. The loaders are `tf2` (`tf.saved_model.load`, as in
Python) and `session` (a graph and a session, as TF Serving does it).
An array is `{"dtype", "shape", "values"}`; its strings are bytes, each written as the character of
its number.
"""

import json
import os
import sys
import time
from typing import Any

# What a server does not have. Importing one of these raises.
ABSENT = (
    "distilbert_tf",
    "distilbert_serving",
    "keras_hub",
    "keras_nlp",
    "tensorflow_text",
    "tokenizers",
    "transformers",
)
ERROR = "error"

Arrays = dict[str, dict[str, Any]]


def main() -> None:
    """Answers the request on standard input."""
    # Whatever a library prints goes to the error output: the answer has its channel alone.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.buffer.read())
    for name in ABSENT:
        if name in sys.modules:
            raise RuntimeError(f"{name} is imported before anything asked for it.")
        sys.modules[name] = None  # type: ignore[assignment]
    sys.path.extend(path for path in request["sys_path"] if path not in sys.path)
    import tensorflow as tf

    answers, seconds = {}, {}
    for name, load in (("tf2", load_tf2), ("session", load_session)):
        start_s = time.monotonic()
        run = load(request["saved_model"])
        seconds[name] = time.monotonic() - start_s
        answers[name] = {
            signature: try_signature(run, signature, batches)
            for signature, batches in request["batches"].items()
        }
    with channel:
        json.dump({"tensorflow": tf.__version__, "seconds": seconds, "answers": answers}, channel)


def try_signature(run: Any, signature: str, batches: list[Arrays]) -> Any:
    """Returns a signature's answers to each batch, or what went wrong."""
    try:
        answers = []
        for batch in batches:
            inputs = {name: read_array(array) for name, array in batch.items()}
            outputs = run(signature, inputs)
            answers.append({name: write_array(array) for name, array in outputs.items()})
        return answers
    except Exception as error:
        return {ERROR: f"{type(error).__name__}: {str(error)[:500]}"}


def load_tf2(saved_model: str) -> Any:
    """Loads for TensorFlow 2; returns a function of a signature's name and arrays by input."""
    import tensorflow as tf

    # The object must stay alive: it owns the variables.
    loaded = tf.saved_model.load(saved_model)

    def run(signature: str, inputs: dict[str, Any]) -> dict[str, Any]:
        tensors = {
            # Without the type, an empty array of strings would become one of floats.
            name: tf.constant(array, tf.string if array.dtype.hasobject else None)
            for name, array in inputs.items()
        }
        outputs = loaded.signatures[signature](**tensors)
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return run


def load_session(saved_model: str) -> Any:
    """Loads into a session, as `load_tf2` does for TensorFlow 2."""
    import tensorflow as tf

    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], saved_model)

    def run(signature: str, inputs: dict[str, Any]) -> dict[str, Any]:
        definition = meta_graph.signature_def[signature]
        fetches = {name: info.name for name, info in definition.outputs.items()}
        feeds = {definition.inputs[name].name: array for name, array in inputs.items()}
        outputs: dict[str, Any] = session.run(fetches, feeds)
        return outputs

    return run


def read_array(array: dict[str, Any]) -> Any:
    """Makes a NumPy array of JSON."""
    import numpy as np

    dtype = np.dtype(array["dtype"])
    values = array["values"]
    if dtype.hasobject:
        values = [value.encode("latin-1") for value in values]
    return np.array(values, dtype).reshape(array["shape"])


def write_array(array: Any) -> dict[str, Any]:
    """Turns an array into JSON; a float32 comes back to the bit."""
    import numpy as np

    array = np.asarray(array)
    if array.dtype.kind == "c":
        raise TypeError("complex numbers are not written")
    numbers = array
    if array.dtype.kind == "V":  # bfloat16 and the like, which become no JSON by themselves
        numbers = array.astype(np.float32)
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "values": [
            value.decode("latin-1") if isinstance(value, bytes) else value
            for value in numbers.reshape(-1).tolist()
        ],
    }


if __name__ == "__main__":
    main()
