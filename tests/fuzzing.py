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
from hypothesis import strategies as st
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

PREDICTION_SERVICE = "/tensorflow.serving.PredictionService/"
MODEL_SERVICE = "/tensorflow.serving.ModelService/"


class Call(NamedTuple):
    """A call over gRPC: the method's path and the request."""

    method: str
    data: bytes


# Tensors.

_SIZES = st.one_of(st.integers(-2, 5), st.sampled_from([2**16 + 1, 2**40, 2**63 - 1]))
_VALUES = {
    "float_val": st.floats(width=32),
    "double_val": st.floats(),
    "int_val": st.integers(-(2**31), 2**31 - 1),
    "int64_val": st.integers(-(2**63), 2**63 - 1),
    "bool_val": st.booleans(),
    "string_val": st.binary(max_size=20),
    "half_val": st.integers(-(2**31), 2**31 - 1),
    "uint32_val": st.integers(0, 2**32 - 1),
}
_FIELDS = {7: "string_val", 1: "float_val", 3: "int_val"}


def one_in(count: int) -> st.SearchStrategy[bool]:
    """Is true once in a while."""
    return st.sampled_from([False] * (count - 1) + [True])


@st.composite
def tensor_protos(draw):
    """Makes tensors, mostly of types and shapes that get past the first checks."""
    dtype = draw(st.one_of(st.sampled_from([7, 7, 1, 3]), st.integers(0, 140)))
    proto = tf.make_tensor_proto(0.0)
    proto.Clear()
    proto.dtype = dtype
    for size in draw(st.lists(_SIZES, min_size=0, max_size=3)):
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_shape.unknown_rank = draw(one_in(10))
    proto.tensor_content = draw(st.one_of(st.just(b""), st.just(b""), st.binary(max_size=40)))
    usual = _FIELDS.get(dtype, "int_val")
    field = draw(st.one_of(st.just(usual), st.sampled_from(sorted(_VALUES))))
    getattr(proto, field).extend(draw(st.lists(_VALUES[field], max_size=5)))
    return proto


_TEXTS = st.one_of(
    st.sampled_from(tiny_exports.TEXTS + tiny_exports.MASKED),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=20),
    st.sampled_from([b"\0", b"\xff" * 300, b"x" * 5000, "影 ".encode() * 500, b"[MASK]" * 30]),
)
_TOO_LONG = b"x" * (MAX_TEXT_BYTES + 1)
_IDS = st.one_of(st.integers(0, 9), st.integers(0, 9), st.sampled_from([-1, 10**6, 2**31 - 1]))
_COUNTS = st.one_of(st.integers(1, 6), st.integers(1, 6), st.sampled_from([-1, 0, 30, 2**31 - 1]))
_ROWS = st.sampled_from([1, 1, 1, 2, 3, 0, 70])


@st.composite
def _examples(draw):
    example = serving_models.make_example(text=draw(_TEXTS), text_pair=draw(_TEXTS))
    if draw(one_in(4)):
        feature = example.features.feature[draw(st.sampled_from(["text", "text_pair", "x", "\0"]))]
        kind = draw(st.sampled_from(["bytes_list", "int64_list", "float_list", "none"]))
        if kind == "none":
            feature.Clear()
        else:
            values = {"bytes_list": st.binary(), "int64_list": st.integers(0, 9)}
            getattr(feature, kind).value.extend(
                draw(st.lists(values.get(kind, st.floats(width=32)), max_size=3))
            )
    return example


