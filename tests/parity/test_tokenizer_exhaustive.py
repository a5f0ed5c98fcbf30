"""Full proofs that the in-graph tokenizer equals transformers', on all of Unicode and on fuzz.

Run with `pytest -m parity tests/parity/test_tokenizer_exhaustive.py`: a few minutes on two cores.
"""

import functools
import itertools
import unicodedata

import numpy as np
import pytest
import tensorflow as tf
import transformers
from tokenizers import normalizers, pre_tokenizers

from distilbert_tf.checkpoints.hub import demo_directory
from distilbert_tf.tokenizers.basic_tokenizer import BasicTokenizer
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.tokenizers.unicode_table import load_unicode_table

pytestmark = pytest.mark.parity

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
BATCH = 8192
NUM_FUZZ = 100_000
NUM_FUZZ_PER_OPTION = 10_000
NUM_PAIRS = 1_000
NUM_BYTE_STRINGS = 30_000
SENTINEL = "qz"  # a word that ends each row of a clean-up comparison
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OPTIONS = list(itertools.product((True, False), (True, False), (True, False)))
STRATEGIES = ("longest_first", "only_first", "only_second")


@pytest.fixture(scope="module")
def directory():
    try:
        return demo_directory()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def reference(directory):
    return transformers.DistilBertTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def tokenizer(directory):
    return DistilBertTokenizer.from_pretrained(directory)


def batches(items, size=BATCH):
    return (items[start : start + size] for start in range(0, len(items), size))


def find_mismatches(reference, layer, texts, max_length=512):
    """Texts whose ids differ."""
    mismatches = []
    for batch in batches(texts):
        expected = reference(batch, truncation=True, max_length=max_length)["input_ids"]
        actual = layer(tf.constant(batch))
        ids, mask = actual["input_ids"].numpy(), actual["attention_mask"].numpy()
        lengths = mask.sum(axis=1)
        padded = np.zeros_like(ids)
        for row, row_ids in enumerate(expected):
            padded[row, : len(row_ids)] = row_ids
            if len(row_ids) != lengths[row]:
                mismatches.append(batch[row])
        mismatches += [batch[row] for row in np.where((padded != ids).any(axis=1))[0]]
    return mismatches


