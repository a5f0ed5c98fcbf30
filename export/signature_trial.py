"""Runs every signature of a SavedModel, in a process that has TensorFlow and NumPy and no more.

A script, not a module: it is run by its path, also by the interpreters of older TensorFlow
releases (2.12 and newer), and so it imports nothing of this package and asks for no recent API.

Standard input: JSON with `saved_model` (directory), `texts` (what to feed to inputs of strings),
`batch_sizes`, and `sys_path` (where else to look for TensorFlow).
Standard output: JSON with `tensorflow` (its release), `seconds` (to load, by loader) and `answers`,
`{loader: {signature: [{output name: {"dtype", "shape", "values"}}, ...]}}`, one item for each batch
size. A signature that fails has `{"error": text}` instead of a list. The loaders are `tf2`
(`tf.saved_model.load`) and `session` (a graph and a session, as TF Serving does it).

What is fed: to an input of strings the texts in turn; if it is `inputs` and the only one,
serialized tf.Examples of the features `text` and `text_pair`; to an attention mask ones; to other
integers small numbers, to floats random ones. Dimensions of unknown size, but for the batch's, are
of size 6.
"""

import json
import os
import sys
import time
from typing import Any

FREE_SIZE = 6

Values = dict[str, Any]  # arrays by the name of the input


def main() -> None:
    """Answers the request on standard input."""
    # Whatever a library prints goes to the error output: the answer has its channel alone.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.buffer.read())
    sys.path.extend(path for path in request["sys_path"] if path not in sys.path)
    import tensorflow as tf

    answers, seconds = {}, {}
    for name, load in (("tf2", load_tf2), ("session", load_session)):
        start_s = time.monotonic()
        signatures, run = load(request["saved_model"])
        seconds[name] = time.monotonic() - start_s
        answers[name] = {
            signature: try_signature(run, signature, inputs, request)
            for signature, inputs in sorted(signatures.items())
        }
    with channel:
        json.dump({"tensorflow": tf.__version__, "seconds": seconds, "answers": answers}, channel)


def try_signature(run: Any, signature: str, inputs: dict[str, Any], request: Any) -> Any:
    """Gives a signature's answers to batches of each size, or what went wrong."""
    try:
        batches = [make_inputs(inputs, request["texts"], size) for size in request["batch_sizes"]]
        return [
            {name: describe(array) for name, array in run(signature, batch).items()}
            for batch in batches
        ]
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error)[:500]}"}


def load_tf2(saved_model: str) -> Any:
    """Loads for TensorFlow 2: gives the inputs' (dtype, shape) by signature, and a function."""
    import tensorflow as tf

    loaded = tf.saved_model.load(saved_model)

    def run(signature: str, batch: Values) -> Values:
        tensors = {name: tf.constant(array) for name, array in batch.items()}
        outputs = loaded.signatures[signature](**tensors)
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    inputs = {
        name: {
            key: (spec.dtype, spec.shape.as_list() if spec.shape.rank is not None else None)
            for key, spec in signature.structured_input_signature[1].items()
        }
        for name, signature in loaded.signatures.items()
    }
    return inputs, run


def load_session(saved_model: str) -> Any:
    """Loads into a session, as `load_tf2` does for TensorFlow 2."""
    import tensorflow as tf

    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    with graph.as_default():
        meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], saved_model)

    def run(signature: str, batch: Values) -> Values:
        definition = meta_graph.signature_def[signature]
        feeds = {definition.inputs[name].name: array for name, array in batch.items()}
        return session.run({key: info.name for key, info in definition.outputs.items()}, feeds)

    inputs = {}
    for name, definition in meta_graph.signature_def.items():
        if name.startswith("__"):  # TensorFlow's own
            continue
        tensors = {
            key: graph.get_tensor_by_name(info.name) for key, info in definition.inputs.items()
        }
        inputs[name] = {
            key: (tensor.dtype, tensor.shape.as_list() if tensor.shape.rank is not None else None)
            for key, tensor in tensors.items()
        }
    return inputs, run


def make_inputs(inputs: dict[str, Any], texts: list[str], batch_size: int) -> Values:
    """Makes a batch for a signature; the same one for all loaders and releases."""
    examples = list(inputs) == ["inputs"]
    return {
        name: make_array(name, dtype, shape, texts, batch_size, examples)
        for name, (dtype, shape) in sorted(inputs.items())
    }


def make_array(
    name: str, dtype: Any, shape: Any, texts: list[str], batch_size: int, examples: bool
) -> Any:
    """Makes one input."""
    import numpy as np

    if shape is None:
        shape = [None]
    shape = [batch_size if shape[:1] == [None] else shape[0], *shape[1:]] if shape else []
    shape = [FREE_SIZE if size is None else size for size in shape]
    count = int(np.prod(shape))
    random = np.random.RandomState(len(name) + batch_size)
    if dtype.name == "string":
        offset = 1 if name.endswith("pair") else 0
        chosen = [texts[(i + offset) % len(texts)] for i in range(count)]
        values = [make_example(text, chosen[::-1][i]) for i, text in enumerate(chosen)]
        if not examples:
            values = [text.encode() for text in chosen]
        array = np.empty(count, object)
        array[:] = values
        return array.reshape(shape)
    if "mask" in name:
        return np.ones(shape, dtype.as_numpy_dtype)
    if dtype.is_integer:
        return random.randint(0, 5, shape).astype(dtype.as_numpy_dtype)
    if dtype.is_bool:
        return random.randint(0, 2, shape).astype(bool)
    return random.standard_normal(shape).astype(dtype.as_numpy_dtype)


def make_example(text: str, text_pair: str) -> bytes:
    """Serializes a tf.Example with both features."""
    import tensorflow as tf

    features = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
        for name, value in (("text", text), ("text_pair", text_pair))
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def describe(array: Any) -> dict[str, Any]:
    """Turns an array into JSON; a float32 comes back to the bit."""
    import numpy as np

    array = np.asarray(array)
    if array.dtype.kind == "c":
        raise TypeError("complex numbers are not written")
    if array.dtype.kind == "V":  # bfloat16 and the like, which NumPy alone does not know
        array = array.astype(np.float32)
    values = array.reshape(-1).tolist()
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "values": [
            value.decode(errors="replace") if isinstance(value, bytes) else value
            for value in values
        ],
    }


if __name__ == "__main__":
    main()
