"""TF Serving's JSON requests, to tensors and tf.Examples."""

import base64
import json
import math

import grpc
import numpy as np
import pytest
from distilbert_serving import tensors
from distilbert_serving.protos import predict_pb2, types_pb2
from distilbert_serving.server import json_requests, status
from hypothesis import given, settings
from hypothesis import strategies as st
from rest_core import read, signature

TEXT = dict(text=types_pb2.DT_STRING)
PAIR = dict(text=types_pb2.DT_STRING, n=types_pb2.DT_INT32)


def fails(body, code=grpc.StatusCode.INVALID_ARGUMENT, **types):
    with pytest.raises(status.RequestError) as caught:
        read(body, **types)
    assert caught.value.code is code
    return caught.value.message


# Predict requests.


def test_rows_of_one_input():
    arrays, is_rows = read({"instances": ["déjà vu", {"b64": "AP8="}, ""]}, **TEXT)
    assert is_rows
    assert arrays["text"].tolist() == ["déjà vu".encode(), b"\x00\xff", b""]


def test_rows_may_name_the_one_input():
    arrays, _ = read({"instances": [{"text": "a"}, {"text": "b"}]}, **TEXT)
    assert arrays["text"].tolist() == [b"a", b"b"]


def test_rows_of_several_inputs():
    rows = [{"text": "a", "n": [1, 2]}, {"n": [3, 4], "text": {"b64": "Yg"}}]
    arrays, _ = read({"instances": rows}, **PAIR)
    assert arrays["text"].tolist() == [b"a", b"b"]
    np.testing.assert_array_equal(arrays["n"], np.array([[1, 2], [3, 4]], np.int32))


def test_columns():
    arrays, is_rows = read({"inputs": {"text": ["a"], "n": [[1], [2]]}}, **PAIR)
    assert not is_rows
    assert (arrays["text"].tolist(), arrays["n"].tolist()) == ([b"a"], [[1], [2]])


@pytest.mark.parametrize(
    ("value", "expected"), [("a", b"a"), (["a"], [b"a"]), ({"b64": "YQ=="}, b"a"), ([], [])]
)
def test_columns_of_one_input_need_no_name(value, expected):
    arrays, _ = read({"inputs": value}, **TEXT)
    assert arrays["text"].tolist() == expected


def test_floats_of_every_kind():
    body = b'{"instances": [1, -2.5, 1e-3, NaN, Infinity, -Infinity, 3.40282347e+38]}'
    arrays, _ = read(body, x=types_pb2.DT_FLOAT)
    expected = [1, -2.5, 1e-3, math.nan, math.inf, -math.inf, np.finfo(np.float32).max]
    np.testing.assert_array_equal(arrays["x"], np.array(expected, np.float32))


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64]
)
def test_integers_to_their_limits(dtype):
    data_type = tensors.to_proto(np.zeros(1, dtype)).dtype
    limits = [int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)]
    arrays, _ = read({"instances": limits}, x=data_type)
    np.testing.assert_array_equal(arrays["x"], np.array(limits, dtype))
    for beyond in (limits[0] - 1, limits[1] + 1):
        assert f"JSON Value: {beyond} Type: Number" in fails({"instances": [beyond]}, x=data_type)


