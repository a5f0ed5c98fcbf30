"""DistilBertTokenizer: TensorFlow tensors, what directories hold, and its layer."""

import json

import numpy as np
import pytest
import tensorflow as tf
import transformers
from tokenizers import AddedToken, Tokenizer

from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["river", "River", "stone", "##stone", "##s", "walk", "caf\u00e9", "cafe", "\u4e2d", "!"]
WORDS += ["a", "##\u4e2d", "##a", "##b"]
TEXTS = ["River, Stones!", "Caf\u00e9 cafe\u0301", "a\u4e2da river[MASK]s", "", "walk <e1>[E2] a"]


def write(directory, words=(*SPECIALS, *WORDS), **config):
    (directory / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    if config:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def assert_layer_equals_transformers(directory, texts=TEXTS):
    """The reference is transformers' own class, read from the same directory."""
    reference = transformers.DistilBertTokenizer.from_pretrained(directory)
    tokenizer = DistilBertTokenizer.from_pretrained(directory)
    pair_texts = texts[::-1]
    for arguments in [(texts,), (texts, pair_texts)]:
        expected = reference(*arguments, padding=True, return_tensors="np")
        for actual in (
            tokenizer(*arguments, padding=True, return_tensors="tf"),
            tokenizer.as_layer()(*arguments),
        ):
            assert list(actual) == ["input_ids", "attention_mask"]
            for name in actual:
                np.testing.assert_array_equal(actual[name], expected[name])
    return tokenizer


def test_tensorflow_tensors(tmp_path):
    tokenizer = DistilBertTokenizer.from_pretrained(write(tmp_path))
    single = tokenizer("river stones", return_tensors="tf")
    assert isinstance(single, transformers.BatchEncoding)
    assert single["input_ids"].dtype == single["attention_mask"].dtype == tf.int32
    assert single.input_ids.numpy().tolist() == [[2, 5, 7, 9, 3]]
    pair = tokenizer("river", "walk", return_tensors="tf")
    assert pair.input_ids.numpy().tolist() == [[2, 5, 3, 10, 3]]
    batch = tokenizer(["river", "a walk a"], padding=True, return_tensors="tf")
    assert batch.input_ids.numpy().tolist() == [[2, 5, 3, 0, 0], [2, 15, 10, 15, 3]]
    assert batch.attention_mask.numpy().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    cut = tokenizer(
        ["river walk", "a"], ["a a a"] * 2, max_length=6, truncation=True, padding="max_length",
        return_tensors="tf",
    )  # fmt: skip
    assert cut.input_ids.numpy().tolist() == [[2, 5, 3, 15, 15, 3], [2, 15, 3, 15, 15, 3]]
    assert tokenizer.encode("river", return_tensors="tf").numpy().tolist() == [[2, 5, 3]]
    encodings = [tokenizer("river"), tokenizer("a a")]
    padded = tokenizer.pad(encodings, return_tensors="tf")
    assert padded.input_ids.numpy().tolist() == [[2, 5, 3, 0], [2, 15, 15, 3]]
    assert padded.input_ids.dtype == tf.int32


def test_other_return_types_are_transformers_own(tmp_path):
    tokenizer = DistilBertTokenizer.from_pretrained(write(tmp_path))
    assert tokenizer("river") == {"input_ids": [2, 5, 3], "attention_mask": [1, 1, 1]}
    assert isinstance(tokenizer("river", return_tensors="np")["input_ids"], np.ndarray)
    assert tokenizer.encode("river") == [2, 5, 3]
    assert tokenizer.pad({"input_ids": [[2, 3]]}, padding="max_length", max_length=3) == {
        "input_ids": [[2, 3, 0]],
        "attention_mask": [[1, 1, 0]],
    }


def test_uneven_rows_make_no_tensor(tmp_path):
    tokenizer = DistilBertTokenizer.from_pretrained(write(tmp_path))
    with pytest.raises(ValueError, match=r"rows of input_ids differ in length.*padding=True"):
        tokenizer(["river", "river river"], return_tensors="tf")


def test_truncation_and_padding_of_a_directory_do_not_leak(tmp_path):
    directory = write(
        tmp_path,
        tokenizer_class="BertTokenizer",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=77,
        max_length=9,
        truncation_strategy="only_first",
    )
    backend = DistilBertTokenizer.from_pretrained(directory).backend_tokenizer
    backend.enable_truncation(4)
    backend.enable_padding(length=6)
    backend.save(str(directory / "tokenizer.json"))
    assert Tokenizer.from_file(str(directory / "tokenizer.json")).truncation is not None
    tokenizer = assert_layer_equals_transformers(directory, ["river walk stones a a a", "a"])
    fresh = DistilBertTokenizer.from_pretrained(directory)
    assert fresh.backend_tokenizer.truncation is None
    assert fresh.backend_tokenizer.padding is None
    assert len(fresh.backend_tokenizer.encode("a " * 20).ids) == 22
    assert list(tokenizer("river")) == ["input_ids", "attention_mask"]
    assert tokenizer.model_max_length == tokenizer.as_layer().max_length == 77
    fresh.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer.json").read_text())
    assert saved["truncation"] is saved["padding"] is None


def test_only_a_tokenizer_json(tmp_path):
    DistilBertTokenizer.from_pretrained(write(tmp_path)).save_pretrained(tmp_path / "saved")
    only = tmp_path / "only"
    only.mkdir()
    (tmp_path / "saved" / "tokenizer.json").rename(only / "tokenizer.json")
    assert assert_layer_equals_transformers(only)("river stones").input_ids == [2, 5, 7, 9, 3]


def test_a_directory_without_vocabulary_is_refused(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"has no vocab\.txt or tokenizer\.json"):
        DistilBertTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"do_lower_case": False, "tokenize_chinese_chars": False},
        {"extra_special_tokens": ["<e1>", "[E2]"]},
        {"additional_special_tokens": ["<e1>", "[E2]"]},
        {
            "added_tokens_decoder": {
                "19": {"content": "<e1>", "special": True, "lstrip": True, "rstrip": True,
                       "normalized": False, "single_word": False},
                "20": {"content": "iver", "special": False, "lstrip": False, "rstrip": False,
                       "normalized": False, "single_word": False},
            }
        },
    ],
)  # fmt: skip
def test_configured_clean_up_and_tokens(tmp_path, config):
    assert_layer_equals_transformers(write(tmp_path, **config))


