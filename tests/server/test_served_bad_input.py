"""Bad input for every signature of real exports: a blank or an error, and no harm to others."""

import gc
import time
from concurrent import futures

import grpc
import numpy as np
import psutil
import pytest
import tensorflow as tf
from exporting import assert_close
from serving_models import call, make_example, set_spec, write_examples
from tensorflow_serving.apis import inference_pb2, prediction_service_pb2_grpc
from tiny_exports import IDS, INPUTS, NUM_TOKENS, TEXTS, strings

Code = grpc.StatusCode
SIGNATURES = sorted(INPUTS)
OF_TEXTS = [key for key in SIGNATURES if "text" in INPUTS[key]]
OF_EXAMPLES = [key for key in SIGNATURES if "inputs" in INPUTS[key]]
OF_IDS = [key for key in SIGNATURES if "input_ids" in INPUTS[key]]
MAX_ROWS = 1024  # of the export's batching_params.pbtxt, in a request
BAD_EXAMPLES = {
    "garbage": b"\xff" * 10,
    "text": b"no example",
    "empty": b"",
    "misnamed": make_example(txet="x").SerializeToString(),
    "two values": tf.train.Example(
        features=tf.train.Features(
            feature={
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a", b"b"]))
                for name in ("text", "text_pair")
            }
        )
    ).SerializeToString(),
}
BAD_IDS = [([2, -1], 2), ([2, 2**31 - 1], 2), ([2, 3], 0), ([2, 3], -(2**31)), ([2] * 25, 25)]


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
            assert_close(answer[name], array[rows])


def assert_blank(answer):
    """Checks that no row was computed."""
    for name, array in answer.items():
        if array.dtype == object:
            assert set(array.ravel().tolist()) == {b""}, name
        elif array.dtype.kind == "f":
            assert np.isnan(array).all(), name
        else:
            assert (array == -1).all(), name


def rows_of(answer, rows):
    return {name: array[rows] for name, array in answer.items()}


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


@pytest.mark.parametrize("kind", BAD_EXAMPLES)
def test_bytes_that_are_no_example(stub, right, kind):
    for key in OF_EXAMPLES:
        good = INPUTS[key]["inputs"]
        assert_blank(ask(stub, key, {"inputs": [BAD_EXAMPLES[kind]]}))
        answer = ask(stub, key, {"inputs": [*good, BAD_EXAMPLES[kind]]})
        assert_equal(rows_of(answer, slice(len(good))), right[key])
        assert_blank(rows_of(answer, slice(len(good), None)))


@pytest.mark.parametrize(("ids", "count"), BAD_IDS)
def test_ids_that_cannot_be(stub, right, ids, count):
    width = max(IDS.shape[1], len(ids))
    both = np.zeros((3, width), np.int32)
    both[:2, : IDS.shape[1]], both[2, : len(ids)] = IDS, ids
    counts = np.array([*NUM_TOKENS, count], np.int32)
    for key in OF_IDS:
        answer = ask(stub, key, {"input_ids": both, "num_tokens": counts})
        assert_equal(rows_of(answer, slice(2)), right[key])
        assert_blank(rows_of(answer, slice(2, 3)))


def test_no_rows(stub):
    for key in SIGNATURES:
        for columns in (0, 4):
            none = {name: strings([]) for name in INPUTS[key]}
            if key in OF_IDS:
                none = {
                    "input_ids": np.zeros((0, columns), np.int32),
                    "num_tokens": np.zeros(0, np.int32),
                }
            answer = ask(stub, key, none)
            assert {len(array) for array in answer.values()} == {0}


def test_more_rows_than_a_run_takes(stub, right):
    """They are computed in parts."""
    for key in SIGNATURES:
        times = 1 + 100 // len(next(iter(INPUTS[key].values())))
        many = {
            name: value * times if isinstance(value, list) else np.concatenate([value] * times)
            for name, value in INPUTS[key].items()
        }
        want = {name: np.concatenate([array] * times) for name, array in right[key].items()}
        assert_equal(ask(stub, key, many), want)


def test_too_many_rows(stub):
    for key in SIGNATURES:
        many = {name: [""] * 100_000 for name in INPUTS[key]}
        if key in OF_IDS:
            many = {
                "input_ids": np.ones((100_000, 1), np.int32),
                "num_tokens": np.ones(100_000, np.int32),
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
        "影".encode() * 400_000,
        b"\xff" * 3_000_000,
    ]
    key = ("single", "serving_default")

    def load():
        for text in texts:
            # Over the export's max_text_bytes; a MiB of each is computed.
            assert_blank(ask(stub, key, {"text": [text]}))
            answer = ask(stub, key, {"text": [text[: 2**20]]})
            assert np.isfinite(answer["logits"]).all()
            assert_blank(ask(stub, ("single", "classify"), {"inputs": [b"\x0a" + text]}))
        gc.collect()
        return process.memory_info().rss

    load()
    first = load()
    assert load() - first < 150e6


def test_bad_rows_hurt_no_other_in_their_batch(stub, right):
    """Forty clients at once, every third with a row that cannot be computed."""
    good = {key: INPUTS[key] for key in [*OF_EXAMPLES, *OF_IDS]}
    wide = {
        "input_ids": np.full((1, 9), 10_000, np.int32),
        "num_tokens": np.full(1, 9, np.int32),
    }
    bad = {key: wide if key in OF_IDS else {"inputs": [b"\xff\xfe"]} for key in good}
    asked = [(key, i % 3 == 0) for key in good for i in range(40)]
    with futures.ThreadPoolExecutor(40) as pool:
        answers = list(
            pool.map(lambda each: ask(stub, each[0], (bad if each[1] else good)[each[0]]), asked)
        )
    for (key, is_bad), given in zip(asked, answers, strict=True):
        if is_bad:
            assert_blank(given)
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
    classes, values = stub.MultiInference(request, timeout=10).results
    good, bad = classes.classification_result.classifications
    assert np.isclose(sum(each.score for each in good.classes), 1.0)
    assert all(each.label for each in good.classes)
    assert {each.label for each in bad.classes} == {""}
    assert np.isnan([each.score for each in bad.classes]).all()
    good, bad = (each.value for each in values.regression_result.regressions)
    assert np.isfinite(good)
    assert np.isnan(bad)
