"""Rows merged into one batch by TF Serving's rules: each gets the outputs that it gets alone."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from batching_rules import ServerDiesError, run_batches
from distilbert_serving.saved_model.exporter import export_saved_model
from exporting import TINY_MAX_LENGTH, make_tiny_model
from serving_models import make_example, write_examples

from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM

MAX_TEXT_BYTES = 2000
MAX_MASKS = 2
MERGES = 10  # of each signature, each of about 20 of its rows
MAX_ROWS = 8  # small, so that requests are split
# Other neighbours mean other kernels and another order of sums, over two blocks of a tiny model.
ROUNDING = 64 * np.finfo(np.float32).eps

TOO_LONG = b"x" * (MAX_TEXT_BYTES + 1)
TEXTS = [
    b"the film was never boring",
    b"",
    b"not good",
    "Ça alors! 東京 [MASK] 🚲".encode(),
    b"\xff\xfe bad bytes",
    b"good and good and good. " * 20,
    b"it was [MASK], [MASK].",
    TOO_LONG,
]
PAIRS = [(text, TEXTS[i * 5 % 7]) for i, text in enumerate(TEXTS)] + [(b"good", TOO_LONG)]
MASKED = [*TEXTS, b"[MASK] " * (MAX_MASKS + 1)]
IDS = [[2, 6, 7, 3], [2], [2, 8, 9, 10, 11, 3], [2, 4, 3], [5] * 24]
# Rows of ids, each with its number of tokens; the model has 24 positions. (A number greater than
# the row's length cannot be noticed once a server has padded the row.)
BAD_IDS = [
    ([2, -1, 3], 3),
    ([2, 10**6, 3], 3),
    ([2, 3], 0),
    ([2, 3], -(2**31)),
    ([2] * 30, 30),
]


def _number_example(name):
    feature = {name: tf.train.Feature(int64_list=tf.train.Int64List(value=[5]))}
    features = tf.train.Features(feature=feature)
    return tf.train.Example(features=features).SerializeToString()


BAD_EXAMPLES = [b"garbage", b"", b"\n\xff", _number_example("text")]
BAD_EXAMPLES += [make_example(txet="misnamed").SerializeToString()]
BAD_EXAMPLES += write_examples(text=[TOO_LONG], text_pair=[b"good"])


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """A function of signature and inputs for each kind of export, as TF Serving runs it."""
    directory = tmp_path_factory.mktemp("exports")
    model, tokenizer = make_tiny_model(directory / "model")
    fields = {"text_pair": True}
    paired, _ = make_tiny_model(directory / "pair", 8, fields=fields, encoder=model.distilbert)
    keras.utils.set_random_seed(11)
    words = TFDistilBertForMaskedLM(model.config)
    models = {
        "single": model,
        "pair": paired,
        "words": words,
        "encoder": model.distilbert,
        "tasks": {"first": model, "second": paired},
    }
    runs = {}
    for name, each in models.items():
        options = {"max_masks": MAX_MASKS, "top_k": 3} if name == "words" else {}
        version = export_saved_model(
            each, tokenizer, directory / name, max_length=TINY_MAX_LENGTH,
            max_text_bytes=MAX_TEXT_BYTES, verify=False, **options,
        )  # fmt: skip
        runs[name] = _load(version)
    return runs


def _load(version):
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(version))

    def run(name, inputs):
        signature = meta_graph.signature_def[name]
        fetches = {key: info.name for key, info in signature.outputs.items()}
        return session.run(fetches, {signature.inputs[key].name: inputs[key] for key in inputs})

    names = {
        name: sorted(signature.inputs)
        for name, signature in meta_graph.signature_def.items()
        if signature.inputs
    }
    return run, names


def _rows(kind, name, inputs):
    """The rows to try a signature with: inputs by name, each without its first dimension."""
    if "input_ids" in inputs:
        rows = [(ids, len(ids)) for ids in IDS] + BAD_IDS
        return [{"input_ids": ids, "num_tokens": count} for ids, count in rows]
    if inputs == ["inputs"]:
        texts, pairs = zip(*PAIRS, strict=True)
        good = write_examples(text=texts, text_pair=pairs)
        return [{"inputs": example} for example in [*good, *BAD_EXAMPLES]]
    if inputs == ["text", "text_pair"]:
        return [{"text": text, "text_pair": pair} for text, pair in PAIRS]
    return [{"text": text} for text in (MASKED if kind == "words" else TEXTS)]


def _request(rows, width=0):
    """Writes rows as one request; ids padded with anything to the longest, or to `width`."""
    if "input_ids" in rows[0]:
        width = max(width, *(len(row["input_ids"]) for row in rows))
        ids = np.full((len(rows), width), -7, np.int32)
        for to, row in zip(ids, rows, strict=True):
            to[: len(row["input_ids"])] = row["input_ids"]
        counts = [row["num_tokens"] for row in rows]
        return {"input_ids": ids, "num_tokens": np.array(counts, np.int32)}
    return {name: np.array([row[name] for row in rows], object) for name in rows[0]}


def _empty(rows):
    return {name: array[:0] for name, array in _request(rows[:1]).items()}


def _assert_row(got, want, where):
    for name, array in want.items():
        if array.dtype.kind == "f":
            allowed = ROUNDING * np.abs(array).max(initial=0, where=np.isfinite(array))
            np.testing.assert_allclose(got[name], array, rtol=0, atol=allowed, err_msg=where)
        else:
            assert got[name].tolist() == array.tolist(), where


def _is_blank(answer):
    return {
        "f": lambda array: np.isnan(array).all(),
        "i": lambda array: (array == -1).all(),
        "O": lambda array: set(array.ravel().tolist()) == {b""},
    }[answer.dtype.kind](answer)


@pytest.mark.parametrize("kind", ["single", "pair", "words", "encoder", "tasks"])
def test_every_row_is_answered_as_alone(sessions, kind):
    """Random merges: rows that cannot be computed, empty requests, other lengths, splitting."""
    random = np.random.RandomState(4)
    run, signatures = sessions[kind]
    assert len(signatures) >= 4
    for name, inputs in signatures.items():
        rows = _rows(kind, name, inputs)
        alone = [run(name, _request([row])) for row in rows]
        blank = [all(map(_is_blank, answer.values())) for answer in alone]
        assert 0 < sum(blank) < len(rows), name
        for _ in range(MERGES):
            picked = [
                random.randint(len(rows), size=random.choice([0, 1, 1, 2, 5, 11]))
                for _ in range(random.randint(2, 7))
            ]
            requests = [
                _request([rows[i] for i in numbers], random.randint(40))
                if len(numbers)
                else _empty(rows)
                for numbers in picked
            ]
            answers = run_batches(functools.partial(run, name), requests, max_rows=MAX_ROWS)
            for numbers, answer in zip(picked, answers, strict=True):
                for place, number in enumerate(numbers):
                    got = {key: array[place : place + 1] for key, array in answer.items()}
                    _assert_row(got, alone[number], f"{name}, row {number}")


@pytest.mark.parametrize(
    ("kind", "signature", "bad"),
    [
        ("single", "serving_default", {"text": TOO_LONG}),
        ("pair", "serving_default", {"text": b"good", "text_pair": TOO_LONG}),
        ("single", "classify", {"inputs": b"garbage"}),
        ("pair", "regress", {"inputs": write_examples(text=["no pair"])[0]}),
        ("words", "fill_mask", {"text": b"[MASK][MASK][MASK]"}),
        ("single", "from_ids", {"input_ids": [10**6], "num_tokens": 1}),
        ("encoder", "encode", {"text": TOO_LONG}),
        ("tasks", "second", {"text": TOO_LONG, "text_pair": b""}),
        ("single", "tokenize", {"text": TOO_LONG}),
    ],
)
def test_a_bad_row_is_blank_in_every_output(sessions, kind, signature, bad):
    run, signatures = sessions[kind]
    good = _rows(kind, signature, signatures[signature])[:3]
    answer = run(signature, _request([*good[:2], bad, good[2]]))
    want = run(signature, _request(good))
    assert {name: _is_blank(array[2:3]) for name, array in answer.items()} == dict.fromkeys(
        answer, True
    )
    kept = {name: array[[0, 1, 3]] for name, array in answer.items()}
    _assert_row(kept, want, "beside a bad row")


def test_allowed_sizes_kill_a_server(sessions):
    """The rules notice an export with such sizes."""
    run, _ = sessions["single"]
    requests = [_request([{"text": b"good"}] * 3), _empty([{"text": b""}])]
    default = functools.partial(run, "serving_default")
    with pytest.raises(ServerDiesError, match="limit <= dim0_size"):
        run_batches(default, requests, max_rows=4, allowed_sizes=[1, 2, 4])
    every = run_batches(default, requests, max_rows=4, allowed_sizes=[1, 2, 3, 4])
    assert [len(answer["label"]) for answer in every] == [3, 0]


def test_outputs_without_a_fixed_width_kill_a_server():
    def widest(arrays):
        width = max(map(len, arrays["text"].tolist()))
        return {"ids": np.zeros((len(arrays["text"]), width))}

    requests = [{"text": np.array(["a", "bcd", "ef"], object)}]
    with pytest.raises(ServerDiesError, match="the parts of ids differ in width"):
        run_batches(widest, requests, max_rows=2)