def test_custom_special_tokens(tmp_path):
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    names["mask_token"] = "<mask>"
    directory = write(tmp_path, ["river", *names.values(), "stone", "##s"], **names)
    texts = ["river<mask>s walk", "[MASK] </s>", "<PAD>"]
    tokenizer = assert_layer_equals_transformers(directory, texts)
    actual = tokenizer.as_layer()(["river", "rivers <mask>"])["input_ids"]
    assert actual.numpy().tolist() == [[3, 0, 4, 1, 1], [3, 0, 7, 5, 4]]


def test_tokens_added_later(tmp_path):
    tokenizer = DistilBertTokenizer.from_pretrained(write(tmp_path))
    tokenizer.add_tokens([AddedToken("<e1>", normalized=False)])
    tokenizer.add_special_tokens({"extra_special_tokens": ["[E2]"]})
    expected = tokenizer(TEXTS, padding=True, return_tensors="tf")
    actual = tokenizer.as_layer()(TEXTS)
    np.testing.assert_array_equal(actual["input_ids"], expected["input_ids"])
    assert len(tokenizer) - 1 in actual["input_ids"].numpy()


def test_split_special_tokens(tmp_path):
    tokenizer = DistilBertTokenizer.from_pretrained(write(tmp_path), split_special_tokens=True)
    expected = tokenizer(TEXTS, padding=True, return_tensors="tf")
    assert tokenizer.mask_token_id not in expected["input_ids"].numpy()
    np.testing.assert_array_equal(tokenizer.as_layer()(TEXTS)["input_ids"], expected["input_ids"])