@functools.cache
def fragment_pools():
    """Lists of fragments that fuzz texts are made of, one per kind of text."""
    categories = {c: unicodedata.category(chr(c)) for c in CODE_POINTS}
    scripts = [
        (0xA1, 0x250), (0x370, 0x400), (0x400, 0x500), (0x5D0, 0x5EB), (0x600, 0x700),
        (0x900, 0xE00), (0xE01, 0xE5C), (0x1100, 0x1200), (0x1E00, 0x2000), (0x3041, 0x3100),
        (0x4E00, 0x5000), (0xAC00, 0xAD00), (0xF900, 0xFB00), (0x1D100, 0x1D200),
        (0x1D400, 0x1D800),
    ]  # fmt: skip
    script_words = []
    rng = np.random.default_rng(1)
    for start, stop in scripts:
        for _ in range(40):
            size = rng.integers(1, 7)
            script_words.append("".join(map(chr, rng.integers(start, stop, size))))
    in_category = lambda *names: [chr(c) for c, name in categories.items() if name in names]  # noqa: E731
    table = load_unicode_table(lowercase=True, strip_accents=True)
    return [
        [chr(c) for c in CODE_POINTS],
        in_category("Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl", "No", "So", "Sm"),
        in_category("Mn", "Mc", "Me"),
        [chr(c) for c in table.marks] + ["\u0301", "\u0323", "\u093c", "\u1d15f", "\U0001d160"],
        in_category("Cc", "Cf", "Zs", "Zl", "Zp"),
        in_category("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sc", "Sk"),
        script_words,
        ["stone", "River", "UNAFFABLE", "walked", "wal", "ked", "antidisestablish", "2026", "x1"],
        [*SPECIALS, "[mask]", "[ MASK]", "[MASK", "MASK]", "[SEP][SEP]", "[[CLS]]", "##ing"],
        ["\U000f0000", "\U000ffff0", "\U000ffff1", "\U000ffff2", "\ue000", "\x00", "\ufffd"],
        ["\U0001f469\u200d\U0001f680", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f", "\U0001f44d"],
        ["a" * 99, "b" * 100, "c" * 101, "\u00e9" * 100, "e\u0301" * 100, "\u4e2d" * 3, "z" * 300],
        [" ", "  ", "\t", "\n", "\u00a0", "\u2028", "\u3000", "\u200b"],
    ]


def fuzz_texts(count, seed):
    rng = np.random.default_rng(seed)
    pools = fragment_pools()
    texts = []
    for _ in range(count):
        # A few kinds to a text, so that neighbours of one kind are common.
        kinds = rng.integers(0, len(pools), rng.integers(1, 4))
        joiner = ("", "", " ")[rng.integers(3)]
        fragments = []
        for kind in rng.choice(kinds, rng.integers(0, 14)):
            pool = pools[kind]
            fragments.append(pool[rng.integers(len(pool))])
        texts.append(joiner.join(fragments))
    return texts


def clean_up_functions(lowercase, strip_accents, chinese):
    """Functions from rows to words, flattened: the library's and this package's."""
    normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=chinese,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    basic = BasicTokenizer(
        lowercase=lowercase, strip_accents=strip_accents, tokenize_chinese_chars=chinese
    )
    split = tf.function(
        lambda texts: basic.split(texts)[0], input_signature=[tf.TensorSpec([None], tf.string)]
    )

    def expected(rows):
        text = normalizer.normalize_str("".join(f"{row} {SENTINEL} " for row in rows))
        return [word.encode() for word, _ in pre_tokenizer.pre_tokenize_str(text)]

    def actual(rows):
        return split(tf.constant([f"{row} {SENTINEL}" for row in rows])).numpy().tolist()

    return expected, actual


@pytest.mark.parametrize(("lowercase", "strip_accents", "chinese"), OPTIONS)
def test_words_of_every_code_point(lowercase, strip_accents, chinese):
    expected, actual = clean_up_functions(lowercase, strip_accents, chinese)
    for chunk in batches(CODE_POINTS):
        rows = [f"{chr(c)} a{chr(c)}b" for c in chunk]
        assert actual(rows) == expected(rows), f"in U+{chunk[0]:04X}..U+{chunk[-1]:04X}"


@pytest.mark.parametrize(("lowercase", "strip_accents", "chinese"), OPTIONS)
def test_words_of_fuzz(lowercase, strip_accents, chinese):
    expected, actual = clean_up_functions(lowercase, strip_accents, chinese)
    for chunk in batches(fuzz_texts(NUM_FUZZ_PER_OPTION, seed=2), 500):
        # Without special tokens of its own, this is the clean-up alone.
        assert actual(chunk) == expected(chunk)


@pytest.mark.parametrize("template", ["{}", "a{}b"])
def test_ids_of_every_code_point(reference, tokenizer, template):
    layer = tokenizer.as_layer()
    assert find_mismatches(reference, layer, [template.format(chr(c)) for c in CODE_POINTS]) == []


def test_ids_of_fuzz(reference, tokenizer):
    assert find_mismatches(reference, tokenizer.as_layer(), fuzz_texts(NUM_FUZZ, seed=3)) == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ids_of_pairs(reference, tokenizer, strategy):
    texts = fuzz_texts(2 * NUM_PAIRS, seed=4)
    firsts, seconds = texts[:NUM_PAIRS], texts[NUM_PAIRS:]
    num_first, num_second = (
        np.array([len(ids) for ids in reference(side, add_special_tokens=False)["input_ids"]])
        for side in (firsts, seconds)
    )
    for max_length in (3, 4, 5, 6, 7, 8, 11, 16, 31, 64, 128, 512):
        excess = np.maximum(num_first + num_second + 3 - max_length, 0)
        target = num_first if strategy == "only_first" else num_second
        possible = (strategy == "longest_first") | (max_length == 3) | (excess == 0)
        rows = np.where(possible | (excess < target))[0]
        chosen = [firsts[row] for row in rows], [seconds[row] for row in rows]
        expected = reference(
            *chosen, truncation=strategy, max_length=max_length, padding=True, return_tensors="np"
        )
        actual = tokenizer.as_layer(max_length, truncation=strategy)(*chosen)
        for name in ("input_ids", "attention_mask"):
            np.testing.assert_array_equal(actual[name], expected[name], f"{name} {max_length}")


def test_ids_of_invalid_utf8(reference, tokenizer):
    rng = np.random.default_rng(5)
    lead_and_trail = [0x41, 0x20, 0x80, 0xBF, 0xC0, 0xC3, 0xE0, 0xE2, 0xED, 0xF0, 0xF4, 0xF5, 0xFF]
    byte_strings = [
        bytes(rng.integers(0, 256, rng.integers(0, 30)).astype(np.uint8))
        if i % 3
        else bytes(rng.choice(lead_and_trail, rng.integers(0, 30)).astype(np.uint8)) + b"[SEP]\xc3"
        for i in range(NUM_BYTE_STRINGS)
    ]
    texts = [text.decode("utf-8", errors="replace") for text in byte_strings]
    layer = tokenizer.as_layer()
    for chunk, decoded in zip(batches(byte_strings), batches(texts), strict=True):
        expected = reference(decoded, padding=True, return_tensors="np")
        actual = layer(tf.constant(chunk))
        np.testing.assert_array_equal(actual["input_ids"], expected["input_ids"])
