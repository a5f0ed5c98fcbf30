"""What each signature of an export answers, against transformers' tokenizer and an eager model."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from comparing import assert_close
from distilbert_serving.saved_model.exporter import export_pretrained, export_saved_model
from exporting import LABELS, TINY_MAX_LENGTH, TINY_ROUNDINGS, make_tiny_model
from serving_models import write_examples

from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM

TEXTS = [
    "the film was never boring",
    "",
    "Every one of the four acts drags, and the fifth was cut -- wisely.",
    "Ça alors! Der Held fährt im Regen 🚲 nach Łódź",
    "good and good and good. " * 20,
    "ok",
]
MASKED = ["the [MASK] was good", "no gap here", "[MASK] very [MASK] [MASK]", "", "[MASK]"]


@pytest.fixture(scope="module")
def pair_model(tmp_path_factory):
    fields = {"text_pair": True, "id2label": {0: "different", 1: "same"}}
    return make_tiny_model(tmp_path_factory.mktemp("model"), fields=fields)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    model, tokenizer = make_tiny_model(tmp_path_factory.mktemp("model"))
    return model, tokenizer, load(model, tokenizer, tmp_path_factory)


@pytest.fixture(scope="module")
def pair(pair_model, tmp_path_factory):
    return *pair_model, load(*pair_model, tmp_path_factory)


@pytest.fixture(scope="module")
def masked_lm(pair_model, tmp_path_factory):
    keras.utils.set_random_seed(11)
    model = TFDistilBertForMaskedLM(pair_model[0].config)
    tokenizer = pair_model[1]
    checkpoint = tmp_path_factory.mktemp("masked_lm")
    model.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    version = export_pretrained(
        checkpoint, tmp_path_factory.mktemp("base"), max_length=TINY_MAX_LENGTH, top_k=3,
        max_masks=3, verify=False,
    )  # fmt: skip
    return model, tokenizer, tf.saved_model.load(os.fspath(version))


def load(model, tokenizer, tmp_path_factory):
    base = tmp_path_factory.mktemp("base")
    version = export_saved_model(model, tokenizer, base, max_length=TINY_MAX_LENGTH, verify=False)
    return tf.saved_model.load(os.fspath(version))


def call(loaded, signature, **inputs):
    outputs = loaded.signatures[signature](**{k: tf.constant(v) for k, v in inputs.items()})
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def encode(tokenizer, *sides):
    return tokenizer(
        *sides, truncation=True, max_length=TINY_MAX_LENGTH, padding=True, return_tensors="tf"
    )


def probabilities(model, tokenizer, *sides):
    return tf.nn.softmax(model(encode(tokenizer, *sides), training=False)).numpy()


def test_classify(single):
    model, tokenizer, loaded = single
    answer = call(loaded, "classify", inputs=write_examples(text=TEXTS))
    assert answer.keys() == {"classes", "scores"}
    assert_close(answer["scores"], probabilities(model, tokenizer, TEXTS), TINY_ROUNDINGS, size=1.0)
    assert answer["classes"].tolist() == [[label.encode() for label in LABELS]] * len(TEXTS)


def test_classify_pairs(pair):
    model, tokenizer, loaded = pair
    others = TEXTS[::-1]
    answer = call(loaded, "classify", inputs=write_examples(text=TEXTS, text_pair=others))
    want = probabilities(model, tokenizer, TEXTS, others)
    assert_close(answer["scores"], want, TINY_ROUNDINGS, size=1.0)
    swapped = call(loaded, "classify", inputs=write_examples(text_pair=TEXTS, text=others))
    assert np.abs(swapped["scores"] - want).max() > 1e-3


def test_regress_gives_one_labels_probability(single, pair, tmp_path):
    model, tokenizer, loaded = single
    want = probabilities(model, tokenizer, TEXTS)
    answer = call(loaded, "regress", inputs=write_examples(text=TEXTS))
    assert answer.keys() == {"outputs"}
    assert_close(answer["outputs"], want[:, 0], TINY_ROUNDINGS, size=1.0)  # the first of three
    version = export_saved_model(
        model, tokenizer, tmp_path, regress_label=LABELS[2], max_length=TINY_MAX_LENGTH,
        verify=False,
    )  # fmt: skip
    other = tf.saved_model.load(os.fspath(version))
    answer = call(other, "regress", inputs=write_examples(text=TEXTS))
    assert_close(answer["outputs"], want[:, 2], TINY_ROUNDINGS, size=1.0)
    model, tokenizer, loaded = pair
    answer = call(loaded, "regress", inputs=write_examples(text=TEXTS, text_pair=TEXTS[::-1]))
    want = probabilities(model, tokenizer, TEXTS, TEXTS[::-1])
    assert_close(answer["outputs"], want[:, 1], TINY_ROUNDINGS, size=1.0)  # the second of two


def test_classify_and_regress_share_their_input(single, tmp_path):
    """As MultiInference wants it, which runs both in one go."""
    model, tokenizer, _ = single
    version = export_saved_model(
        model, tokenizer, tmp_path, max_length=TINY_MAX_LENGTH, verify=False
    )
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.loader.load(session, ["serve"], os.fspath(version))
        definitions = [loaded.signature_def[name] for name in ("classify", "regress")]
        (feed,) = {definition.inputs["inputs"].name for definition in definitions}
        fetches = [definitions[0].outputs["scores"].name, definitions[1].outputs["outputs"].name]
        scores, outputs = session.run(fetches, {feed: write_examples(text=TEXTS)})
    want = probabilities(model, tokenizer, TEXTS)
    assert_close(scores, want, TINY_ROUNDINGS, size=1.0)
    assert_close(outputs, want[:, 0], TINY_ROUNDINGS, size=1.0)
    fingerprint = tf.saved_model.experimental.read_fingerprint(os.fspath(version))
    assert fingerprint.saved_model_checksum  # made anew with the file
    restored = tf.saved_model.load(os.fspath(version))
    answer = call(restored, "regress", inputs=write_examples(text=TEXTS))
    assert_close(answer["outputs"], want[:, 0], TINY_ROUNDINGS, size=1.0)


def test_encode(single):
    model, tokenizer, loaded = single
    answer = call(loaded, "encode", text=TEXTS)
    assert answer.keys() == {"cls_embedding", "mean_embedding"}
    for row, text in enumerate(TEXTS):  # one by one, so without any padding
        hidden = model.distilbert(encode(tokenizer, [text])).last_hidden_state[0].numpy()
        assert_close(answer["cls_embedding"][row], hidden[0], TINY_ROUNDINGS, size=1.0)
        assert_close(answer["mean_embedding"][row], hidden.mean(axis=0), TINY_ROUNDINGS, size=1.0)


def test_encode_takes_single_texts_of_a_pair_model(pair):
    model, tokenizer, loaded = pair
    answer = call(loaded, "encode", text=TEXTS)
    hidden = model.distilbert(encode(tokenizer, TEXTS)).last_hidden_state.numpy()
    assert_close(answer["cls_embedding"], hidden[:, 0], TINY_ROUNDINGS, size=1.0)


def test_tokenize(single, pair):
    for (_, tokenizer, loaded), sides in (
        (single, {"text": TEXTS}),
        (pair, {"text": TEXTS, "text_pair": TEXTS[::-1]}),
    ):
        answer = call(loaded, "tokenize", **sides)
        want = encode(tokenizer, *sides.values())
        counts = want["attention_mask"].numpy().sum(axis=1)
        assert answer["num_tokens"].tolist() == counts.tolist()
        assert answer["input_ids"].shape == (len(TEXTS), TINY_MAX_LENGTH)
        padding = TINY_MAX_LENGTH - want["input_ids"].shape[1]
        ids = np.pad(want["input_ids"], [(0, 0), (0, padding)])  # the id of [PAD] is 0
        np.testing.assert_array_equal(answer["input_ids"], ids)
        tokens = [[token.decode() for token in row] for row in answer["tokens"]]
        assert tokens == [tokenizer.convert_ids_to_tokens(row) for row in ids]


def test_from_ids(single):
    *_, loaded = single
    tokens = call(loaded, "tokenize", text=TEXTS)
    ids, counts = tokens["input_ids"], tokens["num_tokens"]
    want = call(loaded, "serving_default", text=TEXTS)
    # What stands behind a row's tokens does not count: nor how much, nor what.
    wider = np.pad(ids, [(0, 0), (0, 40)], constant_values=-9)
    wider[np.arange(wider.shape[1]) >= counts[:, None]] = 10**6
    for inputs in (ids, ids[:, : counts.max()], wider):
        answer = call(loaded, "from_ids", input_ids=inputs, num_tokens=counts)
        assert answer.keys() == want.keys()
        assert_close(answer["logits"], want["logits"], TINY_ROUNDINGS, size=1.0)
        assert answer["label"].tolist() == want["label"].tolist()


@pytest.mark.parametrize(
    ("ids", "count"),
    [
        ([2, -1, 3], 3),
        ([2, 99999, 3], 3),
        ([2, 5, 3], 0),
        ([2, 5, 3], -1),
        ([2, 5, 3], 4),
        ([], 0),
        ([], 1),
        ([2] * 30, 25),  # of 24 positions
    ],
)
def test_ids_that_cannot_be_computed(single, ids, count):
    inputs = {"input_ids": np.array([ids], np.int32), "num_tokens": np.array([count], np.int32)}
    answer = call(single[2], "from_ids", **inputs)
    assert np.isnan(answer["logits"]).all()
    assert np.isnan(answer["probabilities"]).all()
    assert (answer["label"].tolist(), answer["label_id"].tolist()) == ([b""], [-1])


def test_as_many_counts_as_rows(single):
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have as many rows"):
        call(single[2], "from_ids", input_ids=[[2, 3], [2, 3]], num_tokens=[2])


def test_a_text_that_is_too_long(single, tmp_path):
    model, tokenizer, _ = single
    version = export_saved_model(
        model, tokenizer, tmp_path, max_length=TINY_MAX_LENGTH, max_text_bytes=20, verify=False
    )
    loaded = tf.saved_model.load(os.fspath(version))
    texts = ["good " * 4, "good " * 4 + "!", "é" * 10, "é" * 11]  # bytes, not characters
    answer = call(loaded, "serving_default", text=texts)
    assert_close(
        answer["probabilities"][::2],
        probabilities(model, tokenizer, texts[::2]),
        TINY_ROUNDINGS,
        size=1.0,
    )
    assert np.isnan(answer["probabilities"][1::2]).all()
    tokens = call(loaded, "tokenize", text=texts)
    assert (tokens["num_tokens"] > 0).tolist() == [True, False, True, False]
    # What could not be tokenized cannot be computed either.
    del tokens["tokens"]
    assert_close(
        call(loaded, "from_ids", **tokens)["logits"][::2],
        answer["logits"][::2],
        TINY_ROUNDINGS,
        size=1.0,
    )
    assert np.isnan(call(loaded, "from_ids", **tokens)["logits"][1::2]).all()
    with pytest.raises(ValueError, match="max_text_bytes must be at least 1; got 0"):
        export_saved_model(model, tokenizer, tmp_path, max_text_bytes=0)


def test_fill_mask(masked_lm):
    model, tokenizer, loaded = masked_lm
    answer = call(loaded, "serving_default", text=MASKED)
    assert answer.keys() == {"tokens", "token_ids", "scores"}
    assert answer["scores"].shape == (5, 3, 3)  # texts, masks of the text with most, top_k
    for row, text in enumerate(MASKED):
        encoding = encode(tokenizer, [text])
        scores = tf.nn.softmax(model(encoding))[0].numpy()
        places = np.flatnonzero(encoding["input_ids"][0] == tokenizer.mask_token_id)
        for mask, place in enumerate(places):
            best = np.argsort(-scores[place])[:3]
            assert_close(answer["scores"][row, mask], scores[place][best], TINY_ROUNDINGS, size=1.0)
            assert answer["token_ids"][row, mask].tolist() == best.tolist()
            words = [word.decode() for word in answer["tokens"][row, mask]]
            assert words == tokenizer.convert_ids_to_tokens(best)
        assert not answer["scores"][row, len(places) :].any()
        assert not answer["token_ids"][row, len(places) :].any()
        assert set(answer["tokens"][row, len(places) :].flat) <= {b""}


def test_fill_mask_where_there_is_none_or_too_many(masked_lm):
    *_, loaded = masked_lm
    answer = call(loaded, "fill_mask", text=["no gap", "[MASK]" * 4, "one [MASK]"])
    assert answer["tokens"].shape == (3, 3, 3)
    assert not answer["scores"][0].any()
    assert np.isnan(answer["scores"][1]).all()
    assert (answer["token_ids"][1] == -1).all()
    assert set(answer["tokens"][:2].flat) == {b""}
    assert_close(
        answer["scores"][2],
        call(loaded, "fill_mask", text=["one [MASK]"])["scores"][0],
        TINY_ROUNDINGS,
        size=1.0,
    )
    answer = call(loaded, "fill_mask", text=np.zeros(0, "S1"))
    assert answer["tokens"].shape == (0, 3, 3)


def test_fill_mask_from_ids(masked_lm):
    _, tokenizer, loaded = masked_lm
    want = call(loaded, "fill_mask", text=MASKED)
    encoding = {name: array.numpy() for name, array in encode(tokenizer, MASKED).items()}
    # What a client pads with is no mask.
    encoding["input_ids"][encoding["attention_mask"] == 0] = tokenizer.mask_token_id
    counts = encoding["attention_mask"].sum(axis=1, dtype=np.int32)
    answer = call(loaded, "from_ids", input_ids=encoding["input_ids"], num_tokens=counts)
    assert answer["token_ids"].tolist() == want["token_ids"].tolist()
    assert_close(answer["scores"], want["scores"], TINY_ROUNDINGS, size=1.0)


@pytest.mark.parametrize("signature", ["serving_default", "encode", "tokenize"])
def test_no_texts(single, masked_lm, signature):
    for *_, loaded in (single, masked_lm):
        answer = call(loaded, signature, text=np.zeros(0, "S1"))
        assert {len(array) for array in answer.values()} == {0}


def test_options_that_do_not_fit(single, masked_lm, tmp_path):
    model, tokenizer, _ = single
    with pytest.raises(ValueError, match="regress_label='good' is none of"):
        export_saved_model(model, tokenizer, tmp_path, regress_label="good")
    words = masked_lm[0]
    with pytest.raises(ValueError, match="pair and regress_label are for classifiers"):
        export_saved_model(words, tokenizer, tmp_path, pair=True)
    with pytest.raises(ValueError, match=r"top_k must be from 1 to the \d+ words; got 0"):
        export_saved_model(words, tokenizer, tmp_path, top_k=0)
    with pytest.raises(ValueError, match="max_masks must be at least 1; got 0"):
        export_saved_model(words, tokenizer, tmp_path, max_masks=0)
    with pytest.raises(ValueError, match="regress_label is for one classifier"):
        export_saved_model({"a": model}, tokenizer, tmp_path, regress_label=LABELS[0])
