"""Corpora prepared with Apache Beam are the same; run by `make beam`, where Beam is installed."""

import gzip
import json
import random
from pathlib import Path

import pytest

from distilbert_tf import cli
from distilbert_tf.data.corpus_records import MANIFEST, CorpusSettings, open_corpus
from distilbert_tf.data.corpus_writer import prepare_corpus
from distilbert_tf.data.file_formats import DataError
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

pytest.importorskip("apache_beam", reason="needs the extra `beam`")

from distilbert_tf.data.corpus_beam import prepare_corpus_with_beam

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "tea", "film", "was", "a", "the", ".")
SETTINGS = CorpusSettings(max_length=12, validation_share=0.1)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("vocabulary")
    (directory / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return directory


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory, chance = tmp_path_factory.mktemp("text"), random.Random(3)
    for name, count in (("a.txt", 30), ("b.txt", 1), ("c.txt", 45)):
        documents = [
            " ".join(chance.choices(WORDS[5:], k=chance.randint(3, 60))) for _ in range(count)
        ]
        (directory / name).write_text("\n\n".join(documents) + "\n")
    rows = (directory / "b.txt").read_text()
    (directory / "b.txt").unlink()
    lines = "".join(json.dumps({"text": rows}) + "\n" for _ in range(12))
    (directory / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_both_ways_give_the_same_files(vocabulary: Path, text: Path, tmp_path: Path) -> None:
    tokenizer = DistilBertTokenizer.from_pretrained(vocabulary)
    corpus = prepare_corpus(text / "*", tmp_path / "ours", tokenizer, SETTINGS, shard_tokens=200)
    shards = prepare_corpus_with_beam(
        [f"{text}/*"], f"{tmp_path}/beam", tokenizer, SETTINGS,
        options=["--runner=DirectRunner"], shard_tokens=200,
    )  # fmt: skip
    assert len(corpus.shards) > 10
    assert tuple(shards) == corpus.shards == open_corpus(tmp_path / "beam").shards
    assert contents(tmp_path / "beam") == contents(tmp_path / "ours")


def test_the_command(
    vocabulary: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--corpus={text}/*", f"--model={vocabulary}", "--max_length=12"]
    flags += ["--validation_share=0.1"]
    cli.main(["prepare-corpus", *flags, f"--output={tmp_path / 'ours'}"])
    ours = capsys.readouterr().out
    flags += [f"--output={tmp_path / 'beam'}", "--runner=DirectRunner", "--"]
    cli.main(["prepare-corpus", *flags, "--direct_num_workers=1"])
    beam = capsys.readouterr().out
    assert beam == ours.replace("/ours", "/beam")
    assert contents(tmp_path / "beam") == contents(tmp_path / "ours")
    with pytest.raises(SystemExit):
        cli.main(["prepare-corpus", *flags])
    assert "holds a prepared corpus" in capsys.readouterr().err


def test_what_fails_leaves_no_corpus(vocabulary: Path, text: Path, tmp_path: Path) -> None:
    tokenizer = DistilBertTokenizer.from_pretrained(vocabulary)
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"the tea .\n\xff\n")
    with pytest.raises(DataError, match="bad.txt, line 2: not UTF-8"):
        prepare_corpus_with_beam([str(text / "a.txt"), str(bad)], f"{tmp_path}/out", tokenizer)
    bad.write_text("the tea .\n")
    with pytest.raises(DataError, match="No document is held out: no file has 100 of them"):
        prepare_corpus_with_beam([str(bad)], f"{tmp_path}/out", tokenizer)
    with pytest.raises(FileNotFoundError, match="There is no file .*nowhere"):
        prepare_corpus_with_beam([f"{tmp_path}/nowhere*"], f"{tmp_path}/out", tokenizer)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert MANIFEST not in names
    assert not [name for name in names if name.startswith(".")]
