"""TF Serving's JSON: to tensors and tf.Examples, and back."""

import base64
import json
import math

import grpc
import numpy as np
import pytest
from distilbert_serving import tensors
from distilbert_serving.protos import types_pb2
from distilbert_serving.server import json_tensors, status
from fake_handler import signature
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

TEXT = dict(text=types_pb2.DT_STRING)
PAIR = dict(text=types_pb2.DT_STRING, n=types_pb2.DT_INT32)


def read(body, **types):
    """Reads a Predict request: its tensors as arrays, and whether it is in rows."""
    if not isinstance(body, bytes):
        body = json.dumps(body, ensure_ascii=False).encode()
    document = json_tensors.parse_object(body)
    inputs, is_rows = json_tensors.read_inputs(document, signature(**types).inputs)
    return {name: tensors.to_array(proto) for name, proto in inputs.items()}, is_rows


def fails(body, code=grpc.StatusCode.INVALID_ARGUMENT, **types):
    with pytest.raises(status.RequestError) as caught:
        read(body, **types)
    assert caught.value.code is code
    return caught.value.message


# Predict requests: what TF Serving's documentation shows, and its rules for types.


@pytest.mark.parametrize(
    ("body", "types", "expected"),
    [
        ({"instances": ["é", {"b64": "AP8="}]}, TEXT, {"text": ["é".encode(), b"\x00\xff"]}),
        ({"instances": [{"text": "a"}, {"text": "b"}]}, TEXT, {"text": [b"a", b"b"]}),
        (
            {"instances": [{"text": "a", "n": [1, 2]}, {"n": [3, 4], "text": {"b64": "Yg"}}]},
            PAIR,
            {"text": [b"a", b"b"], "n": [[1, 2], [3, 4]]},
        ),
        ({"inputs": {"text": ["a"], "n": [[1], [2]]}}, PAIR, {"text": [b"a"], "n": [[1], [2]]}),
        ({"inputs": "a"}, TEXT, {"text": b"a"}),
        ({"inputs": {"b64": "YQ=="}}, TEXT, {"text": b"a"}),
        ({"inputs": []}, TEXT, {"text": []}),
        ({"inputs": [[], []]}, dict(x=types_pb2.DT_FLOAT), {"x": [[], []]}),
        ({"inputs": [True, False]}, dict(x=types_pb2.DT_BOOL), {"x": [True, False]}),
        (b'\xef\xbb\xbf{"instances": ["a\\u0000"]}', TEXT, {"text": [b"a\x00"]}),
    ],
)
def test_rows_and_columns(body, types, expected):
    arrays, is_rows = read(body, **types)
    assert {name: array.tolist() for name, array in arrays.items()} == expected
    assert is_rows == ("instances" in str(body))


def test_floats_of_every_kind():
    body = b'{"instances": [1, -2.5, 1e-3, NaN, Infinity, -Infinity, 3.40282347e+38, -16777215]}'
    (array,) = read(body, x=types_pb2.DT_FLOAT)[0].values()
    most = np.finfo(np.float32).max
    expected = [1, -2.5, 1e-3, math.nan, math.inf, -math.inf, most, -16777215]
    np.testing.assert_array_equal(array, np.array(expected, np.float32))


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64]
)
def test_integers_to_their_limits(dtype):
    data_type = tensors.to_proto(np.zeros(1, dtype)).dtype
    limits = [int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)]
    (array,) = read({"instances": limits}, x=data_type)[0].values()
    np.testing.assert_array_equal(array, np.array(limits, dtype))
    for beyond in (limits[0] - 1, limits[1] + 1):
        assert f"{beyond} is not of type" in fails({"instances": [0, beyond]}, x=data_type)


