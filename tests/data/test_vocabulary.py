"""Trained vocabularies: what is in them, and that both tokenizers read them alike."""

import json
from pathlib import Path

import pytest
import tensorflow as tf

from distilbert_tf import cli
from distilbert_tf.data.file_formats import DataError
from distilbert_tf.data.vocabulary import SPECIAL_TOKENS, train_vocabulary
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

WORDS = ("Tea", "FILM", "song", "Café", "walking", "walked", "talking", "talked", "room", "zoo")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    lines = [" ".join(WORDS[i:] + WORDS[:i]) + "." for i in range(len(WORDS))]
    path.write_text("\n\n".join(lines) + "\nA rare ☃ and 中文 in the end\n", encoding="utf-8")
    return path


def words_of(directory: Path) -> list[str]:
    return (directory / "vocab.txt").read_text(encoding="utf-8").splitlines()


def test_both_tokenizers_read_it_alike(text: Path, tmp_path: Path) -> None:
    size = train_vocabulary(text, tmp_path / "new", vocab_size=120)
    words = words_of(tmp_path / "new")
    assert len(words) == size == len(set(words))
    assert tuple(words[:5]) == SPECIAL_TOKENS
    assert {word.lower() for word in WORDS} - {"café"} | {"cafe", "##ing", "."} <= set(words)
    tokenizer = DistilBertTokenizer.from_pretrained(tmp_path / "new")
    assert tokenizer.get_vocab() == {word: number for number, word in enumerate(words)}
    assert tokenizer.tokenize("CAFÉ walking. [MASK]") == ["cafe", "walking", ".", "[MASK]"]
    texts = ["Talked in the Café-Room…", "ROOMS walk 中文文 zoé\u0301 ☃ [SEP] q", "", "ten teas."]
    ids = tokenizer(texts)["input_ids"]
    assert any(tokenizer.unk_token_id in row for row in ids)
    encoded = tokenizer.as_layer(max_length=64)(tf.constant(texts))
    rows = tf.ragged.boolean_mask(encoded["input_ids"], encoded["attention_mask"] == 1)
    assert rows.to_list() == ids
    # With vocab.txt alone it is the same tokenizer.
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "new" / name).unlink()
    assert DistilBertTokenizer.from_pretrained(tmp_path / "new")(texts)["input_ids"] == ids


def test_the_same_text_gives_the_same_vocabulary(text: Path, tmp_path: Path) -> None:
    """Of words that are all equally frequent, and so of nothing but ties."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"body": text.read_text(encoding="utf-8")}) + "\n")
    for number in range(4):
        train_vocabulary(
            rows, tmp_path / str(number), vocab_size=60, text_column="body", limit_alphabet=18
        )
    first, *others = (words_of(tmp_path / str(number)) for number in range(4))
    assert others == [first] * 3
    alphabet = first[5 + 18 : 5 + 36]
    assert alphabet == sorted(alphabet)
    assert [f"##{character}" for character in alphabet] == first[5 : 5 + 18]
    assert "☃" not in alphabet
    assert len(first) == 60


def test_the_command(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["vocab", f"--corpus={text.parent}/*.txt", f"--output={tmp_path / 'new'}"]
    cli.main([*flags, "--vocab_size=60"])
    assert f"60 words, saved in {tmp_path / 'new'}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main([*flags, "--vocab_size=60"])
    assert "new is there already: choose an empty directory" in capsys.readouterr().err


def test_what_makes_no_vocabulary_is_refused(text: Path, tmp_path: Path) -> None:
    empty, new = tmp_path / "empty.txt", tmp_path / "new"
    empty.write_text("\n \n")
    with pytest.raises(DataError, match="There is no text in .*empty.txt"):
        train_vocabulary(empty, new)
    with pytest.raises(ValueError, match=r"vocab_size is 40: 5 special tokens and \d+ characters"):
        train_vocabulary(text, new, vocab_size=40)
    with pytest.raises(FileNotFoundError, match="There is no file .*nowhere"):
        train_vocabulary(tmp_path / "nowhere.txt", new)
    assert list(tmp_path.iterdir()) == [empty]