@pytest.mark.parametrize(
    ("body", "types", "gist"),
    [
        ({}, TEXT, "Missing 'inputs' or 'instances' key"),
        ({"inputs": "a", "instances": ["a"]}, TEXT, "only one of 'inputs' or 'instances'"),
        ({"instances": "a"}, TEXT, "Excepting 'instances' to be an list/array, not String"),
        ({"instances": []}, TEXT, "No values in 'instances' array"),
        ({"instances": ["a"]}, PAIR, "expecting list of objects"),
        ({"instances": [{"b64": "YQ=="}]}, PAIR, "expecting list of objects"),
        ({"instances": [{"text": "a"}, "b"]}, TEXT, "Expecting object but got list at item 1"),
        ({"instances": ["b", {"text": "a"}]}, TEXT, "but got object at item 1"),
        ({"instances": [{"text": "a", "n": 1}, {"text": "a"}]}, PAIR, "element: 1 of 'instances'"),
        ({"instances": [{"txt": "a"}]}, TEXT, "keys must be equal to: text"),
        ({"instances": ["a", 2.5]}, TEXT, "2.5 Type: Number is not of expected type: string"),
        ({"instances": ["a", None]}, TEXT, "(input text[1])"),
        ({"instances": [[["a"], ["b"]], [["c"], [7]]]}, TEXT, "(input text[1][1][0])"),
        ({"instances": [["a"], ["b", "c"]]}, TEXT, "unexpected size: 2 at level: 1 expected size"),
        ({"instances": [["a"], "b"]}, TEXT, 'JSON Value: "b" found at incorrect level: 2'),
        ({"instances": ["a", ["b"]]}, TEXT, "unexpected level: 1 expected < 1 (input text[1])"),
        ({"instances": [{"b64": "a"}]}, TEXT, "Unable to base64 decode"),
        ({"instances": [{"b64": "é"}]}, TEXT, "Unable to base64 decode"),
        ({"inputs": {"b64": 1}}, TEXT, "Missing named input: text"),
        ({"inputs": {"text": [{"b64": 1}]}}, TEXT, "not formatted correctly for base64 data"),
        ({"inputs": "a"}, PAIR, "expecting an object as multiple input tensors"),
        ({"inputs": {"text": "a"}}, PAIR, "Missing named input: n in 'inputs' object"),
        ({"inputs": {"text": "a", "more": 1}}, TEXT, "'inputs' object has more, but"),
        ({"inputs": [True]}, dict(x=types_pb2.DT_INT32), "JSON Value: true Type: Bool"),
        ({"inputs": [1.0]}, dict(x=types_pb2.DT_INT32), "is not of expected type: int32"),
        ({"inputs": [1]}, dict(x=types_pb2.DT_BOOL), "is not of expected type: bool"),
        ({"inputs": ["1"]}, dict(x=types_pb2.DT_FLOAT), "is not of expected type: float"),
        ({"inputs": [2**24]}, dict(x=types_pb2.DT_FLOAT), "without loss of precision"),
        ({"inputs": [1e39]}, dict(x=types_pb2.DT_FLOAT), "1e+39 to float without loss"),
    ],
)
def test_a_request_that_does_not_fit_says_why_and_where(body, types, gist):
    assert gist in fails(body, **types)


def test_a_type_that_json_cannot_say():
    message = fails({"inputs": [1]}, grpc.StatusCode.UNIMPLEMENTED, z=types_pb2.DT_COMPLEX64)
    assert "to type: complex64 (input z)" in message


@pytest.mark.parametrize(
    ("body", "gist"),
    [
        (b"", "The document is empty"),
        (b"[1]", "JSON Value: [1] Is not object"),
        (b'{"instances": ["a",]}', "at offset: 19 (line 1, column 20)"),
        (b'{\n "instances": ["a"', "(line 2, column "),
        (b'{"instances": ["a"]} x', "Extra data at offset: 21"),
        (b'{"instances": [\xff]}', "Expecting value at offset: 15"),
        (b'{"instances": ["a\\ud800b"]}', "surrogate pair in string is invalid"),
        (b'{"instances": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"instances": [' + b"9" * 5000 + b"]}", "JSON Parse error: "),
    ],
)
def test_what_is_not_json(body, gist):
    assert gist in fails(body, **TEXT)


def test_deep_nesting_that_can_be_read_is_no_crash():
    for depth in (100, 900, 990):
        body = b'{"instances": ' + b"[" * depth + b"1" + b"]" * depth + b"}"
        assert fails(body, **TEXT)


def test_a_byte_order_mark_and_nul():
    arrays, _ = read(b'\xef\xbb\xbf{"instances": ["a\\u0000"]}', **TEXT)
    assert arrays["text"].tolist() == [b"a\x00"]


