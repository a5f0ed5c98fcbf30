"""Random requests over gRPC: mostly right ones with a mistake or two, and plain garbage.

Many have rows that cannot be computed, which is no mistake of the request. They are for the models
of `tiny_exports`. A strategy makes what one call sends, as bytes.
"""

from typing import NamedTuple

import numpy as np
import serving_models
import tensorflow as tf
import tiny_exports
from distilbert_serving.saved_model.endpoints import MAX_TEXT_BYTES
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

PREDICTION_SERVICE = "/tensorflow.serving.PredictionService/"
MODEL_SERVICE = "/tensorflow.serving.ModelService/"
REQUESTS = {
    PREDICTION_SERVICE + "Predict": predict_pb2.PredictRequest,
    PREDICTION_SERVICE + "Classify": classification_pb2.ClassificationRequest,
    PREDICTION_SERVICE + "Regress": regression_pb2.RegressionRequest,
    PREDICTION_SERVICE + "MultiInference": inference_pb2.MultiInferenceRequest,
    PREDICTION_SERVICE + "GetModelMetadata": get_model_metadata_pb2.GetModelMetadataRequest,
    MODEL_SERVICE + "GetModelStatus": get_model_status_pb2.GetModelStatusRequest,
}
_MOSTLY_PREDICT = [PREDICTION_SERVICE + "Predict"] * 5 + sorted(REQUESTS)

KEYS = st.sampled_from(sorted(tiny_exports.INPUTS))
_WORDS = st.one_of(
    st.text(max_size=12), st.sampled_from(["", "\0", "é" * 3000, "__saved_model_init_op"])
)
_TEXTS = st.one_of(
    st.sampled_from(tiny_exports.TEXTS + tiny_exports.MASKED),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=20),
    st.sampled_from([b"\0", b"\xff" * 300, b"x" * 5000, "影 ".encode() * 500, b"[MASK]" * 30]),
)
_TOO_LONG = b"x" * (MAX_TEXT_BYTES + 1)
_IDS = st.one_of(st.integers(0, 9), st.integers(0, 9), st.sampled_from([-1, 10**6, 2**31 - 1]))
_COUNTS = st.one_of(st.integers(1, 6), st.integers(1, 6), st.sampled_from([-1, 0, 30, 2**31 - 1]))

# What a field of a message may hold.
_KIND = FieldDescriptor
_VALUES = {
    _KIND.CPPTYPE_INT32: st.one_of(st.integers(-2, 9), st.integers(-(2**31), 2**31 - 1)),
    _KIND.CPPTYPE_INT64: st.one_of(st.integers(-2, 5), st.sampled_from([2**16 + 1, 2**63 - 1])),
    _KIND.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    _KIND.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    _KIND.CPPTYPE_FLOAT: st.floats(width=32),
    _KIND.CPPTYPE_DOUBLE: st.floats(),
    _KIND.CPPTYPE_BOOL: st.booleans(),
    _KIND.CPPTYPE_ENUM: st.one_of(st.sampled_from([1, 3, 7]), st.integers(0, 140)),
}


class Call(NamedTuple):
    """A call over gRPC: the method's path and the request."""

    method: str
    data: bytes


def one_in(count: int) -> st.SearchStrategy[bool]:
    """Is true once in a while."""
    return st.sampled_from([False] * (count - 1) + [True])


def _draw_value(draw, field):
    if field.type == _KIND.TYPE_BYTES:
        return draw(st.binary(max_size=40))
    return draw(_VALUES.get(field.cpp_type, _WORDS))


