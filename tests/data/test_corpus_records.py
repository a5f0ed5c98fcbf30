"""Prepared corpora: what is in the records, and what interrupted or changed ones come to."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import tensorflow as tf

from distilbert_tf.data.corpus_records import (
    MANIFEST,
    TRAIN,
    VALIDATION,
    Corpus,
    CorpusSettings,
    open_corpus,
)
from distilbert_tf.data.corpus_writer import prepare_corpus
from distilbert_tf.data.file_formats import DataError
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

WORDS = ("tea", "film", "song", "room", "walk", "book", "meal", "talk", "the", "was", ".")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CLS, SEP = 2, 3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> DistilBertTokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    (directory / "vocab.txt").write_text("\n".join((*SPECIAL, *WORDS)) + "\n")
    return DistilBertTokenizer.from_pretrained(directory)


def make_documents(seed: int, count: int) -> list[str]:
    chance = random.Random(seed)

    def sentence() -> str:
        return " ".join(chance.choices(WORDS[:-1], k=chance.randint(1, 9))).capitalize() + "."

    return [
        "\n".join(
            " ".join(sentence() for _ in range(chance.randint(1, 4)))
            for _ in range(chance.randint(1, 3))
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("text")
    for name, seed, count in (("a.txt", 1, 60), ("b.txt", 2, 45)):
        (directory / name).write_text("\n\n".join(make_documents(seed, count)) + "\n")
    return [directory / "a.txt", directory / "b.txt"]


def read_rows(corpus: Corpus, split: str) -> list[list[int]]:
    records = tf.data.TFRecordDataset(corpus.paths(split)).as_numpy_iterator()
    return [np.frombuffer(record, corpus.dtype).tolist() for record in records]


SETTINGS = CorpusSettings(max_length=16, validation_share=0.1)


def test_records_hold_every_word_once(
    files: list[Path], tokenizer: DistilBertTokenizer, tmp_path: Path
) -> None:
    corpus = prepare_corpus(files, tmp_path, tokenizer, SETTINGS, shard_tokens=500)
    documents = [path.read_text().split("\n\n") for path in files]
    for split, is_own in ((VALIDATION, lambda i: i % 10 == 9), (TRAIN, lambda i: i % 10 != 9)):
        texts = [text for texts in documents for i, text in enumerate(texts) if is_own(i)]
        expected = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        rows = read_rows(corpus, split)
        assert [t for row in rows for t in row[1:-1]] == [t for ids in expected for t in ids]
        assert {(row[0], row[-1]) for row in rows} == {(CLS, SEP)}
        assert max(map(len, rows)) <= 16
        assert corpus.rows(split) == len(rows)
        assert corpus.tokens(split) == sum(map(len, rows))
    assert len(corpus.shards) > 8
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [MANIFEST, *(shard.name for shard in corpus.shards)]
    )


@pytest.mark.slow
def test_processes_and_interruptions_change_nothing(
    files: list[Path], tokenizer: DistilBertTokenizer, tmp_path: Path
) -> None:
    """Killed after a few shards, and finished by two processes."""
    whole = prepare_corpus(files, tmp_path / "whole", tokenizer, SETTINGS, shard_tokens=100)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    script = (
        "import sys, time\n"
        "from distilbert_tf import CorpusSettings, DistilBertTokenizer, prepare_corpus\n"
        "directory, tokenizer, *files = sys.argv[1:]\n"
        "split_of = CorpusSettings.split_of\n"
        "def slowly(self, document):\n"
        "    time.sleep(0.02)\n"
        "    return split_of(self, document)\n"
        "CorpusSettings.split_of = slowly\n"
        "prepare_corpus(files, directory, DistilBertTokenizer.from_pretrained(\n"
        "    tokenizer), CorpusSettings(16, 0.1), shard_tokens=100)\n"
    )
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", script, killed, tmp_path / "tokenizer", *files],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline_s = time.monotonic() + 60
    while len(list(killed.glob("*.tfrecord"))) < 4 and time.monotonic() < deadline_s:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    processes.finish(process, -signal.SIGKILL)
    assert not (killed / MANIFEST).exists()
    with pytest.raises(FileNotFoundError, match="holds no prepared corpus"):
        open_corpus(killed)
    resumed = prepare_corpus(files, killed, tokenizer, SETTINGS, num_processes=2, shard_tokens=100)
    assert resumed.shards == whole.shards
    for shard in whole.shards:
        ours, theirs = (corpus.directory / shard.name for corpus in (resumed, whole))
        assert ours.read_bytes() == theirs.read_bytes()
    assert {path.name for path in killed.iterdir()} == {
        MANIFEST, *(shard.name for shard in whole.shards)
    }  # fmt: skip


def test_a_prepared_corpus_is_not_prepared_again(
    files: list[Path], tokenizer: DistilBertTokenizer, tmp_path: Path
) -> None:
    first = prepare_corpus(files, tmp_path, tokenizer, SETTINGS)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert prepare_corpus(files, tmp_path, tokenizer, SETTINGS) == first == open_corpus(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


def test_patterns_name_files_in_order(
    files: list[Path], tokenizer: DistilBertTokenizer, tmp_path: Path
) -> None:
    corpus = prepare_corpus(files[0].parent / "*.txt", tmp_path, tokenizer, SETTINGS)
    assert [source["name"] for source in corpus.sources] == ["a.txt", "b.txt"]


ALL_FOR_TRAINING = CorpusSettings(16, validation_share=0.0)


def prepare_one_sentence(text: Path, directory: Path, tokenizer: DistilBertTokenizer) -> Corpus:
    text.write_text("The tea.\n")
    return prepare_corpus([text], directory, tokenizer, ALL_FOR_TRAINING)


def test_text_is_read_again_only_if_its_size_or_time_changed(
    tokenizer: DistilBertTokenizer, tmp_path: Path
) -> None:
    text, directory, settings = tmp_path / "a.txt", tmp_path / "corpus", ALL_FOR_TRAINING
    corpus = prepare_one_sentence(text, directory, tokenizer)
    time_ns = text.stat().st_mtime_ns
    text.write_text("The tee.\n")
    os.utime(text, ns=(time_ns, time_ns))
    assert prepare_corpus([text], directory, tokenizer, settings) == corpus
    os.utime(text, ns=(time_ns, time_ns + 1))
    with pytest.raises(DataError, match="a.txt has changed"):
        prepare_corpus([text], directory, tokenizer, settings)
    text.write_text("The tea.\n")  # only touched
    assert prepare_corpus([text], directory, tokenizer, settings) == corpus


def test_a_log_file_gets_one_line_at_the_end(
    files: list[Path],
    tokenizer: DistilBertTokenizer,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And one every ten seconds before."""
    with caplog.at_level("INFO", logger="absl"):
        prepare_corpus(files, tmp_path, tokenizer, SETTINGS)
    assert "Preparing" not in capfd.readouterr().err
    (line,) = (record.getMessage() for record in caplog.records)
    assert re.match(r"Preparing the corpus: .*k tokens .*, files=2/2\]", line)