@pytest.mark.parametrize(
    ("body", "types", "gist"),
    [
        ({}, TEXT, "Give either 'instances'"),
        ({"inputs": "a", "instances": ["a"]}, TEXT, "Give either 'instances'"),
        ({"instances": "a"}, TEXT, "'instances' should be a list"),
        ({"instances": []}, TEXT, "at least one row"),
        ({"instances": ["a"]}, PAIR, "'instances'[0] should be an object of n, text, not 'a'"),
        ({"instances": ["b", {"text": "a"}]}, TEXT, "'instances' mixes objects"),
        ({"instances": [{"text": "a", "n": 1}, {"text": "a"}]}, PAIR, "'instances'[1] should be"),
        ({"inputs": {"text": "a", "more": 1}}, TEXT, "'inputs' should be an object of text"),
        ({"instances": ["a", 2.5]}, TEXT, "2.5 is not of type string (input text[1])"),
        ({"instances": [[["a"], ["b"]], [["c"], [None]]]}, TEXT, "(input text[1][1][0])"),
        ({"instances": [["a"], ["b", "c"]]}, TEXT, "text has lists of unequal length"),
        ({"instances": [{"b64": "a"}]}, TEXT, "(input text[0])"),
        ({"inputs": {"text": [{"b64": 1}]}}, TEXT, "{'b64': 1} is not of type string"),
        ({"inputs": [True]}, dict(x=types_pb2.DT_INT32), "True is not of type int32"),
        ({"inputs": [1.0]}, dict(x=types_pb2.DT_INT32), "1.0 is not of type int32"),
        ({"inputs": ["1"]}, dict(x=types_pb2.DT_FLOAT), "'1' is not of type float32"),
        ({"inputs": [2**24]}, dict(x=types_pb2.DT_FLOAT), "16777216 is not of type float32"),
        ({"inputs": [10**400]}, dict(x=types_pb2.DT_DOUBLE), "is not of type float64"),
        ({"inputs": [1e39]}, dict(x=types_pb2.DT_FLOAT), "1e+39 is not of type float32"),
        (b"", TEXT, "JSON parse error"),
        (b"[1]", TEXT, "should be a JSON object, not [1]"),
        (b'{\n "instances": ["a",]}', TEXT, "line 2 column 20"),
        (b'{"instances": ["a\\ud800b"]}', TEXT, "surrogates not allowed (input text[0])"),
        (b'{"instances": ' + b"[" * 100_000, TEXT, "recursion"),
        (b'{"instances": ' + b"[" * 900 + b"1" + b"]" * 900 + b"}", TEXT, "unequal length or"),
        (b'{"instances": [' + b"9" * 5000 + b"]}", TEXT, "JSON parse error"),
    ],
)
def test_a_request_that_does_not_fit_says_why_and_where(body, types, gist):
    assert gist in fails(body, **types)


def test_a_type_that_json_cannot_say():
    message = fails({"inputs": [1]}, grpc.StatusCode.UNIMPLEMENTED, z=types_pb2.DT_COMPLEX64)
    assert message == "JSON has no values of type complex64 (input z)"