def _change(draw, message):
    """Makes a mistake somewhere in a message."""
    field = draw(st.sampled_from(list(message.DESCRIPTOR.fields)))
    value = getattr(message, field.name)
    deeper = draw(st.integers(0, 3)) > 0
    if field.type != _KIND.TYPE_MESSAGE and field.is_repeated:
        value.append(_draw_value(draw, field))
    elif field.type != _KIND.TYPE_MESSAGE:
        setattr(message, field.name, _draw_value(draw, field))
    elif not deeper:
        message.ClearField(field.name)
    elif field.message_type.GetOptions().map_entry:
        key_field, value_field = field.message_type.fields
        key = _draw_value(draw, key_field)
        if value and draw(st.booleans()):
            key = draw(st.sampled_from(sorted(value)))
        if value_field.type == _KIND.TYPE_MESSAGE:
            _change(draw, value[key])
        else:
            value[key] = _draw_value(draw, value_field)
    elif field.is_repeated:
        _change(draw, draw(st.sampled_from([*value, value.add()])))
    else:
        _change(draw, value)


@st.composite
def _tensors(draw, key):
    """Makes inputs for a signature, which fit as long as nobody changes them."""
    names, rows = list(tiny_exports.INPUTS[key]), draw(st.sampled_from([1, 1, 1, 2, 3, 0, 70]))
    if "input_ids" in names:
        shape = rows, draw(st.sampled_from([1, 2, 5, 0, 25, 600]))
        ids = np.resize(draw(st.lists(_IDS, min_size=1, max_size=6)), shape)
        counts = np.resize(draw(st.lists(_COUNTS, min_size=1, max_size=3)), rows)
        arrays = {"input_ids": ids.astype(np.int32), "num_tokens": counts.astype(np.int32)}
        return {name: tf.make_tensor_proto(array) for name, array in arrays.items()}
    values = _TEXTS
    if "inputs" in names:
        examples = st.builds(serving_models.make_example, text=_TEXTS, text_pair=_TEXTS)
        values = st.one_of(examples.map(lambda e: e.SerializeToString()), st.binary(max_size=10))
    cells = draw(st.lists(values, min_size=1, max_size=3))
    if draw(one_in(100)):
        cells, rows = [_TOO_LONG], 1
    cells = np.resize(np.array(cells, object), rows).tolist()
    return {name: tiny_exports.strings(cells) for name in names}


@st.composite
def _requests(draw, method, keys):
    """Makes a request that is right but for its rows."""
    request = REQUESTS[method]()
    name, signature = draw(keys)
    if method.endswith("Predict"):
        for key, proto in draw(_tensors((name, signature))).items():
            request.inputs[key].CopyFrom(proto)
    elif hasattr(request, "input"):
        for _ in range(draw(st.integers(0, 3))):
            example = serving_models.make_example(text=draw(_TEXTS), text_pair=draw(_TEXTS))
            request.input.example_list.examples.add().CopyFrom(example)
        signature = "regress" if method.endswith("Regress") else "classify"
    if method.endswith("MultiInference"):
        for each in ("classify", "regress"):
            task = request.tasks.add(method_name=f"tensorflow/serving/{each}")
            task.model_spec.name, task.model_spec.signature_name = name, each
    else:
        request.model_spec.name, request.model_spec.signature_name = name, signature
    if method.endswith("Metadata"):
        request.metadata_field.append("signature_def")
    return request


@st.composite
def changed_bytes(draw, data: bytes) -> bytes:
    """Changes bytes: cuts, repeats, overwrites or inserts some."""
    start = draw(st.integers(0, len(data)))
    end = min(len(data), start + draw(st.integers(0, 8)))
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return data[:start]
    if kind == 1:
        return data[:end] + data[start:]
    return data[:start] + draw(st.binary(max_size=8)) + data[start if kind == 2 else end :]


@st.composite
def calls(draw, keys=KEYS) -> Call:
    """Makes calls over gRPC; those of Predict are for these signatures."""
    method = draw(st.sampled_from(_MOSTLY_PREDICT))
    # Another method's request is garbage that parses.
    source = draw(st.sampled_from(_MOSTLY_PREDICT)) if draw(one_in(20)) else method
    request = draw(_requests(source, keys))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3]))):
        _change(draw, request)
    data = request.SerializeToString()
    if draw(one_in(6)):
        data = draw(changed_bytes(data))
    if draw(one_in(20)):
        data = draw(st.binary(max_size=60))
    return Call(method + "s" * draw(one_in(100)), data)
