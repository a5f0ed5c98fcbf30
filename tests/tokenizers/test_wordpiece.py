"""The in-graph tokenizer: by hand, against transformers, and on every route."""

import functools
import json
import unicodedata

import keras
import numpy as np
import pytest
import tensorflow as tf
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from distilbert_tf.tokenizers.basic_tokenizer import BasicTokenizer
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.tokenizers.wordpiece import WordPieceTokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz\u03c3\u03c2\u00e9\u4e2d\u0131"
PIECES = ["river", "River", "stone", "##stone", "##s", "##ing", "walk", "cafe", ",", "!", "[", "]"]
VOCABULARY = SPECIALS + PIECES + sorted(LETTERS) + [f"##{letter}" for letter in sorted(LETTERS)]
IDS = {token: i for i, token in enumerate(VOCABULARY)}
OPTIONS = [
    {"do_lower_case": True},
    {"do_lower_case": False},
    {"do_lower_case": False, "strip_accents": True},
    {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False},
]
STRATEGIES = ("longest_first", "only_first", "only_second")
TEXTS = [
    "riverstones walking, caf\u00e9!",
    "",
    "River [MASK]river[SEP] [mask]",
    "\u4e2d\u6587 walk\u0301ing\x00s",
    "stone " * 9,
]
PAIR_TEXTS = ["walk", "walking stones " * 5, "", "[SEP]", "river, river"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("vocabulary"), {"do_lower_case": True})


@pytest.fixture(scope="module")
def layer(tokenizer):
    return tokenizer.as_layer()


@pytest.fixture(scope="module")
def option_pairs(tmp_path_factory):
    """For each set of options, transformers' tokenizer and this package's layer."""
    pairs = []
    for options in OPTIONS:
        directory = tmp_path_factory.mktemp("vocabulary")
        tokenizer = make_tokenizer(directory, options)
        reference = transformers.DistilBertTokenizer.from_pretrained(directory)
        pairs.append((reference, tokenizer.as_layer(max_length=16)))
    return pairs


def make_tokenizer(directory, config):
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return DistilBertTokenizer.from_pretrained(directory)


def assert_same(actual, expected):
    for name in ("input_ids", "attention_mask"):
        np.testing.assert_array_equal(actual[name], expected[name], name)
        assert actual[name].dtype == tf.int32


def rows_by_hand(*rows):
    ids = tf.ragged.constant([[IDS[token] for token in row.split()] for row in rows], tf.int32)
    mask = tf.ones_like(ids)
    return {"input_ids": ids.to_tensor(), "attention_mask": mask.to_tensor()}


def test_ids_and_mask_by_hand(layer):
    assert_same(
        layer(["Riverstones, walking!", "CAF\u00c9", "", "stone~"]),
        rows_by_hand(
            "[CLS] river ##stone ##s , walk ##ing ! [SEP]",
            "[CLS] cafe [SEP]",
            "[CLS] [SEP]",
            "[CLS] stone [UNK] [SEP]",
        ),
    )


def test_special_tokens_are_found_in_the_raw_text(layer):
    assert_same(
        layer(["river[MASK]s", "[mask]", "[[SEP]]"]),
        rows_by_hand(
            "[CLS] river [MASK] s [SEP]",
            "[CLS] [ m ##a ##s ##k ] [SEP]",
            "[CLS] [ [SEP] ] [SEP]",
        ),
    )


def test_pair_by_hand(layer):
    assert_same(
        layer(["river", ""], text_pair=["walks !", "stone"]),
        rows_by_hand(
            "[CLS] river [SEP] walk ##s ! [SEP]",
            "[CLS] [SEP] stone [SEP]",
        ),
    )


def test_words_of_more_than_a_hundred_characters_are_unknown(tokenizer, layer):
    texts = ["a" * 100, "a" * 101, "\u00e9" * 100, "e\u0301" * 101, "b" * 100 + "," + "b" * 101]
    assert_same(layer(texts), tokenizer(texts, padding=True, return_tensors="tf"))
    assert layer(["a" * 101])["input_ids"].numpy().tolist() == [[IDS["[CLS]"], 1, IDS["[SEP]"]]]


def test_a_vocabulary_word_of_more_than_a_hundred_characters_is_unknown_too(layer):
    vocabulary = {**IDS, "a" * 101: len(IDS)}
    long_layer = WordPieceTokenizer(vocabulary, added_tokens=dict(list(IDS.items())[:5]))
    assert_same(long_layer(["a" * 101]), rows_by_hand("[CLS] [UNK] [SEP]"))


