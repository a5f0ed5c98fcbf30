"""Rows that the server cannot compute, and requests without rows, with clients of both kinds."""

import contextlib
import math

import fake_serving
import numpy as np
import pytest
from comparing import assert_close
from distilbert_serving.client.predict_client import InvalidRowsError, PredictClient, PredictError
from distilbert_serving.client.results import MaskAnswer, is_valid
from distilbert_serving.saved_model.endpoints import MAX_TEXT_BYTES
from exporting import TINY_ROUNDINGS
from fake_serving import LONG, MAX_LENGTH, MAX_MASKS

MANY_MASKS = "[MASK]" * (MAX_MASKS + 1)
TEXTS = ["tea", LONG, "", "a kettle", "naïve", LONG, "so it goes"]
METHODS = ("predict", "classify", "regress", "encode", "tokenize", "fill_mask", "multi_inference")


def ask(client, name, *texts, **options):
    if name == "multi_inference":
        options |= {"classify": ["classify"], "regress": ["regress"]}
    return getattr(client, name)(*texts, **options)


def as_text(answer):
    """An answer's every value; NaN equals itself there."""
    return repr(answer.to_list() if hasattr(answer, "to_list") else answer)


@pytest.mark.parametrize("name", METHODS)
def test_a_row_that_cannot_be_computed(serve, name):
    client, _ = serve()
    assert is_valid(ask(client, name, "tea"))
    with pytest.raises(InvalidRowsError) as caught:
        ask(client, name, LONG)
    error = caught.value
    assert error.rows == (0,)
    assert not is_valid(error.answers)
    assert str(error).startswith(
        f"The server cannot compute row 0 ('{'x' * 40}'..., 10001 bytes): a text may have no more "
        "bytes than the export's max_text_bytes"
    )
    assert as_text(ask(client, name, LONG, return_invalid=True)) == as_text(error.answers)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("batch_size", "concurrency"), [(1, 3), (2, 1), (9, 1)])
