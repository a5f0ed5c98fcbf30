"""Bad input for every signature of real exports: a blank or an error, and no harm to others."""

import gc
from concurrent import futures

import grpc
import numpy as np
import psutil
import pytest
from comparing import FEW, assert_close
from exporting import TINY_ROUNDINGS
from serving_models import call, make_example, set_spec, write_examples
from tensorflow_serving.apis import inference_pb2, prediction_service_pb2_grpc
from tiny_exports import IDS, INPUTS, NUM_TOKENS, TEXTS, strings

SIGNATURES = sorted(INPUTS)
OF_TEXTS = [key for key in SIGNATURES if "text" in INPUTS[key]]
OF_EXAMPLES = [key for key in SIGNATURES if "inputs" in INPUTS[key]]
OF_IDS = [key for key in SIGNATURES if "input_ids" in INPUTS[key]]
TWO_VALUES = make_example(text="a", text_pair="a")
for feature in TWO_VALUES.features.feature.values():
    feature.bytes_list.value.append(b"b")
BAD_EXAMPLES = {
    "garbage": b"\xff" * 10,
    "text": b"no example",
    "empty": b"",
    "misnamed": make_example(txet="x").SerializeToString(),
    "two values": TWO_VALUES.SerializeToString(),
}
BAD_IDS = [([2, -1], 2), ([2, 2**31 - 1], 2), ([2, 3], 0), ([2, 3], -(2**31)), ([2] * 25, 25)]
ODD_TEXTS = [b"\xff" * 1000, b"\0" * 1000, b"", b"x" * 100_000, "影".encode() * 1000]


@pytest.fixture(scope="module")
def stub(tiny_server):
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{tiny_server.port}", options) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def ask(stub, key, inputs):
    name, signature = key
    return call(stub, inputs, name=name, signature=signature, timeout=60)


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
            assert_close(answer[name], array[rows], TINY_ROUNDINGS, size=1.0)


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


def test_bytes_that_are_no_text(stub):
    """They count as what is left when BERT's clean-up has deleted them."""
    odd = [b"not\xff good", b"\x00not good\x00", b"not \xed\xa0\x80good", b"\xf8not good\xc3"]
    for key in OF_TEXTS:
        want = ask(stub, key, dict.fromkeys(INPUTS[key], [b"not good"] * 4))
        assert_equal(ask(stub, key, dict.fromkeys(INPUTS[key], odd)), want)
    for key in OF_EXAMPLES:
        want = write_examples(text=[b"not good"] * 4, text_pair=[b"not good"] * 4)
        examples = write_examples(text=odd, text_pair=odd)
        assert_equal(ask(stub, key, {"inputs": examples}), ask(stub, key, {"inputs": want}))


@pytest.mark.parametrize("kind", BAD_EXAMPLES)
def test_bytes_that_are_no_example(stub, right, kind):
    for key in OF_EXAMPLES:
        good = INPUTS[key]["inputs"]
        answer = ask(stub, key, {"inputs": [*good, BAD_EXAMPLES[kind]]})
        assert_equal(rows_of(answer, slice(len(good))), right[key])
        assert_blank(rows_of(answer, slice(len(good), None)))


@pytest.mark.parametrize(("ids", "count"), BAD_IDS)
def test_ids_that_cannot_be(stub, right, ids, count):
    both = np.zeros((3, max(IDS.shape[1], len(ids))), np.int32)
    both[:2, : IDS.shape[1]], both[2, : len(ids)] = IDS, ids
    counts = np.array([*NUM_TOKENS, count], np.int32)
    for key in OF_IDS:
        answer = ask(stub, key, {"input_ids": both, "num_tokens": counts})
        assert_equal(rows_of(answer, slice(2)), right[key])
        assert_blank(rows_of(answer, slice(2, 3)))


def test_no_rows(stub):
    for key in SIGNATURES:
        none = {name: strings([]) for name in INPUTS[key]}
        if key in OF_IDS:
            none = {"input_ids": np.zeros((0, 4), np.int32), "num_tokens": np.zeros(0, np.int32)}
        assert {len(array) for array in ask(stub, key, none).values()} == {0}


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


@pytest.mark.slow
def test_memory_comes_back(stub):
    """After texts of 10 MB: plain, of one word, and such that each character is a token."""
    process = psutil.Process()
    texts = [b"the film " * 1_100_000, b"x" * 10_000_000, "影".encode() * 400_000]
    key = ("single", "serving_default")

    def load():
        for text in texts:
            # Over the export's max_text_bytes; a MiB of each is computed.
            assert_blank(ask(stub, key, {"text": [text]}))
            assert np.isfinite(ask(stub, key, {"text": [text[: 2**20]]})["logits"]).all()
        gc.collect()
        return process.memory_info().rss

    load()
    first = load()
    assert load() - first < 5 * sum(map(len, texts))


def test_bad_rows_hurt_no_other_in_their_batch(stub, right):
    """Many clients at once, some of whose rows cannot be computed, or are odd."""
    wide = {
        "input_ids": np.full((1, 9), 10_000, np.int32),
        "num_tokens": np.full(1, 9, np.int32),
    }
    bad = dict.fromkeys(OF_IDS, wide) | {key: {"inputs": [b"\xff\xfe"]} for key in OF_EXAMPLES}
    asked = [(key, inputs, i) for key, inputs in bad.items() for i in range(24)]
    texts = ("single", "serving_default")
    asked += [(texts, {"text": [text]}, i) for text in ODD_TEXTS for i in range(24)]

    def answer(each):
        key, inputs, i = each
        return ask(stub, key, INPUTS[key] if i % 3 else inputs)

    with futures.ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(answer, asked))
    for (key, inputs, i), given in zip(asked, answers, strict=True):
        if i % 3:
            assert_equal(given, right[key])
        elif "text" not in inputs:
            assert_blank(given)


def test_multi_inference_with_a_bad_example(stub):
    request = inference_pb2.MultiInferenceRequest()
    for method in ("classify", "regress"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        set_spec(task.model_spec, "single")
        task.model_spec.signature_name = method
    for example in (make_example(text=TEXTS[0]), make_example(txet="bad")):
        request.input.example_list.examples.add().CopyFrom(example)
    classes, values = stub.MultiInference(request, timeout=10).results
    good, bad = classes.classification_result.classifications
    assert_close(sum(each.score for each in good.classes), 1.0, FEW)
    assert all(each.label for each in good.classes)
    assert {each.label for each in bad.classes} == {""}
    assert np.isnan([each.score for each in bad.classes]).all()
    good, bad = (each.value for each in values.regression_result.regressions)
    assert np.isfinite(good)
    assert np.isnan(bad)