def test_invalid_utf8_and_nul_count_as_nothing(tokenizer, layer):
    texts = [b"ri\xffver", b"\xe2\x82 walk\x00s", b"\xed\xa0\x80", b"[MA\xffSK]", b"stone\xf0\x9f"]
    decoded = [text.decode("utf-8", errors="replace") for text in texts]
    assert_same(layer(tf.constant(texts)), tokenizer(decoded, padding=True, return_tensors="tf"))
    assert_same(layer(tf.constant(texts[:1])), rows_by_hand("[CLS] river [SEP]"))


def test_private_use_code_points_of_the_text_are_not_markers(tokenizer, layer):
    texts = ["a\U000f0000b", "\U000ffff0[MASK]\U000ffff1", "[MA\U000f0004SK]", "\U000ffff2"]
    assert_same(layer(texts), tokenizer(texts, padding=True, return_tensors="tf"))


def test_overlapping_special_tokens_go_leftmost_longest(tmp_path):
    tokenizer = make_tokenizer(
        tmp_path,
        {"extra_special_tokens": ["<a>", "<a><b>", "><", "b><b", "no", "not", "\u00e9\u00e9"]},
    )
    texts = ["<a><b>", "x<a><a><b>x", "b><b>", "nothing no", "<a", "\u00e9" * 3, "n[MASK]ot"]
    assert_same(tokenizer.as_layer()(texts), tokenizer(texts, padding=True, return_tensors="tf"))


@pytest.mark.parametrize("lowercase", [True, False])
def test_surviving_marks_are_reordered_as_by_decomposition(lowercase):
    normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=True)
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    texts = [
        "a\u08d4\u1b44b",  # classes 230 and 9: swapped
        "a\u08d4\u0301\u1b44b",  # across a mark that is dropped
        "a\u08d4\u200b\u1b44b",  # across a deleted code point
        "a\u08d4\u093e\u1b44b",  # not across a starter
        "a\u08d4\u0901\u1b44b",  # not across a starter that is dropped
        "a\u08d4 \u1b44b",
        "\u1b44\u08d4\U0001d15f\u1b44\u302e",
    ]
    words = [[w for w, _ in split(normalizer.normalize_str(text))] for text in texts]
    assert words[0] == ["a\u1b44\u08d4b"]
    basic = BasicTokenizer(lowercase=lowercase, strip_accents=True)
    values, rows = basic.split(tf.constant(texts))
    actual = tf.RaggedTensor.from_value_rowids(values, rows, nrows=len(texts))
    assert [[word.decode() for word in row] for row in actual.to_list()] == words


text_strategy = st.lists(
    st.one_of(
        st.text(max_size=6),
        st.sampled_from(PIECES + SPECIALS + ["RIVER", "\u03a3", "\u0130", "\u1b44", "\u08d4", " "]),
        st.text(
            alphabet="\u0301\u0323\u0345\u08d4\u1b44\u302e\u00e5\uac01\u4e2d\uf900 a", max_size=5
        ),
        st.sampled_from([c for c in map(chr, range(0x2FFF)) if unicodedata.combining(c)]),
    ),
    max_size=8,
).map("".join)


@settings(max_examples=80, deadline=None)
@given(texts=st.lists(text_strategy, min_size=1, max_size=6))
def test_any_texts_equal_transformers(option_pairs, texts):
    for reference, layer in option_pairs:
        expected = reference(
            texts, padding=True, truncation=True, max_length=16, return_tensors="np"
        )
        assert_same(layer(texts), expected)


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(st.tuples(text_strategy, text_strategy), min_size=1, max_size=4))
def test_any_pairs_equal_transformers(option_pairs, pairs):
    texts, pair_texts = map(list, zip(*pairs, strict=True))
    for reference, layer in option_pairs:
        expected = reference(
            texts, pair_texts, padding=True, truncation=True, max_length=16, return_tensors="np"
        )
        assert_same(layer(texts, pair_texts), expected)