def test_layers_of_settings_that_the_graph_lacks_are_refused(tmp_path):
    directory = write(tmp_path)
    for side in ("padding_side", "truncation_side"):
        tokenizer = DistilBertTokenizer.from_pretrained(directory, **{side: "left"})
        with pytest.raises(ValueError, match=f"{side}='right'"):
            tokenizer.as_layer()
    tokenizer = DistilBertTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(["riverbed"])
    with pytest.raises(ValueError, match="cannot match 'riverbed'"):
        tokenizer.as_layer()


def test_default_max_length(tmp_path):
    tokenizer = DistilBertTokenizer.from_pretrained(write(tmp_path))
    assert tokenizer.as_layer().max_length == 512
    assert tokenizer.as_layer(17).max_length == 17
    with pytest.raises(ValueError, match="max_length=0"):
        tokenizer.as_layer(0)


def test_old_names_of_the_call(tmp_path):
    tokenizer = DistilBertTokenizer.from_pretrained(write(tmp_path))
    single = tokenizer.encode_plus("river", "walk", return_tensors="tf")
    assert single.input_ids.numpy().tolist() == [[2, 5, 3, 10, 3]]
    batch = tokenizer.batch_encode_plus(["river", "a a"], padding=True)
    assert batch["input_ids"] == [[2, 5, 3, 0], [2, 15, 15, 3]]


def test_texts_in_arrays_and_tensors(tmp_path):
    tokenizer = DistilBertTokenizer.from_pretrained(write(tmp_path))
    expected = tokenizer(TEXTS, TEXTS[::-1], padding=True)
    for form in (np.array, tf.constant, lambda texts: np.array(texts, object)):
        assert tokenizer(form(TEXTS), form(TEXTS[::-1]), padding=True) == expected
        assert tokenizer(text=form(TEXTS), text_pair=form(TEXTS[::-1]), padding=True) == expected
    assert tokenizer(tf.constant("river")) == tokenizer("river")


class TestDecoding:
    ROWS = ((2, 5, 7, 3), (2, 10, 3, 0))

    @pytest.mark.parametrize(
        "form", [list, np.array, tf.constant, lambda rows: tf.ragged.constant(rows)]
    )
    def test_rows(self, form, tmp_path):
        tokenizer = DistilBertTokenizer.from_pretrained(write(tmp_path))
        rows = form(self.ROWS)
        texts = ["[CLS] river stone [SEP]", "[CLS] walk [SEP] [PAD]"]
        assert tokenizer.batch_decode(rows) == tokenizer.decode(rows) == texts
        bare = tokenizer.batch_decode(rows, skip_special_tokens=True)
        assert bare == ["river stone", "walk"]

    def test_one_row_and_one_id(self, tmp_path):
        tokenizer = DistilBertTokenizer.from_pretrained(write(tmp_path))
        for form in (list, np.array, tf.constant):
            assert tokenizer.decode(form([2, 5, 8, 3])) == "[CLS] riverstone [SEP]"
        assert tokenizer.decode(tf.constant(5)) == tokenizer.decode(5) == "river"