@pytest.mark.parametrize("text", [b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xf0\x9f na\xc3\xafve"])
def test_bytes_that_are_not_utf8_are_passed_on(text):
    arrays, _ = read(b'{"instances": ["' + text + b'"]}', **TEXT)
    assert arrays["text"].tolist() == [text]


def test_base64_of_every_length():
    for size in range(5):
        data = bytes(range(size))
        text = base64.b64encode(data).decode()
        for form in (text, text.rstrip("="), "\n".join(text)):
            assert read({"inputs": {"b64": form}}, **TEXT)[0]["text"].item() == data


# Examples.


def features(example):
    return {
        name: (feature.WhichOneof("kind"), list(getattr(feature, feature.WhichOneof("kind")).value))
        for name, feature in example.features.feature.items()
    }


def test_examples_have_features_of_every_kind():
    example = {"text": "a", "raw": {"b64": "AP8="}, "i": [1, True], "f": [1.5, -2.0], "s": ["x"]}
    document = {"examples": [example, {}], "context": {"lang": "en"}}
    result = json_tensors.read_examples(document).example_list_with_context
    first, second = result.examples
    assert features(first) == {
        "text": ("bytes_list", [b"a"]),
        "raw": ("bytes_list", [b"\x00\xff"]),
        "i": ("int64_list", [1, 1]),
        "f": ("float_list", [1.5, -2.0]),
        "s": ("bytes_list", [b"x"]),
    }
    assert features(second) == {}
    assert features(result.context) == {"lang": ("bytes_list", [b"en"])}
    alone = json_tensors.read_examples({"examples": [example]})
    assert list(alone.example_list.examples) == [first]


@pytest.mark.parametrize(
    ("document", "gist"),
    [
        ({}, "'examples' should be a list with at least one example"),
        ({"examples": []}, "at least one example"),
        ({"examples": ["a"]}, "'examples'[0] should be an object, not 'a'"),
        ({"examples": [{"a": 1}, {"a": None}]}, "(feature a of 'examples'[1])"),
        ({"examples": [{"a": [1, 2.5]}]}, "1 is not of type string"),
        ({"examples": [{"a": 2**63}]}, "out of range"),
        ({"examples": [{"a": 1e300}]}, "1e+300 is not of type float32"),
        ({"examples": [{"\ud800": 1}]}, "'examples'[0]"),
        ({"examples": [{"a": 1}], "context": [1]}, "'context' should be an object"),
    ],
)
def test_examples_that_are_none(document, gist):
    with pytest.raises(status.RequestError) as caught:
        json_tensors.read_examples(document)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert gist in caught.value.message


# Answers.


def write(is_rows, **arrays):
    protos = {name: tensors.to_proto(array, as_fields=True) for name, array in arrays.items()}
    return json_tensors.write_outputs(protos, is_rows)


def test_rows_and_columns_of_answers():
    several = dict(n=np.int32([1, 2]), label=np.array([b"neg", "pös"], object))
    rows = [{"label": "neg", "n": 1}, {"label": "pös", "n": 2}]
    assert write(True, **several) == {"predictions": rows}
    assert write(False, **several) == {"outputs": {"label": ["neg", "pös"], "n": [1, 2]}}
    assert write(True, y=np.float32([[0.5, 2], [3, 4]])) == {"predictions": [[0.5, 2], [3, 4]]}
    assert write(False, y=np.float32(9)) == {"outputs": 9.0}
    assert write(True, y=np.zeros((0, 3))) == {"predictions": []}
    assert write(False, y=np.float16([0.5, -2])) == {"outputs": [0.5, -2.0]}


def test_bytes_are_written_in_base64_and_broken_text_is_repaired():
    raw = np.array([[b"\x00\xff"]], object)
    assert write(True, a_bytes=raw) == {"predictions": [[{"b64": "AP8="}]]}
    assert write(True, a=raw) == {"predictions": [["\x00\ufffd"]]}
    assert write(False, n_bytes=np.int32([5])) == {"outputs": [5]}


@pytest.mark.parametrize(
    "arrays", [{"y": np.float32(1)}, {"x": np.zeros(2), "y": np.zeros(3)}, {"x": [1], "y": 1}]
)
def test_outputs_that_are_no_rows(arrays):
    with pytest.raises(status.RequestError, match="ask with 'inputs', not 'instances'"):
        write(True, **arrays)


SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4)
TYPES = [np.float32, np.float64, np.int32, np.int64, np.uint64, np.bool_]
ARRAYS = st.one_of(
    *(hnp.arrays(dtype, SHAPES) for dtype in TYPES),
    hnp.arrays(object, SHAPES, elements=st.text().map(str.encode)),
)


@settings(max_examples=300, deadline=None)
@given(array=ARRAYS, is_rows=st.booleans())
def test_what_is_written_can_be_read_again(array, is_rows):
    (value,) = write(is_rows, x=array).values()
    body = {"instances" if is_rows else "inputs": value}
    (read_again,) = read(body, x=tensors.to_proto(array).dtype)[0].values()
    np.testing.assert_array_equal(read_again, array)
    assert read_again.dtype == array.dtype
