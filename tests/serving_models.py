"""Tiny SavedModels whose answers can be worked out by hand, and raw requests to ask for them."""

import os
import pathlib
import shutil

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

LABELS = ("short", "middling", "très long")
CALLS = "calls"  # the signature that tells how requests were merged


def logits_of(text: str | bytes, text_pair: str | bytes = b"") -> np.ndarray:
    """What the classifiers answer, in NumPy: it depends on the lengths in bytes, and the order."""
    sizes = [len(t.encode() if isinstance(t, str) else t) for t in (text, text_pair)]
    size = np.float32(sizes[0]) + np.float32(0.5) * np.float32(sizes[1])
    return np.array([6.0 - size, 2.5, size - 12.0], np.float32)


def _strings(name: str) -> tf.TensorSpec:
    return tf.TensorSpec([None], tf.string, name=name)


def _read_texts(examples: tf.Tensor) -> tf.Tensor:
    return tf.io.parse_example(examples, {"text": tf.io.FixedLenFeature([], tf.string)})["text"]


class Endpoints(tf.Module):
    """One signature for each thing that a test wants to see."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = tf.Variable(0, dtype=tf.int32)

    def _classify(self, size):
        logits = tf.stack([6.0 - size, tf.fill(tf.shape(size), 2.5), size - 12.0], axis=1)
        return {
            "label": tf.gather(tf.constant(LABELS), tf.argmax(logits, axis=1)),
            "probabilities": tf.nn.softmax(logits),
            "logits": logits,
        }

    @tf.function(input_signature=[_strings("text")])
    def classify(self, text):
        return self._classify(tf.cast(tf.strings.length(text), tf.float32))

    @tf.function(input_signature=[_strings("text"), _strings("text_pair")])
    def classify_pairs(self, text, text_pair):
        sizes = [tf.cast(tf.strings.length(t), tf.float32) for t in (text, text_pair)]
        return self._classify(sizes[0] + 0.5 * sizes[1])

    @tf.function(input_signature=[_strings("text"), _strings("gate")])
    def calls(self, text, gate):
        """Tells which run of the graph it was, of what size.

        A gate that is not empty is a path: the run writes the file `<gate>.started`, and lasts
        until somebody makes the file `<gate>`.
        """
        gates = tf.boolean_mask(gate, gate != "")
        for path in gates:
            tf.io.write_file(path + ".started", "")
        looks = 0
        while tf.size(tf.io.matching_files(gates)) < tf.size(gates):
            looks += 1
        with tf.control_dependencies([looks]):
            run = self.runs.assign_add(1)
        size = tf.size(text)
        return {"echo": text, "run": tf.fill([size], run), "size": tf.fill([size], size)}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def finite(self, x):
        return {"y": 2 * tf.debugging.check_numerics(x, "x is not finite")}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, name="ids")])
    def total(self, ids):
        return {"total": tf.reduce_sum(ids, axis=1)}

    @tf.function(input_signature=[_strings("inputs")])
    def classify_examples(self, inputs):
        outputs = self._classify(tf.cast(tf.strings.length(_read_texts(inputs)), tf.float32))
        classes = tf.tile([LABELS], [tf.size(inputs), 1])
        return {"classes": classes, "scores": outputs["probabilities"]}

    @tf.function(input_signature=[_strings("inputs")])
    def regress_examples(self, inputs):
        return {"outputs": tf.cast(tf.strings.length(_read_texts(inputs)), tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])
    def square(self, x):
        return {"y": x * x}

    @tf.function(input_signature=[_strings("text")])
    def distinct(self, text):
        """Looks as if its output had a row for each example, but has not."""
        return {"distinct": tf.unique(text).y}


def save(path: str | os.PathLike[str]) -> None:
    """Writes a SavedModel with all endpoints."""
    module = Endpoints()
    tf.saved_model.save(
        module,
        os.fspath(path),
        signatures={
            "serving_default": module.classify,
            "pairs": module.classify_pairs,
            CALLS: module.calls,
            "finite": module.finite,
            "total": module.total,
            "square": module.square,
            "classify": module.classify_examples,
            "regress": module.regress_examples,
            "distinct": module.distinct,
        },
    )


def save_constant(path: pathlib.Path, label: str) -> None:
    """Writes a classifier that gives every text the same label."""
    module = tf.Module()

    @tf.function(input_signature=[_strings("text")])
    def classify(text):
        logits = tf.tile([[3.0, 1.0]], [tf.size(text), 1])
        return {
            "label": tf.fill([tf.size(text)], label),
            "probabilities": tf.nn.softmax(logits),
            "logits": logits,
        }

    module.classify = classify
    tf.saved_model.save(module, os.fspath(path), signatures=classify)


def publish(made: pathlib.Path, label: str, path: pathlib.Path, damage=lambda path: None) -> None:
    """Makes a version of the fixture `made` appear at once, as an export does, perhaps damaged."""
    path.parent.mkdir(exist_ok=True)
    shutil.copytree(made / label, path.with_suffix(".tmp"))
    damage(path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)


def make_request(
    inputs=None, *, name="m", signature="", version=None, label=None, outputs=(), spec=True
):
    """A PredictRequest; inputs are TensorProtos or what TensorFlow makes them of."""
    request = predict_pb2.PredictRequest(output_filter=outputs)
    if spec:
        set_spec(request.model_spec, name, version, label)
        request.model_spec.signature_name = signature
    for key, value in (inputs or {}).items():
        proto = value if hasattr(value, "tensor_shape") else tf.make_tensor_proto(value)
        request.inputs[key].CopyFrom(proto)
    return request


def set_spec(spec, name="m", version=None, label=None):
    spec.name = name
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label


def make_example(**features):
    """A tf.Example of one string a feature."""
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                name: tf.train.Feature(
                    bytes_list=tf.train.BytesList(
                        value=[text.encode() if isinstance(text, str) else text]
                    )
                )
                for name, text in features.items()
            }
        )
    )


def write_examples(**columns):
    """Serialized tf.Examples, one for each row of the columns."""
    rows = zip(*columns.values(), strict=True)
    return [
        make_example(**dict(zip(columns, row, strict=True))).SerializeToString() for row in rows
    ]


def call(stub, *args, timeout=10, **kwargs):
    response = stub.Predict(make_request(*args, **kwargs), timeout=timeout)
    return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


def assert_alive(stub):
    """Checks that a server of all endpoints gives the right answer."""
    np.testing.assert_array_equal(call(stub, {"text": ["abc"]})["logits"], [logits_of("abc")])


def states_of(model_stub, name="m", timeout=60, **options):
    """The state of each version of a model, and what went wrong with it."""
    request = get_model_status_pb2.GetModelStatusRequest()
    set_spec(request.model_spec, name)
    found = model_stub.GetModelStatus(request, timeout=timeout, **options).model_version_status
    return {one.version: (one.state, one.status.error_message) for one in found}