@st.composite
def _inputs_of(draw, key):
    """Makes inputs for a signature, which fit as long as nobody changes them."""
    names = list(tiny_exports.INPUTS[key])
    rows = draw(_ROWS)
    if "input_ids" in names:
        columns = draw(st.sampled_from([1, 2, 5, 0, 25, 600]))
        ids = np.resize(draw(st.lists(_IDS, min_size=1, max_size=6)), (rows, columns))
        counts = np.resize(draw(st.lists(_COUNTS, min_size=1, max_size=3)), rows)
        return {
            "input_ids": tf.make_tensor_proto(ids.astype(np.int32)),
            "num_tokens": tf.make_tensor_proto(counts.astype(np.int32)),
        }
    values = _TEXTS
    if "inputs" in names:
        values = _examples().map(lambda example: example.SerializeToString())
        values = st.one_of(values, values, values, st.binary(max_size=10))
    cells = draw(st.lists(values, min_size=1, max_size=3))
    if draw(one_in(100)):
        cells, rows = [_TOO_LONG], 1
    return {
        name: tiny_exports.strings(np.resize(np.array(cells, object), rows).tolist())
        for name in names
    }


def _change_tensor(draw, proto):
    """Makes a mistake."""
    kind = draw(st.integers(0, 7))
    if kind == 0:
        proto.dtype = draw(st.integers(0, 140))
    elif kind == 1:
        proto.tensor_shape.dim.add(size=draw(_SIZES))
    elif kind == 2 and proto.tensor_shape.dim:
        del proto.tensor_shape.dim[draw(st.integers(0, len(proto.tensor_shape.dim) - 1))]
    elif kind == 3 and proto.tensor_shape.dim:
        proto.tensor_shape.dim[0].size = draw(_SIZES)
    elif kind == 4:
        proto.tensor_content = draw(st.binary(max_size=40))
    elif kind == 5:
        proto.tensor_shape.unknown_rank = True
    elif kind == 6:
        field = draw(st.sampled_from(sorted(_VALUES)))
        getattr(proto, field).extend(draw(st.lists(_VALUES[field], max_size=5)))
    else:
        proto.CopyFrom(draw(tensor_protos()))


# Requests.

KEYS = st.sampled_from(sorted(tiny_exports.INPUTS))
_WORDS = st.one_of(
    st.text(max_size=12), st.sampled_from(["", "\0", "é" * 3000, "__saved_model_init_op"])
)
_METHODS = ["tensorflow/serving/classify", "tensorflow/serving/regress"]


def _fill_spec(draw, spec, name, signature=""):
    """Writes a model spec, mostly one that fits."""
    spec.name = draw(_WORDS) if draw(one_in(15)) else name
    spec.signature_name = draw(_WORDS) if draw(one_in(10)) else signature
    if draw(one_in(8)):
        if draw(st.booleans()):
            spec.version.value = draw(st.sampled_from([1, 1, 1, 0, -1, 2, 2**63 - 1]))
        else:
            spec.version_label = draw(_WORDS)


@st.composite
def predict_requests(draw, keys=KEYS):
    """Makes PredictRequests to these signatures."""
    key = draw(keys)
    request = predict_pb2.PredictRequest()
    if not draw(one_in(30)):
        _fill_spec(draw, request.model_spec, *key)
    inputs = draw(_inputs_of(draw(KEYS) if draw(one_in(10)) else key))
    for name, proto in inputs.items():
        if draw(one_in(4)):
            _change_tensor(draw, proto)
        if not draw(one_in(20)):
            request.inputs[name].CopyFrom(proto)
    if draw(one_in(20)):
        request.inputs[draw(_WORDS)].CopyFrom(draw(tensor_protos()))
    if draw(one_in(8)):
        names = st.sampled_from(["logits", "label", "classes", "tokens", "input_ids", "\0"])
        request.output_filter.extend(draw(st.lists(names, max_size=3)))
    return request


def _fill_input(draw, target):
    examples = draw(st.lists(_examples(), max_size=3))
    kind = draw(st.sampled_from(["example_list", "example_list", "with_context", "none"]))
    if kind == "example_list":
        target.example_list.examples.extend(examples)
    elif kind == "with_context":
        target.example_list_with_context.examples.extend(examples)
        target.example_list_with_context.context.CopyFrom(draw(_examples()))


@st.composite
def example_requests(draw, request_class):
    """Makes ClassificationRequests and RegressionRequests."""
    request = request_class()
    name = draw(st.sampled_from(tiny_exports.NAMES))
    _fill_spec(draw, request.model_spec, name, draw(st.sampled_from(["classify", "regress"])))
    _fill_input(draw, request.input)
    return request


