"""TF Serving's JSON, to tensors and back."""

import base64
import json
import math

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rest_core import signature

from export import tensors
from export.protos import classification_pb2, predict_pb2, regression_pb2, types_pb2
from export.server import json_requests, json_responses, status

TEXT = dict(text=types_pb2.DT_STRING)
PAIR = dict(text=types_pb2.DT_STRING, n=types_pb2.DT_INT32)


def read(body, **types):
    """Reads a Predict request: its tensors as arrays, and whether it is in rows."""
    if not isinstance(body, bytes):
        body = json.dumps(body, ensure_ascii=False).encode()
    document = json_requests.parse_object(body)
    request = predict_pb2.PredictRequest()
    is_rows = json_requests.fill_inputs(document, signature(**types).inputs, request)
    return {name: tensors.to_array(proto) for name, proto in request.inputs.items()}, is_rows


def fails(body, code=grpc.StatusCode.INVALID_ARGUMENT, **types):
    with pytest.raises(status.RequestError) as caught:
        read(body, **types)
    assert caught.value.code is code
    return caught.value.message


def write(is_rows=True, **arrays):
    protos = {name: tensors.to_proto(array, as_fields=True) for name, array in arrays.items()}
    return json_responses.write_outputs(protos, is_rows)


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
        (b'{"instances": ["\xff"]}', "Invalid UTF-8 at byte 16"),
        (b'{"instances": ["\xc3("]}', "Invalid UTF-8 at byte 16"),
        (b'{"instances": ["\xed\xa0\x80"]}', "Invalid UTF-8 at byte 16"),
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


# Answers.


def test_rows_of_one_output_have_no_names():
    assert json.loads(write(y=np.float32([[0.5, 2], [3, 4]]))) == {
        "predictions": [[0.5, 2], [3, 4]]
    }


def test_rows_and_columns_of_several_outputs():
    arrays = dict(n=np.int32([1, 2]), label=np.array([b"neg", "pös"], object))
    rows = [{"label": "neg", "n": 1}, {"label": "pös", "n": 2}]
    assert json.loads(write(**arrays)) == {"predictions": rows}
    columns = {"label": ["neg", "pös"], "n": [1, 2]}
    assert json.loads(write(False, **arrays)) == {"outputs": columns}


def test_bytes_are_written_in_base64_and_broken_text_is_repaired():
    raw = np.array([b"\x00\xff"], object)
    assert json.loads(write(a_bytes=raw)) == {"predictions": [{"b64": "AP8="}]}
    assert json.loads(write(a=raw)) == {"predictions": ["\x00\ufffd"]}
    assert json.loads(write(False, n_bytes=np.int32([5]))) == {"outputs": [5]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.2, "0.2"),
        (1, "1.0"),
        (-0.0, "-0.0"),
        (9e6, "9e+06"),
        (0.1234567, "0.123456702"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
    ],
)
def test_floats_are_written_as_tf_serving_does(value, text):
    assert write(False, y=np.float32(value)) == f'{{"outputs": {text}}}'


def test_a_large_float64_and_small_types():
    assert write(False, y=np.float64(0.1)) == '{"outputs": 0.1}'
    assert write(False, y=np.float64(1 / 3)) == '{"outputs": 0.33333333333333331}'
    assert write(False, y=np.float16([0.5, 2])) == '{"outputs": [0.5, 2.0]}'
    assert write(False, y=np.array([True, False])) == '{"outputs": [true, false]}'


def test_empty_tensors():
    assert json.loads(write(y=np.zeros((0, 3), np.float32))) == {"predictions": []}
    assert json.loads(write(False, y=np.zeros((2, 0), np.int32))) == {"outputs": [[], []]}


@pytest.mark.parametrize(
    ("arrays", "gist"),
    [
        ({}, "empty tensor map"),
        ({"y": np.float32(1)}, "y has no shape information"),
        ({"x": np.zeros(2), "y": np.zeros(3)}, "y has inconsistent batch size: 3 expecting: 2"),
    ],
)
def test_outputs_that_are_no_rows(arrays, gist):
    with pytest.raises(status.RequestError, match=gist):
        write(**arrays)


def test_classifications_and_regressions():
    result = classification_pb2.ClassificationResult()
    result.classifications.add().classes.add(label='"quoted"', score=0.2)
    result.classifications.add()
    text = json_responses.write_classifications(result)
    assert json.loads(text) == {"results": [[['"quoted"', 0.2]], []]}
    regressions = regression_pb2.RegressionResult()
    regressions.regressions.add(value=3.5)
    regressions.regressions.add(value=4)
    assert json_responses.write_regressions(regressions) == '{"results": [3.5, 4.0]}'
    with pytest.raises(status.RequestError):
        json_responses.write_regressions(regression_pb2.RegressionResult())


# Whatever is written can be read again, as the same.

SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4)
ARRAYS = st.one_of(
    *(
        hnp.arrays(dtype, SHAPES, elements=elements)
        for dtype, elements in [
            (np.float32, st.floats(width=32)),
            (np.float64, st.floats()),
            (np.int32, None),
            (np.int64, None),
            (np.uint64, None),
            (np.bool_, None),
            (object, st.text().map(str.encode)),
        ]
    )
)


@settings(max_examples=300, deadline=None)
@given(array=ARRAYS, is_rows=st.booleans())
def test_round_trip(array, is_rows):
    proto = tensors.to_proto(array, as_fields=True)
    text = json_responses.write_outputs({"x": proto}, is_rows)
    value = json.loads(text)["predictions" if is_rows else "outputs"]
    body = text.replace("predictions", "instances", 1).replace("outputs", "inputs", 1)
    assert isinstance(value, list)
    arrays, _ = read(body.encode(), x=proto.dtype)
    np.testing.assert_array_equal(arrays["x"], array)
    assert arrays["x"].dtype == array.dtype


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(), min_size=1))
def test_bytes_round_trip(values):
    array = np.empty(len(values), object)
    array[:] = values
    text = write(x_bytes=array)
    arrays, _ = read(text.replace("predictions", "instances").encode(), **TEXT)
    assert arrays["text"].tolist() == values


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