@pytest.mark.parametrize("text", [b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xf0\x9f na\xc3\xafve"])
def test_bytes_that_are_not_utf8_are_passed_on(text):
    arrays, _ = read(b'{"instances": ["' + text + b'"]}', **TEXT)
    assert arrays["text"].tolist() == [text]
    document = json_requests.parse_object(b'{"examples": [{"text": "' + text + b'"}]}')
    (example,) = json_requests.read_examples(document).example_list.examples
    assert features(example) == {"text": ("bytes_list", [text])}
    named = json_requests.parse_object(
        b'{"signature_name": "", "examples": [{"' + text + b'": 1}]}'
    )
    with pytest.raises(status.RequestError, match="surrogate"):
        json_requests.read_examples(named)


def test_signature_name():
    assert json_requests.read_signature_name({}) == ""
    assert json_requests.read_signature_name({"signature_name": "encode"}) == "encode"
    for wrong in (1, None, "\ud800"):
        with pytest.raises(status.RequestError, match="signature_name"):
            json_requests.read_signature_name({"signature_name": wrong})


# Examples.


def features(example):
    return {
        name: (feature.WhichOneof("kind"), list(getattr(feature, feature.WhichOneof("kind")).value))
        for name, feature in example.features.feature.items()
    }


def test_examples_have_features_of_every_kind():
    example = {"text": "a", "raw": {"b64": "AP8="}, "i": [1, True], "f": [1.5, -2.0], "s": ["x"]}
    result = json_requests.read_examples({"examples": [example, {"text": "b"}]})
    first, second = result.example_list.examples
    assert features(first) == {
        "text": ("bytes_list", [b"a"]),
        "raw": ("bytes_list", [b"\x00\xff"]),
        "i": ("int64_list", [1, 1]),
        "f": ("float_list", [1.5, -2.0]),
        "s": ("bytes_list", [b"x"]),
    }
    assert features(second) == {"text": ("bytes_list", [b"b"])}


def test_examples_with_context():
    result = json_requests.read_examples({"examples": [{"text": "a"}], "context": {"lang": "en"}})
    assert features(result.example_list_with_context.context) == {"lang": ("bytes_list", [b"en"])}
    assert len(result.example_list_with_context.examples) == 1


@pytest.mark.parametrize(
    ("document", "gist"),
    [
        ({}, "Expecting 'examples' value to be an list/array"),
        ({"examples": {}}, "list/array, not Object"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": ["a"]}, "got JSON String (in examples[0])"),
        ({"examples": [{"a": 1}, {"a": None}]}, "unexpected JSON type: Null (in examples[1])"),
        ({"examples": [{"a": [[1]]}]}, "unexpected JSON type: Array"),
        ({"examples": [{"a": [1, 2.5]}]}, "expecting type: int64"),
        ({"examples": [{"a": 2**63}]}, "no int64"),
        ({"examples": [{"a": 1e300}]}, "without loss of precision"),
        ({"examples": [{"a": "\ud800"}]}, "surrogate"),
        ({"examples": [{"a": 1}], "context": [1]}, "(in context)"),
    ],
)
def test_examples_that_are_none(document, gist):
    with pytest.raises(status.RequestError) as caught:
        json_requests.read_examples(document)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert gist in caught.value.message


# Anything.


def code_of(call):
    try:
        call()
    except status.RequestError as error:
        return error.code
    return grpc.StatusCode.OK


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["text", "n", "b64", "x"]), inner, max_size=3)
    ),
    max_leaves=20,
)


@settings(max_examples=500, deadline=None)
@given(
    document=st.dictionaries(
        st.sampled_from(["instances", "inputs", "signature_name", "examples", "context"]),
        JSON_VALUES,
    ),
    types=st.sampled_from([TEXT, PAIR, dict(x=types_pb2.DT_FLOAT), dict(b64=types_pb2.DT_BOOL)]),
)
def test_any_json_is_read_or_refused(document, types):
    parsed = json_requests.parse_object(json.dumps(document).encode())
    for call in (
        lambda: json_requests.read_signature_name(parsed),
        lambda: json_requests.read_examples(parsed),
        lambda: json_requests.fill_inputs(
            parsed, signature(**types).inputs, predict_pb2.PredictRequest()
        ),
    ):
        assert code_of(call) in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)


@settings(max_examples=300, deadline=None)
@given(st.binary())
def test_any_bytes_are_parsed_or_refused(body):
    for variant in (body, b'{"instances": ["' + body + b'"]}'):
        code = code_of(lambda variant=variant: json_requests.parse_object(variant))
        assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)


def test_base64_of_every_length():
    for size in range(5):
        data = bytes(range(size))
        for text in (base64.b64encode(data).decode(), base64.b64encode(data).decode().rstrip("=")):
            assert read({"inputs": {"b64": text}}, **TEXT)[0]["text"].item() == data