class TestCellsThatAreNoText:
    CELLS = (
        (None, TypeError, "is None, not a string"),
        (float("nan"), TypeError, "is NaN, a missing value, not a string"),
        (7, TypeError, "is 7, of type int, not a string"),
        (b"river", ValueError, "is bytes, not a string; decode them"),
        (b"a\xe9", ValueError, r"is bytes that are not UTF-8 \(unexpected end of data at byte 1\)"),
        ("a\ud800", ValueError, "is not Unicode, but holds half of a surrogate pair"),
    )

    @pytest.fixture
    def tokenizer(self, tmp_path):
        return DistilBertTokenizer.from_pretrained(write(tmp_path))

    @pytest.mark.parametrize(("cell", "kind", "fault"), CELLS)
    def test_the_row_is_named(self, cell, kind, fault, tokenizer):
        message = rf"^The text of row 2 \(from 0\) {fault}: give a string for every row"
        for texts in (["a", "b", cell], np.array(["a", "b", cell], object), ("a", "b", cell)):
            with pytest.raises(kind, match=message):
                tokenizer(texts)
        message = rf"^The text_pair of row 1 \(from 0\) {fault}"
        with pytest.raises(kind, match=message):
            tokenizer(["a", "b"], ["a", cell])
        with pytest.raises(kind, match=message):
            tokenizer(text=["a", "b"], text_pair=["a", cell])
        with pytest.raises(kind, match=rf"^The text of row 1 \(from 0\) {fault}"):
            tokenizer([("a", "b"), ("a", cell)])
        with pytest.raises(TypeError, match=rf"^The text {fault}\."):
            tokenizer(cell)

    @pytest.mark.parametrize(("cell", "kind", "fault"), CELLS[:3])
    def test_in_the_layer(self, cell, kind, fault, tokenizer):
        layer = tokenizer.as_layer()
        for texts in (["a", "b", cell], np.array(["a", "b", cell], object)):
            with pytest.raises(kind, match=rf"The text of row 2 \(from 0\) {fault}"):
                layer(texts)

    def test_no_texts(self, tokenizer):
        with pytest.raises(ValueError, match="There is no text: the list is empty"):
            tokenizer([])

    def test_bytes_in_a_tensor(self, tokenizer):
        with pytest.raises(ValueError, match=r"The text of row 1 \(from 0\) is bytes that are not"):
            tokenizer(tf.constant([b"a", b"a\xe9"]))


@pytest.mark.parametrize("missing", SPECIALS)
def test_a_vocabulary_without_its_special_tokens_is_refused(missing, tmp_path):
    words = [word for word in (*SPECIALS, *WORDS) if word != missing]
    directory = write(tmp_path, words)
    name = {"[UNK]": "unk", "[CLS]": "cls", "[SEP]": "sep", "[PAD]": "pad", "[MASK]": "mask"}
    message = rf"vocab\.txt lacks special tokens: \{missing}\. .*such as {name[missing]}_token="
    with pytest.raises(ValueError, match=message):
        DistilBertTokenizer.from_pretrained(directory)
    if missing == "[MASK]":
        tokenizer = DistilBertTokenizer.from_pretrained(directory, mask_token=None)
        assert len(tokenizer) == len(words)
    if missing == "[CLS]":
        tokenizer = DistilBertTokenizer.from_pretrained(directory, cls_token="!")
        assert tokenizer("a")["input_ids"][0] == words.index("!")


def test_a_token_that_was_added_to_the_files_will_do(tmp_path):
    added = {str(4 + len(WORDS)): {"content": "[MASK]", "special": True}}
    directory = write(tmp_path, [*SPECIALS[:4], *WORDS], added_tokens_decoder=added)
    tokenizer = DistilBertTokenizer.from_pretrained(directory)
    assert tokenizer.mask_token_id == 4 + len(WORDS)
    tokenizer.save_pretrained(tmp_path / "new")
    again = DistilBertTokenizer.from_pretrained(tmp_path / "new")
    assert again("river[MASK]") == tokenizer("river[MASK]")


def test_a_saved_directory_holds_the_vocabulary_in_both_formats(tmp_path):
    directory = write(tmp_path, do_lower_case=False)
    tokenizer = DistilBertTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(["<e1>"])
    files = tokenizer.save_pretrained(tmp_path / "saved")
    assert str(tmp_path / "saved/vocab.txt") in files
    saved = (tmp_path / "saved/vocab.txt").read_text(encoding="utf-8")
    assert saved == (directory / "vocab.txt").read_text(encoding="utf-8")
    again = DistilBertTokenizer.from_pretrained(tmp_path / "saved")
    assert again(TEXTS) == tokenizer(TEXTS)
    (tmp_path / "saved/tokenizer.json").unlink()
    assert DistilBertTokenizer.from_pretrained(tmp_path / "saved")("River")["input_ids"] == [
        2,
        6,
        3,
    ]