def test_rows_that_cannot_be_computed_among_others(serve, name, batch_size, concurrency):
    client, servicer = serve()
    options = {"batch_size": batch_size, "concurrency": concurrency}
    with pytest.raises(InvalidRowsError, match=r"compute row 1 \('xx.*\), row 5 \('x") as caught:
        ask(client, name, TEXTS, **options)
    assert caught.value.rows == (1, 5)
    assert len(servicer.requests) == -(-len(TEXTS) // batch_size)
    answers = ask(client, name, TEXTS, **options, return_invalid=True)
    assert as_text(caught.value.answers) == as_text(answers)
    for part in answers.values() if isinstance(answers, dict) else [answers]:
        assert [is_valid(row) for row in part] == [text != LONG for text in TEXTS]
        if not isinstance(part, list):
            assert part.is_valid.tolist() == [text != LONG for text in TEXTS]
    good = [text for text in TEXTS if text != LONG]
    want = ask(client, name, good)
    if isinstance(answers, dict):
        answers, want = answers["classify"], want["classify"]
    assert [as_text(row) for row in answers if is_valid(row)] == [as_text(row) for row in want]


def test_what_stands_for_a_row_that_cannot_be_computed(serve):
    client, _ = serve()
    prediction = client.predict(["tea", LONG], return_invalid=True)[1]
    assert (prediction.label, prediction.label_id) == ("", -1)
    assert np.isnan(prediction.logits).all()
    assert math.isnan(prediction.score)
    assert client.classify(LONG, return_invalid=True).classes == ["", ""]
    assert math.isnan(client.regress(LONG, return_invalid=True))
    assert client.tokenize(LONG, return_invalid=True) == ([], [], [])
    mask, *_ = masks = client.fill_mask(MANY_MASKS, return_invalid=True)
    assert len(masks) == MAX_MASKS
    assert [(answer.token, answer.token_id) for answer in mask] == [("", -1)] * 2
    assert not mask[0].is_valid
    assert MaskAnswer("a", 0, 0.0).is_valid


def test_limits_are_those_of_what_is_asked(serve):
    client, _ = serve()
    with pytest.raises(InvalidRowsError, match=r"\[MASK\]'\)?.*no more \[MASK\]s than its max_ma"):
        client.fill_mask(["[MASK]", MANY_MASKS])
    with pytest.raises(InvalidRowsError, match="a signature for pairs of texts needs text_pairs"):
        client.regress(LONG)
    with pytest.raises(InvalidRowsError, match=r"row 0 \('a'; 'xx.*10001 bytes\): "):
        client.predict("a", LONG, signature_name="mnli")
    with pytest.raises(InvalidRowsError, match=r", row 2 \(.* and 4 more: ") as caught:
        client.regress([LONG] * 7)
    assert caught.value.rows == tuple(range(7))


def test_token_ids_that_cannot_be_computed(serve):
    client, servicer = serve()
    rows = [[1, 2], [fake_serving.VOCABULARY], [], [3], [-1, 4], [2**40], np.arange(200, 210)]
    with pytest.raises(InvalidRowsError, match="all in its vocabulary") as caught:
        client.from_ids(rows, batch_size=4)
    assert caught.value.rows == (1, 2, 4, 5, 6)
    assert "row 1 ([100]), row 2 ([]), row 4 ([-1, 4]) and 2 more" in str(caught.value)
    with pytest.raises(InvalidRowsError, match=r"\(\[200, 201, 202, 203, 204, 205, ...\], 10 ids"):
        client.from_ids(rows[-1])
    answers = client.from_ids(rows, return_invalid=True)
    assert answers.is_valid.tolist() == [True, False, False, True, False, False, False]
    assert answers.logits[[0, 3], 1].tolist() == [-2.5, -2.5]
    for nothing in ([[]], np.zeros((1, 0), np.int32)):
        with pytest.raises(InvalidRowsError, match=r"row 0 \(\[\]\)"):
            client.from_ids(nothing)
        inputs = servicer.requests[-1].inputs
        assert [dim.size for dim in inputs["input_ids"].tensor_shape.dim] == [1, 1]
    masked = client.from_ids([[7, 500, 500], [7, 7, 500]], [[1, 0, 0], [True, True, False]])
    assert masked.logits[:, 1].tolist() == [1.5, 8.5]
    with pytest.raises(InvalidRowsError, match=r"row 0 \(\[\]\)"):
        client.from_ids([7, 7], [0, 0])
    assert client.from_ids(np.array([[200, 7]], np.uint8), return_invalid=True).labels == [""]


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("name", ["predict", "classify", "regress", "encode", "tokenize"])
def test_streams(serve, name, concurrency):
    client, _ = serve()
    texts = ["x" * (n % 7) if n != 11 else LONG for n in range(20)]
    options = {"batch_size": 3, "concurrency": concurrency}
    answers = list(client.stream(texts, name, **options, return_invalid=True))
    assert [is_valid(answer) for answer in answers] == [n != 11 for n in range(20)]
    seen = []
    with pytest.raises(InvalidRowsError, match=r"compute row 11 \('xx") as caught:
        client.stream(iter(texts), name, **options, sink=seen)
    assert list(map(as_text, seen)) == list(map(as_text, answers[:11]))
    assert caught.value.rows == (11,)
    assert as_text(caught.value.answers) == as_text(answers[11])


def test_no_rows_are_not_sent(serve):
    client, servicer = serve()
    for texts, options in (([[]], {}), ([[], []], {"signature_name": "mnli"})):
        predictions = client.predict(*texts, **options)
        assert predictions.labels == []
        assert predictions.label_ids.dtype == np.int32
        assert predictions.logits.shape == predictions.probabilities.shape == (0, 2)
    assert client.encode([]).cls.shape == client.encode([]).mean.shape == (0, 3)
    assert client.from_ids([]).probabilities.shape == (0, 2)
    assert client.from_ids(np.zeros((0, 5), np.int32), []).is_valid.shape == (0,)
    assert client.classify([]).scores.shape == (0, 0)
    for name in ("regress", "tokenize", "fill_mask"):
        assert getattr(client, name)([], concurrency=4) == []
        assert list(client.stream([], name)) == []
    parts = client.multi_inference([], [], classify=["a"], regress=["b"])
    assert (len(parts["a"]), parts["b"]) == (0, [])
    outputs = client.call({"text": []}, signature_name="tokenize")
    assert {name: (array.dtype.kind, array.shape) for name, array in outputs.items()} == {
        "input_ids": ("i", (0, MAX_LENGTH)),
        "num_tokens": ("i", (0,)),
        "tokens": ("O", (0, MAX_LENGTH)),
    }
    ids = {"input_ids": np.zeros((0, 4), np.int32), "num_tokens": np.zeros(0, np.int32)}
    outputs = client.call(ids, signature_name="from_ids", outputs=["logits"])
    assert {name: array.shape for name, array in outputs.items()} == {"logits": (0, 2)}
    with pytest.raises(ValueError, match=r"There is no output 'logit', but \['label', "):
        client.call({"text": []}, outputs=["logit"])
    with pytest.raises(ValueError, match=r"takes \['text'\], not \['texts'\]"):
        client.call({"texts": []}, signature_name="fill_mask")
    with pytest.raises(PredictError, match="no signature 'x', but"):
        client.call({"text": []}, signature_name="x")
    assert servicer.requests == []


@pytest.fixture
def exported(tiny_server):
    """Connects to one of the real exports."""
    with contextlib.ExitStack() as stack:
        yield lambda name: stack.enter_context(PredictClient(f"127.0.0.1:{tiny_server.port}", name))


@pytest.mark.slow
def test_real_exports(exported):
    long = "x" * (MAX_TEXT_BYTES + 1)
    single, pair, words = map(exported, ("single", "pair", "words"))
    texts = ["the film", long, "not [MASK]"]
    for client, names, pairs in [
        (single, [*METHODS[:5], "multi_inference"], []),
        (pair, ["predict", "classify", "regress", "tokenize", "multi_inference"], [["a", "b", ""]]),
        (words, ["encode", "tokenize", "fill_mask"], []),
    ]:
        for name in names:
            with pytest.raises(
                InvalidRowsError, match=r"compute row 1 \('xxx.*, 1048577 "
            ) as caught:
                ask(client, name, texts, *pairs, concurrency=3, batch_size=1)
            good = ask(client, name, texts[::2], *(column[::2] for column in pairs))
            if isinstance(good, dict):
                continue
            for answer, want in zip(list(caught.value.answers)[::2], good, strict=True):
                if name in ("regress", "tokenize", "fill_mask"):
                    assert np.shape(answer) == np.shape(want)
                else:
                    assert_close(answer[-1], want[-1], TINY_ROUNDINGS, size=1.0)
    with pytest.raises(InvalidRowsError, match="needs text_pairs"):
        pair.classify("the film")
    with pytest.raises(InvalidRowsError, match="max_masks") as caught:
        words.fill_mask(["[MASK]" * 16, "[MASK]" * 17])
    assert caught.value.rows == (1,)
    assert [len(row) for row in caught.value.answers] == [16, 16]
    rows = [[2, 6, 3], [], [10**6], [2] * 24, [2] * 25]
    answers = single.from_ids(rows, return_invalid=True)
    assert answers.is_valid.tolist() == [True, False, False, True, False]
    tokens = single.tokenize(["the film", "not a very good film"])
    by_ids = single.from_ids([row.input_ids for row in tokens])
    by_text = single.predict(["the film", "not a very good film"])
    assert_close(by_ids.logits, by_text.logits, TINY_ROUNDINGS)
    assert single.call({"text": []}, signature_name="encode")["cls_embedding"].shape == (0, 12)
    assert words.fill_mask([]) == []