@st.composite
def multi_inference_requests(draw):
    """Makes MultiInferenceRequests."""
    request = inference_pb2.MultiInferenceRequest()
    name = draw(st.sampled_from(tiny_exports.NAMES))
    for method in draw(st.permutations(_METHODS))[: draw(st.integers(0, 2))]:
        task = request.tasks.add(method_name=draw(_WORDS) if draw(one_in(10)) else method)
        _fill_spec(draw, task.model_spec, name, method.rpartition("/")[2])
    _fill_input(draw, request.input)
    return request


@st.composite
def metadata_requests(draw):
    """Makes GetModelMetadataRequests."""
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    _fill_spec(draw, request.model_spec, draw(st.sampled_from(tiny_exports.NAMES)))
    fields = st.one_of(st.just("signature_def"), st.just("signature_def"), _WORDS)
    request.metadata_field.extend(draw(st.lists(fields, max_size=2)))
    return request


@st.composite
def status_requests(draw):
    """Makes GetModelStatusRequests."""
    request = get_model_status_pb2.GetModelStatusRequest()
    _fill_spec(draw, request.model_spec, draw(st.sampled_from(tiny_exports.NAMES)))
    return request


@st.composite
def reload_requests(draw):
    """Makes ReloadConfigRequests that cannot be done: all models stay."""
    request = model_management_pb2.ReloadConfigRequest()
    paths = ["", "\0", "/nowhere", "/dev/null", "x" * 5000, "\n", "ftp://nowhere"]
    for _ in range(draw(st.integers(1, 2))):
        model = request.config.model_config_list.config.add(
            name=draw(st.one_of(st.sampled_from(tiny_exports.NAMES), _WORDS)),
            base_path=draw(st.sampled_from(paths)),
            model_platform=draw(st.sampled_from(["tensorflow"] * 5 + ["", "\0"])),
        )
        if draw(one_in(3)):
            versions = draw(st.lists(st.sampled_from([0, 1, -1, 2**63 - 1]), max_size=2))
            model.model_version_policy.specific.versions.extend(versions)
            model.version_labels[draw(_WORDS)] = draw(st.sampled_from([0, 1, -1]))
    return request


def _drops_models(data: bytes) -> bool:
    """Says whether a reload would leave no models, and spoil the rest of the test."""
    request = model_management_pb2.ReloadConfigRequest()
    try:
        request.ParseFromString(data)
    except Exception:
        return False
    config = request.config
    return config.HasField("model_config_list") and not config.model_config_list.config


# Calls.

_REQUESTS = {
    PREDICTION_SERVICE + "Predict": predict_requests(),
    PREDICTION_SERVICE + "Classify": example_requests(classification_pb2.ClassificationRequest),
    PREDICTION_SERVICE + "Regress": example_requests(regression_pb2.RegressionRequest),
    PREDICTION_SERVICE + "MultiInference": multi_inference_requests(),
    PREDICTION_SERVICE + "GetModelMetadata": metadata_requests(),
    MODEL_SERVICE + "GetModelStatus": status_requests(),
    MODEL_SERVICE + "HandleReloadConfigRequest": reload_requests(),
}
_MOSTLY_PREDICT = [PREDICTION_SERVICE + "Predict"] * 5 + sorted(_REQUESTS)


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
    if draw(one_in(20)):
        data = draw(st.binary(max_size=60))
    else:
        # Another method's request is garbage that parses.
        source = draw(st.sampled_from(_MOSTLY_PREDICT)) if draw(one_in(20)) else method
        is_predict = source.endswith("Predict")
        request = draw(predict_requests(keys) if is_predict else _REQUESTS[source])
        data = request.SerializeToString()
        if draw(one_in(5)):
            data = draw(changed_bytes(data))
    if "Reload" in method and _drops_models(data):
        data = b""
    if draw(one_in(100)):
        method += "s"
    return Call(method, data)
