"""Bad input for every signature of real exports: the right error, and no harm to anybody else."""

import gc
import time
from concurrent import futures

import grpc
import numpy as np
import psutil
import pytest
import tensorflow as tf
from serving_models import call, make_example, set_spec, write_examples
from tensorflow_serving.apis import inference_pb2, prediction_service_pb2_grpc
from tiny_exports import IDS, INPUTS, MASK, TEXTS, strings

Code = grpc.StatusCode
SIGNATURES = sorted(INPUTS)
OF_TEXTS = [key for key in SIGNATURES if "text" in INPUTS[key]]
OF_EXAMPLES = [key for key in SIGNATURES if "inputs" in INPUTS[key]]
OF_IDS = [key for key in SIGNATURES if "input_ids" in INPUTS[key]]
MAX_ROWS = 32  # of the export's batching_params.pbtxt


@pytest.fixture(scope="module")
def stub(tiny_server):
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{tiny_server.port}", options) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def ask(stub, key, inputs, **options):
    name, signature = key
    return call(stub, inputs, name=name, signature=signature, timeout=60, **options)


def refuse(stub, key, inputs, *messages):
    """Checks that a request gets INVALID_ARGUMENT and these messages."""
    with pytest.raises(grpc.RpcError) as caught:
        ask(stub, key, inputs)
    details = caught.value.details()
    assert caught.value.code() == Code.INVALID_ARGUMENT, (key, details)
    for message in messages:
        assert message in details, key


@pytest.fixture(scope="module")
def right(stub):
    """What every signature answers to its good inputs."""
    return {key: ask(stub, key, inputs) for key, inputs in INPUTS.items()}


@pytest.fixture(autouse=True)
def all_alive(stub, right):
    yield
    for key, want in right.items():
        assert_equal(ask(stub, key, INPUTS[key]), want)


def assert_equal(answer, want, rows=slice(None)):
    assert answer.keys() == want.keys()
    for name, array in want.items():
        if array.dtype == object:
            assert answer[name].tolist() == array[rows].tolist()
        else:
            np.testing.assert_allclose(answer[name], array[rows], atol=1e-5)


def test_wrong_types_and_ranks(stub):
    for key in SIGNATURES:
        for name, value in INPUTS[key].items():
            good = strings(value) if isinstance(value, list) else tf.make_tensor_proto(value)
            wrong_type = np.ones(np.shape(value), np.float32)
            refuse(stub, key, {**INPUTS[key], name: wrong_type}, f"input {name} to be ", "float.")
            for added in (1, 250):
                deep = copy_of(good)
                for _ in range(added):
                    deep.tensor_shape.dim.add(size=1)
                refuse(stub, key, {**INPUTS[key], name: deep}, f"Input {name} has shape")
            flat = copy_of(good)
            del flat.tensor_shape.dim[:]
            refuse(stub, key, {**INPUTS[key], name: flat}, f"Input {name} has shape ()")
            unknown = copy_of(good)
            unknown.tensor_shape.dim[0].size = -1
            refuse(stub, key, {**INPUTS[key], name: unknown}, f"{name}: its shape is not fully")


def copy_of(proto):
    copy = type(proto)()
    copy.CopyFrom(proto)
    return copy


def test_missing_extra_and_misnamed_inputs(stub):
    for key in SIGNATURES:
        for name in INPUTS[key]:
            others = {other: v for other, v in INPUTS[key].items() if other != name}
            refuse(stub, key, others, f"Missing but required: {{{name}}}")
            misnamed = {**others, name + "s": INPUTS[key][name]}
            refuse(stub, key, misnamed, f"Sent extra: {{{name}s}}", f"required: {{{name}}}")
        refuse(stub, key, {**INPUTS[key], "\0": ["x"]}, "Sent extra: {\0}")


def test_unequal_numbers_of_rows(stub):
    for key in SIGNATURES:
        for name, value in INPUTS[key].items():
            if len(INPUTS[key]) > 1:
                refuse(stub, key, {**INPUTS[key], name: value[:1]}, f"'{name}': 1")


def test_bytes_that_are_no_text(stub):
    """They count as what is left when BERT's clean-up has deleted them."""
    odd = [b"not\xff good", b"\x00not good\x00", b"not \xed\xa0\x80good", b"\xf8not good\xc3"]
    for key in OF_TEXTS:
        answer = ask(stub, key, dict.fromkeys(INPUTS[key], odd))
        want = ask(stub, key, dict.fromkeys(INPUTS[key], [b"not good"] * 4))
        assert_equal(answer, want)
    for key in OF_EXAMPLES:
        columns = ("text", "text_pair")
        answer = ask(stub, key, {"inputs": write_examples(**dict.fromkeys(columns, odd))})
        want = write_examples(**dict.fromkeys(columns, [b"not good"] * 4))
        assert_equal(answer, ask(stub, key, {"inputs": want}))


