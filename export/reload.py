"""Reloads a SavedModel and answers requests, in a process that has TensorFlow and nothing else.

A script, not a module: `verification` runs it by its path. It must import nothing of this package,
since its purpose is to show that the SavedModel needs none of it.

Standard input: JSON with `saved_model` (directory), `batches` (for each signature by name a list of
`{input name: array}`) and `sys_path` (where else to look for TensorFlow).
Standard output: JSON, `{loader: {signature: [{output name: array}, ...]}}`, one item per batch. The
loaders are `tf2` (`tf.saved_model.load`, as in Python) and `session` (a graph and a session, as TF
Serving does it).
An array is `{"dtype", "shape", "values"}`; its strings are bytes, each written as the character of
its number.
"""

import json
import os
import sys
from typing import Any

# What a server does not have. Importing one of these raises.
ABSENT = (
    "distilbert_tf",
    "export",
    "keras_hub",
    "keras_nlp",
    "tensorflow_text",
    "tokenizers",
    "transformers",
)

Arrays = dict[str, dict[str, Any]]
Batches = dict[str, list[Arrays]]  # by signature


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
    arguments = (request["saved_model"], request["batches"])
    answer = {"tf2": run_tf2(*arguments), "session": run_session(*arguments)}
    with channel:
        json.dump(answer, channel)


def run_tf2(saved_model: str, batches: Batches) -> Batches:
    """Runs batches through the TF2 loader."""
    import tensorflow as tf

    # The object must stay alive: it owns the variables.
    loaded = tf.saved_model.load(saved_model)

    def run(signature: str, batch: Arrays) -> Arrays:
        arrays = {name: read_array(array) for name, array in batch.items()}
        inputs = {
            # Without the type, an empty array of strings would become one of floats.
            name: tf.constant(array, tf.string if array.dtype.hasobject else None)
            for name, array in arrays.items()
        }
        outputs = loaded.signatures[signature](**inputs)
        return {name: write_array(tensor.numpy()) for name, tensor in outputs.items()}

    return {name: [run(name, batch) for batch in each] for name, each in batches.items()}


def run_session(saved_model: str, batches: Batches) -> Batches:
    """Runs batches through the session loader."""
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.loader.load(
            session, [tf.saved_model.SERVING], saved_model
        )

        def run(signature: str, batch: Arrays) -> Arrays:
            definition = meta_graph.signature_def[signature]
            fetches = {name: info.name for name, info in definition.outputs.items()}
            feeds = {
                definition.inputs[name].name: read_array(array) for name, array in batch.items()
            }
            outputs = session.run(fetches, feeds)
            return {name: write_array(array) for name, array in outputs.items()}

        return {name: [run(name, batch) for batch in each] for name, each in batches.items()}


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
    values = array.reshape(-1).tolist()
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "values": [
            value.decode("latin-1") if isinstance(value, bytes) else value for value in values
        ],
    }


if __name__ == "__main__":
    main()