@pytest.mark.parametrize("truncation", STRATEGIES)
@pytest.mark.parametrize("max_length", [3, 5, 13])
def test_truncation_equals_transformers(tokenizer, truncation, max_length):
    """Also where transformers raises."""
    layer = tokenizer.as_layer(max_length, truncation=truncation, padding="max_length")
    cases = [(text,) for text in TEXTS] + list(zip(TEXTS, PAIR_TEXTS, strict=True))
    for texts in cases:
        rows = [[text] for text in texts]
        call = functools.partial(
            tokenizer, *rows, truncation=truncation, max_length=max_length, padding="max_length"
        )
        if is_too_short(call):
            with pytest.raises(tf.errors.InvalidArgumentError, match=truncation):
                layer(*rows)
        else:
            assert_same(layer(*rows), call(return_tensors="tf"))


def is_too_short(call):
    try:
        call()
    except Exception as error:  # the Rust library's errors have no class of their own
        if "Truncation error" not in str(error):
            raise
        return True
    return False


def test_shortest_length_holds_texts_but_no_pairs(tokenizer):
    layer = tokenizer.as_layer(2)
    assert_same(layer(["river", ""]), rows_by_hand("[CLS] [SEP]", "[CLS] [SEP]"))
    with pytest.raises(ValueError, match="a pair of texts needs 3 special tokens"):
        layer(["river"], ["stone"])


def test_rows_too_short_to_truncate_are_named(tokenizer):
    layer = tokenizer.as_layer(8, truncation="only_second")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"max_length=8:.*\[1 3\]"):
        layer(["river", "river " * 9, "walk", "river " * 6], ["a"] * 4)


def test_empty_batch(tokenizer, layer):
    empty = tf.zeros([0], tf.string)
    assert layer(empty)["input_ids"].shape == (0, 2)
    assert layer(empty, empty)["attention_mask"].shape == (0, 3)
    assert tokenizer.as_layer(7, padding="max_length")(empty)["input_ids"].shape == (0, 7)


@pytest.mark.parametrize("text", ["river", [["river"]], np.array("river")])
def test_texts_that_are_no_batch_are_refused(layer, text):
    with pytest.raises(ValueError, match="must be a batch of strings"):
        layer(text)


def test_pairs_of_different_batches_are_refused(layer):
    with pytest.raises(tf.errors.InvalidArgumentError, match="differ in length"):
        layer(["a", "b"], ["a"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 1}, "needs 2 special tokens"),
        ({"truncation": "middle"}, "truncation='middle' is not one of longest_first"),
        ({"padding": "left"}, "padding='left' is not one of longest, max_length"),
        ({"sep_token": "</s>"}, r"no ids for the special tokens \['</s>'\]"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        WordPieceTokenizer(IDS, **arguments)


def test_every_route_gives_the_same(tmp_path, tokenizer, layer):
    texts, pair_texts = tf.constant(TEXTS), tf.constant(PAIR_TEXTS)
    expected = layer(TEXTS)
    assert_same(layer(np.array(TEXTS)), expected)
    assert_same(tf.function(layer)(texts), expected)
    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(5).map(layer)
    assert_same(next(iter(dataset)), expected)

    text = keras.Input(shape=(), dtype="string")
    functional = keras.Model(text, layer(text))
    assert_same(functional(texts), expected)
    functional.save(tmp_path / "model.keras")
    assert_same(keras.models.load_model(tmp_path / "model.keras")(texts), expected)

    padded = tokenizer.as_layer(12, padding="max_length")
    pair = keras.Input(shape=(), dtype="string")
    functional = keras.Model([text, pair], padded(text, text_pair=pair))
    assert functional.output["input_ids"].shape == (None, 12)
    assert_same(functional([texts, pair_texts]), padded(TEXTS, PAIR_TEXTS))

    module = tf.Module()
    module.layer = layer
    spec = tf.TensorSpec([None], tf.string)
    module.encode = tf.function(layer, input_signature=[spec, spec])
    tf.saved_model.save(module, tmp_path / "written")
    (tmp_path / "written").rename(tmp_path / "elsewhere")
    reloaded = tf.saved_model.load(tmp_path / "elsewhere")
    assert_same(reloaded.encode(texts, pair_texts), layer(TEXTS, PAIR_TEXTS))


def test_real_vocabulary_equals_transformers(demo):
    tokenizer = DistilBertTokenizer.from_pretrained(demo)
    code_points = [c for c in range(0, 0x30000, 29) if not 0xD800 <= c < 0xE000]
    texts = [f"Rivers{chr(c)}unaffable {chr(c)}" for c in code_points]
    expected = tokenizer(texts, padding=True, return_tensors="tf")
    assert_same(tokenizer.as_layer()(texts), expected)