@pytest.mark.parametrize(
    ("serialized", "message"),
    [
        (b"\xff" * 10, "Could not parse example input"),
        (b"\xff" * 10_000_000, "Could not parse example input"),
        (b"no example", "Could not parse example input"),
        (b"", "is required but could not be found"),
        (make_example(txet="x").SerializeToString(), "is required but could not be found"),
        (
            tf.train.Example(
                features=tf.train.Features(
                    feature={
                        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a", b"b"]))
                        for name in ("text", "text_pair")
                    }
                )
            ).SerializeToString(),
            "Can't parse serialized Example",
        ),
    ],
    ids=["garbage", "much garbage", "text", "empty", "misnamed", "two values"],
)
def test_bytes_that_are_no_example(stub, serialized, message):
    for key in OF_EXAMPLES:
        good = INPUTS[key]["inputs"]
        refuse(stub, key, {"inputs": [serialized]}, "failed on {inputs}", message)
        refuse(stub, key, {"inputs": [*good, serialized]}, "failed on {inputs}", message)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([[2, -1]], [[1, 1]], "input_ids must not be negative"),
        ([[2, -(2**31)]], [[1, 0]], "input_ids must not be negative"),
        ([[2, 2**31 - 1]], [[1, 1]], "input_ids must be less than"),
        ([[2] * 25], [[1] * 25], "input_ids must have at most 24 columns"),
        ([[2, 3]], [[1]], "input_ids and attention_mask must have one shape"),
        ([[]] * 3, [[]] * 3, "input_ids must have at least one column"),
    ],
)
def test_ids_that_cannot_be(stub, ids, mask, message):
    inputs = {"input_ids": np.array(ids, np.int32), "attention_mask": np.array(mask, np.int32)}
    for key in OF_IDS:
        refuse(stub, key, inputs, message)


def test_masks_of_any_numbers(stub, right):
    for key in OF_IDS:
        odd = np.where(MASK, [[-7], [2**31 - 1]], 0).astype(np.int32)
        assert_equal(ask(stub, key, {"input_ids": IDS, "attention_mask": odd}), right[key])
        answer = ask(stub, key, {"input_ids": IDS, "attention_mask": 0 * MASK})
        assert {len(array) for array in answer.values()} == {2}
        assert all(np.isfinite(array).all() for array in answer.values() if array.dtype != object)


def test_no_rows(stub):
    for key in SIGNATURES:
        for columns in (0, 4):
            none = {
                name: np.zeros((0, columns), np.int32) if key in OF_IDS else strings([])
                for name in INPUTS[key]
            }
            answer = ask(stub, key, none)
            assert {len(array) for array in answer.values()} == {0}


def test_too_many_rows(stub):
    for key in SIGNATURES:
        many = {
            name: np.ones((100_000, 1), np.int32) if key in OF_IDS else [""] * 100_000
            for name in INPUTS[key]
        }
        refuse(
            stub, key, many, f"Task size 100000 is larger than maximum input batch size {MAX_ROWS}"
        )


@pytest.mark.slow
def test_memory_comes_back(stub):
    """After texts of 10 MB: plain, of one word, and such that each character is a token."""
    process = psutil.Process()
    texts = [
        b"the film " * 1_100_000,
        b"x" * 10_000_000,
        "影".encode() * 300_000,
        b"\xff" * 3_000_000,
    ]
    key = ("single", "serving_default")

    def load():
        for text in texts:
            assert ask(stub, key, {"text": [text]})["logits"].shape == (1, 3)
            garbage = {"inputs": [b"\x0a" + text]}
            refuse(stub, ("single", "classify"), garbage, "failed on {inputs}")
        gc.collect()
        return process.memory_info().rss

    load()
    first = load()
    assert load() - first < 150e6


def test_bad_requests_hurt_no_other_in_their_batch(stub, right):
    """Forty clients at once, every third with something that only the graph can refuse."""
    good = {key: INPUTS[key] for key in [*OF_EXAMPLES, *OF_IDS]}
    bad = {
        **{key: {"inputs": [b"\xff\xfe"]} for key in OF_EXAMPLES},
        **{
            key: {"input_ids": np.full((1, 4), 10_000, np.int32), "attention_mask": MASK[:1]}
            for key in OF_IDS
        },
    }
    asked = [(key, i % 3 == 0) for key in good for i in range(40)]

    def answer(key, is_bad):
        try:
            return ask(stub, key, (bad if is_bad else good)[key])
        except grpc.RpcError as error:
            return error.code()

    with futures.ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda each: answer(*each), asked))
    for (key, is_bad), given in zip(asked, answers, strict=True):
        if is_bad:
            assert given == Code.INVALID_ARGUMENT
        else:
            assert_equal(given, right[key])


def test_odd_texts_hurt_no_other_in_their_batch(stub, right):
    key = ("single", "serving_default")
    odd = [b"\xff" * 1000, b"\0" * 1000, b"", b"x" * 100_000, "影".encode() * 1000]

    def answer(i):
        return ask(stub, key, {"text": [odd[i // 2 % 5]] if i % 2 else TEXTS[: 1 + i % 3]})

    started_s = time.monotonic()
    with futures.ThreadPoolExecutor(40) as pool:
        for i, given in enumerate(pool.map(answer, range(120))):
            if i % 2 == 0:
                assert_equal(given, right[key], slice(1 + i % 3))
    assert time.monotonic() - started_s < 30.0


def test_multi_inference_with_bad_examples(stub):
    request = inference_pb2.MultiInferenceRequest()
    for method in ("classify", "regress"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        set_spec(task.model_spec, "single")
        task.model_spec.signature_name = method
    request.input.example_list.examples.add().CopyFrom(make_example(text="good"))
    assert len(stub.MultiInference(request, timeout=10).results) == 2
    request.input.example_list.examples.add().CopyFrom(make_example(txet="bad"))
    with pytest.raises(grpc.RpcError) as caught:
        stub.MultiInference(request, timeout=10)
    assert caught.value.code() == Code.INVALID_ARGUMENT
    assert "Feature: text" in caught.value.details()
