"""TF Serving's JSON answers, from tensors and results."""

import json
import math

import numpy as np
import pytest
from distilbert_serving import tensors
from distilbert_serving.protos import classification_pb2, regression_pb2, types_pb2
from distilbert_serving.server import json_responses, status
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rest_core import read


def write(is_rows=True, **arrays):
    protos = {name: tensors.to_proto(array, as_fields=True) for name, array in arrays.items()}
    return json_responses.write_outputs(protos, is_rows)


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
    arrays, _ = read(text.replace("predictions", "instances").encode(), text=types_pb2.DT_STRING)
    assert arrays["text"].tolist() == values
