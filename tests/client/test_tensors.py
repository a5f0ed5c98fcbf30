"""TensorProto and NumPy, compared with TensorFlow's own reading and writing."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from distilbert_serving import tensors

ARRAYS = [
    np.array([[1.5, -2.25, 3e38]], np.float32),
    np.array([1.5, -2.25, 1e300], np.float64),
    np.array([0.5, -65504.0], np.float16),
    np.array([0.5, -3e38], ml_dtypes.bfloat16),
    np.array([[True], [False]]),
    np.array([-128, 127], np.int8),
    np.array([0, 255], np.uint8),
    np.array([-(2**15), 2**15 - 1], np.int16),
    np.array([0, 2**16 - 1], np.uint16),
    np.array([-(2**31), 2**31 - 1], np.int32),
    np.array([0, 2**32 - 1], np.uint32),
    np.array([-(2**63), 2**63 - 1], np.int64),
    np.array([0, 2**64 - 1], np.uint64),
    np.array([[b"a\x00", b"", b"\xff\xfe"]], object),
    np.array(7, np.int64),
    np.zeros((0, 3), np.float32),
    np.zeros((2, 0), object),
]


def assert_same(left, right):
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    assert left.tolist() == right.tolist()


@pytest.mark.parametrize("as_fields", [False, True])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_written_arrays_are_read_by_tensorflow_and_here(array, as_fields):
    proto = tensors.to_proto(array, as_fields=as_fields)
    assert_same(tensors.to_array(proto), array)
    assert_same(tf.io.parse_tensor(proto.SerializeToString(), proto.dtype).numpy(), array)
    assert not (as_fields and proto.tensor_content)


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_tensorflows_protos_are_read(array):
    dtype = tf.string if array.dtype.hasobject else None
    proto = tf.make_tensor_proto(tf.constant(array, dtype).numpy(), dtype, array.shape)
    assert_same(tensors.to_array(proto), array)


def test_str_is_sent_as_utf8_and_bytes_as_they_are():
    proto = tensors.to_proto([["é", "a\x00"], [b"\xff\x00", ""]])
    assert list(proto.string_val) == [b"\xc3\xa9", b"a\x00", b"\xff\x00", b""]
    assert tensors.to_array(proto).tolist() == [[b"\xc3\xa9", b"a\x00"], [b"\xff\x00", b""]]
    assert list(tensors.to_proto(np.array(["é", "a"])).string_val) == [b"\xc3\xa9", b"a"]
    assert list(tensors.to_proto("abc").string_val) == [b"abc"]


def test_plain_numbers_are_sent_as_numpy_sees_them():
    assert_same(tensors.to_array(tensors.to_proto([[1, 2]])), np.array([[1, 2]]))
    assert_same(tensors.to_array(tensors.to_proto(np.float32(0.5))), np.array(0.5, np.float32))
    with pytest.raises(ValueError, match="inhomogeneous"):
        tensors.to_proto([[1], [2, 3]])


def test_other_byte_order_and_strides_are_sent_right():
    array = np.arange(12, dtype=">i4").reshape(3, 4).T
    for as_fields in (False, True):
        assert tensors.to_array(tensors.to_proto(array, as_fields=as_fields)).tolist() == (
            array.tolist()
        )


def test_the_last_value_is_repeated():
    proto = tf.make_tensor_proto([0.0], tf.float32, [1])
    proto.ClearField("tensor_content")
    proto.tensor_shape.dim[0].size = 4
    proto.float_val[:] = [1.0, 2.0]
    assert tensors.to_array(proto).tolist() == [1.0, 2.0, 2.0, 2.0]
    proto.ClearField("float_val")
    assert tensors.to_array(proto).tolist() == [0.0] * 4
    strings = tf.make_tensor_proto(["a\0"], tf.string, [1])
    strings.tensor_shape.dim[0].size = 3
    assert tensors.to_array(strings).tolist() == [b"a\0"] * 3


@pytest.mark.parametrize("value", [np.array([1j]), [object()], ["a", 1], np.array(["now"], "M8")])
def test_what_cannot_be_sent_is_an_error(value):
    with pytest.raises(ValueError, match=r"cannot be sent|must hold str or bytes"):
        tensors.to_proto(value)


def malformed(**changes):
    proto = tf.make_tensor_proto([1.0, 2.0])
    for name, value in changes.items():
        if name == "sizes":
            del proto.tensor_shape.dim[:]
            for size in value:
                proto.tensor_shape.dim.add(size=size)
        elif name == "unknown_rank":
            proto.tensor_shape.unknown_rank = value
        else:
            setattr(proto, name, value)
    return proto


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (malformed(sizes=[3]), r"needs 12 bytes of tensor_content, but there are 8"),
        (malformed(sizes=[-1]), "not fully known"),
        (malformed(unknown_rank=True), "not fully known"),
        (malformed(tensor_content=b"1234567"), "there are 7"),
        (malformed(dtype=7), "string_val, not in tensor_content"),
        (malformed(dtype=0), "type invalid are not supported"),
        (malformed(dtype=20), "type resource are not supported"),
        (malformed(dtype=999), "type 999 are not supported"),
        (malformed(tensor_content=b"", sizes=[2**40]), "but float_val has 0"),
        (malformed(tensor_content=b"", sizes=[2**40, 2**40]), "but float_val has 0"),
        (malformed(tensor_content=b"", sizes=[2**40, 0]), "too large"),
        (malformed(tensor_content=b"", sizes=[1] * 100), "maximum supported dimension|dimensions"),
    ],
)
def test_malformed_protos_are_errors(proto, message):
    with pytest.raises(ValueError, match=message):
        tensors.to_array(proto)


def test_surplus_values_are_an_error():
    proto = malformed(tensor_content=b"", sizes=[1])
    proto.float_val[:] = [1.0, 2.0]
    with pytest.raises(ValueError, match="has 1 elements, but float_val has 2"):
        tensors.to_array(proto)