def test_a_mended_file_is_prepared_again_and_no_other(
    tokenizer: DistilBertTokenizer, tmp_path: Path
) -> None:
    good, bad, directory = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "corpus"
    good.write_text("The tea.\n")
    bad.write_bytes(b"A film. " * 20 + b"\n\nSong.\n\n\xff\n")
    arguments = ([good, bad], directory, tokenizer, CorpusSettings(16, validation_share=0.0))
    with pytest.raises(DataError, match="b.txt, line 5: not UTF-8"):
        prepare_corpus(*arguments, shard_tokens=20)
    first = directory / "train-00000-00000.tfrecord"
    time_ns = first.stat().st_mtime_ns
    bad.write_text("Song.\n")
    corpus = prepare_corpus(*arguments, shard_tokens=20)
    assert len(read_rows(corpus, TRAIN)) == 2
    assert first.stat().st_mtime_ns == time_ns
    assert {path.name for path in directory.iterdir()} == {
        MANIFEST, *(shard.name for shard in corpus.shards)
    }  # fmt: skip


def test_what_a_corpus_was_prepared_from_may_not_change(
    tokenizer: DistilBertTokenizer, tmp_path: Path
) -> None:
    text, directory, settings = tmp_path / "a.txt", tmp_path / "corpus", ALL_FOR_TRAINING
    corpus = prepare_one_sentence(text, directory, tokenizer)
    with pytest.raises(ValueError, match="prepared with another settings: .*'max_length': 16"):
        prepare_corpus([text], directory, tokenizer, CorpusSettings(8, validation_share=0.0))
    text.write_text("The tee.\n")
    with pytest.raises(DataError, match="prepared from other text: a.txt has changed, is new"):
        prepare_corpus([text], directory, tokenizer, settings)
    shard = directory / corpus.shards[0].name
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{shard.name} has \d+ bytes instead of \d+: delete"):
        open_corpus(directory)
    shard.unlink()
    with pytest.raises(DataError, match=f"{shard.name} is missing"):
        open_corpus(directory)
    manifest = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(json.dumps(manifest | {"format": 0}))
    with pytest.raises(DataError, match="of another release"):
        open_corpus(directory)
    (directory / MANIFEST).write_text("{")
    with pytest.raises(DataError, match="manifest.json is damaged .*: delete"):
        open_corpus(directory)


@pytest.mark.parametrize(
    ("content", "settings", "error", "message"),
    [
        (b"", {"validation_share": 0.0}, DataError, "There is no text in"),
        (b"\n \n\n", {"validation_share": 0.0}, DataError, "There is no text in"),
        (b"One.\n\nTwo.\n", {}, DataError, "No document is held out: no file has 100 of them"),
        (b"One.\n\xff\n", {}, DataError, "line 2: not UTF-8"),
        (b"One.\n", {"max_length": 2}, ValueError, "max_length is 2"),
        (b"One.\n", {"validation_share": 0.6}, ValueError, "validation_share is 0.6"),
    ],
)
def test_bad_input_leaves_no_corpus(
    tokenizer: DistilBertTokenizer,
    tmp_path: Path,
    content: bytes,
    settings: dict,
    error: type[Exception],
    message: str,
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(error, match=message):
        prepare_corpus(
            [tmp_path / "a.txt"], tmp_path / "corpus", tokenizer, CorpusSettings(**settings)
        )
    assert not list(tmp_path.glob(f"corpus/{MANIFEST}"))
    assert not list(tmp_path.glob("corpus/.*"))


def test_more_can_be_held_out_where_none_was(
    tokenizer: DistilBertTokenizer, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("One.\n\nTwo.\n")
    with pytest.raises(DataError, match="choose a larger validation_share"):
        prepare_corpus([tmp_path / "a.txt"], tmp_path / "corpus", tokenizer)
    settings = CorpusSettings(validation_share=0.5)
    corpus = prepare_corpus([tmp_path / "a.txt"], tmp_path / "corpus", tokenizer, settings)
    assert corpus.rows("validation") == 1


def test_other_files_are_left_alone(
    files: list[Path], tokenizer: DistilBertTokenizer, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds other files; choose an empty directory"):
        prepare_corpus(files, tmp_path, tokenizer, SETTINGS)
    with pytest.raises(FileNotFoundError, match="There is no file missing.txt"):
        prepare_corpus(["missing.txt"], tmp_path / "new", tokenizer, SETTINGS)
