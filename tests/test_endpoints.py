"""What each signature of an export answers, against transformers' tokenizer and an eager model."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from exporting import LABELS, TINY_MAX_LENGTH, make_tiny_model
from serving_models import write_examples

from distilbert_tf.heads import TFDistilBertForMaskedLM
from export.saved_model import export_pretrained, export_saved_model

TEXTS = [
    "the film was never boring",
    "",
    "Every one of the four acts drags, and the fifth was cut -- wisely.",
    "Ça alors! Der Held fährt im Regen 🚲 nach Łódź",
    "good and good and good. " * 20,
    "ok",
]
NO_COLUMNS = np.zeros((2, 0), np.int32)
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
        verify=False,
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
    np.testing.assert_allclose(answer["scores"], probabilities(model, tokenizer, TEXTS), atol=1e-5)
    assert answer["classes"].tolist() == [[label.encode() for label in LABELS]] * len(TEXTS)


def test_classify_pairs(pair):
    model, tokenizer, loaded = pair
    others = TEXTS[::-1]
    answer = call(loaded, "classify", inputs=write_examples(text=TEXTS, text_pair=others))
    want = probabilities(model, tokenizer, TEXTS, others)
    np.testing.assert_allclose(answer["scores"], want, atol=1e-5)
    swapped = call(loaded, "classify", inputs=write_examples(text_pair=TEXTS, text=others))
    assert np.abs(swapped["scores"] - want).max() > 1e-3


def test_regress_gives_one_labels_probability(single, pair, tmp_path):
    model, tokenizer, loaded = single
    want = probabilities(model, tokenizer, TEXTS)
    answer = call(loaded, "regress", inputs=write_examples(text=TEXTS))
    assert answer.keys() == {"outputs"}
    np.testing.assert_allclose(answer["outputs"], want[:, 0], atol=1e-5)  # the first of three
    version = export_saved_model(
        model, tokenizer, tmp_path, regress_label=LABELS[2], max_length=TINY_MAX_LENGTH,
        verify=False,
    )  # fmt: skip
    other = tf.saved_model.load(os.fspath(version))
    answer = call(other, "regress", inputs=write_examples(text=TEXTS))
    np.testing.assert_allclose(answer["outputs"], want[:, 2], atol=1e-5)
    model, tokenizer, loaded = pair
    answer = call(loaded, "regress", inputs=write_examples(text=TEXTS, text_pair=TEXTS[::-1]))
    want = probabilities(model, tokenizer, TEXTS, TEXTS[::-1])
    np.testing.assert_allclose(answer["outputs"], want[:, 1], atol=1e-5)  # the second of two


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
    np.testing.assert_allclose(scores, want, atol=1e-5)
    np.testing.assert_allclose(outputs, want[:, 0], atol=1e-5)
    fingerprint = tf.saved_model.experimental.read_fingerprint(os.fspath(version))
    assert fingerprint.saved_model_checksum  # made anew with the file
    restored = tf.saved_model.load(os.fspath(version))
    answer = call(restored, "regress", inputs=write_examples(text=TEXTS))
    np.testing.assert_allclose(answer["outputs"], want[:, 0], atol=1e-5)


def test_encode(single):
    model, tokenizer, loaded = single
    answer = call(loaded, "encode", text=TEXTS)
    assert answer.keys() == {"cls_embedding", "mean_embedding"}
    for row, text in enumerate(TEXTS):  # one by one, so without any padding
        hidden = model.distilbert(encode(tokenizer, [text])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(answer["cls_embedding"][row], hidden[0], atol=1e-5)
        np.testing.assert_allclose(answer["mean_embedding"][row], hidden.mean(axis=0), atol=1e-5)


def test_encode_takes_single_texts_of_a_pair_model(pair):
    model, tokenizer, loaded = pair
    answer = call(loaded, "encode", text=TEXTS)
    hidden = model.distilbert(encode(tokenizer, TEXTS)).last_hidden_state.numpy()
    np.testing.assert_allclose(answer["cls_embedding"], hidden[:, 0], atol=1e-5)


def test_tokenize(single, pair):
    for (_, tokenizer, loaded), sides in (
        (single, {"text": TEXTS}),
        (pair, {"text": TEXTS, "text_pair": TEXTS[::-1]}),
    ):
        answer = call(loaded, "tokenize", **sides)
        want = encode(tokenizer, *sides.values())
        for name in ("input_ids", "attention_mask"):
            assert answer[name].dtype == np.int32
            np.testing.assert_array_equal(answer[name], want[name])
        tokens = [[token.decode() for token in row] for row in answer["tokens"]]
        assert tokens == [tokenizer.convert_ids_to_tokens(row) for row in want["input_ids"]]


def test_from_ids(single):
    _, tokenizer, loaded = single
    encoding = dict(encode(tokenizer, TEXTS))
    want = call(loaded, "serving_default", text=TEXTS)
    # Padding changes nothing, nor do ids that the mask hides.
    wider = {name: np.pad(array, [(0, 0), (0, 3)]) for name, array in encoding.items()}
    wider["input_ids"][:, -2:] = 4
    for inputs in (encoding, wider):
        answer = call(loaded, "from_ids", **inputs)
        assert answer.keys() == want.keys()
        np.testing.assert_allclose(answer["logits"], want["logits"], atol=1e-5)
        assert answer["label"].tolist() == want["label"].tolist()


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([[2, 5, 3]], [[1, 1]], "input_ids and attention_mask must have one shape"),
        ([[2, -1, 3]], [[1, 1, 1]], "input_ids must not be negative"),
        ([[2, 99999, 3]], [[1, 1, 1]], "input_ids must be less than [0-9]+, the number of words"),
        (NO_COLUMNS, NO_COLUMNS, "input_ids must have at least one column"),
        ([[2] * 30], [[1] * 30], "input_ids must have at most 24 columns, the number of positions"),
    ],
)
def test_ids_that_cannot_be(single, ids, mask, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call(single[2], "from_ids", input_ids=ids, attention_mask=mask)


@pytest.mark.parametrize(
    ("serialized", "message"),
    [
        (b"not an example", "Could not parse example input"),
        (b"", r"Feature: text \(data type: string\) is required"),
        (
            write_examples(txet=["a typing error"])[0],
            r"Feature: text \(data type: string\) is required",
        ),
        (
            tf.train.Example(
                features=tf.train.Features(
                    feature={"text": tf.train.Feature(int64_list=tf.train.Int64List(value=[5]))}
                )
            ).SerializeToString(),
            "text.*Data types don't match",
        ),
    ],
    ids=["garbage", "empty", "misnamed", "number"],
)
def test_examples_that_cannot_be(single, serialized, message):
    for signature in ("classify", "regress"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            call(single[2], signature, inputs=[serialized])


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
            np.testing.assert_allclose(answer["scores"][row, mask], scores[place][best], atol=1e-6)
            assert answer["token_ids"][row, mask].tolist() == best.tolist()
            words = [word.decode() for word in answer["tokens"][row, mask]]
            assert words == tokenizer.convert_ids_to_tokens(best)
        # No mask left: nothing there, and no error that others in the batch would share.
        assert not answer["scores"][row, len(places) :].any()
        assert set(answer["tokens"][row, len(places) :].flat) <= {b""}


def test_fill_mask_where_there_is_none(masked_lm):
    *_, loaded = masked_lm
    answer = call(loaded, "fill_mask", text=["no gap", "none here either"])
    assert answer["tokens"].shape == (2, 0, 3)
    answer = call(loaded, "fill_mask", text=np.zeros(0, "S1"))
    assert answer["tokens"].shape == (0, 0, 3)


def test_fill_mask_from_ids(masked_lm):
    _, tokenizer, loaded = masked_lm
    want = call(loaded, "fill_mask", text=MASKED)
    encoding = {name: array.numpy() for name, array in encode(tokenizer, MASKED).items()}
    # What a client pads with is no mask.
    encoding["input_ids"][encoding["attention_mask"] == 0] = tokenizer.mask_token_id
    answer = call(loaded, "from_ids", **encoding)
    assert answer["token_ids"].tolist() == want["token_ids"].tolist()
    np.testing.assert_allclose(answer["scores"], want["scores"], atol=1e-6)


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
    with pytest.raises(ValueError, match="regress_label is for one classifier"):
        export_saved_model({"a": model}, tokenizer, tmp_path, regress_label=LABELS[0])
