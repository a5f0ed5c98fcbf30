"""A corpus as token ids on disk: prepared once, then read by every run.

A prepared corpus is a directory of TFRecord shards and `manifest.json`. A record is one row of
consecutive sentences with [CLS] and [SEP], as little-endian integers: unsigned ones of 2 bytes,
or signed ones of 4 if the vocabulary needs them. Held-out documents are in shards of their own.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tokenizers
from transformers import PreTrainedTokenizerBase

from distilbert_tf.data.corpus import pack_document, split_sentences
from distilbert_tf.data.file_formats import DataError

MANIFEST = "manifest.json"
TRAIN, VALIDATION = "train", "validation"
FORMAT = 1  # of the manifest and the records
_SENTENCES = 200  # that the tokenizer gets at once

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class CorpusSettings:
    """What decides over the records, beside the text.

    Attributes:
        max_length: Tokens of the longest row, [CLS] and [SEP] included.
        validation_share: Which share of the documents is held out, at most a half: every 100th of
            each file at 0.01.
        text_column: See `read_documents`.
    """

    max_length: int = 128
    validation_share: float = 0.01
    text_column: str = "text"

    def __post_init__(self) -> None:
        if self.max_length < 3:
            raise ValueError(
                f"max_length is {self.max_length}; a row has two special tokens and a word."
            )
        if not 0 <= self.validation_share <= 0.5:
            raise ValueError(
                f"validation_share is {self.validation_share}; it must be between 0 and 0.5."
            )

    def split_of(self, document: int) -> str:
        """Returns the split of a document, given its number in its file."""
        if not self.validation_share:
            return TRAIN
        every = round(1 / self.validation_share)
        return VALIDATION if document % every == every - 1 else TRAIN


class DocumentTokenizer:
    """Turns a document into rows of token ids; can be sent to another process.

    Args:
        tokenizer: A fast tokenizer.
        max_length: See `CorpusSettings`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.json = tokenizer.backend_tokenizer.to_str()
        self.max_length = max_length
        self.first_token, self.last_token = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.dtype = np.dtype("<u2" if len(tokenizer) <= 2**16 else "<i4")
        self._tokenizer = tokenizer.backend_tokenizer

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tokenizer": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._tokenizer = tokenizers.Tokenizer.from_str(self.json)

    def digest(self) -> str:
        """Returns the SHA-256 of vocabulary and settings."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    def rows(self, paragraphs: Iterable[str]) -> Iterator[bytes]:
        """Yields the records of a document."""
        sentences = itertools.chain.from_iterable(map(split_sentences, paragraphs))
        encoded = itertools.chain.from_iterable(map(self._encode, _batched(sentences, _SENTENCES)))
        packed = pack_document(
            encoded, self.max_length, first_token=self.first_token, last_token=self.last_token
        )
        for row in packed:
            yield np.asarray(row, self.dtype).tobytes()

    def _encode(self, sentences: list[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast(sentences, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def _batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of records.

    Attributes:
        name: The file's name.
        split: `TRAIN` or `VALIDATION`.
        rows: Its records.
        tokens: Their ids, special tokens included.
        bytes: The file's size.
    """

    name: str
    split: str
    rows: int
    tokens: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A prepared corpus.

    Attributes:
        directory: Where it is.
        settings: How it was prepared.
        sources: Name, size and SHA-256 of each text file; see `describe_files`.
        shards: Its files.
        dtype: NumPy's name for the type of an id in a record.
        tokenizer: The SHA-256 of the tokenizer.
    """

    directory: Path
    settings: CorpusSettings
    sources: tuple[dict[str, Any], ...]
    shards: tuple[Shard, ...]
    dtype: str
    tokenizer: str

    def paths(self, split: str) -> list[str]:
        """Returns the paths of a split's shards."""
        return [str(self.directory / shard.name) for shard in self.shards if shard.split == split]

    def rows(self, split: str) -> int:
        """Counts the rows of a split."""
        return sum(shard.rows for shard in self.shards if shard.split == split)

    def tokens(self, split: str) -> int:
        """Counts the tokens of a split, special tokens included."""
        return sum(shard.tokens for shard in self.shards if shard.split == split)


def read_shards(manifest: Mapping[str, Any]) -> list[Shard]:
    """Returns the shards that a manifest lists."""
    return [Shard(**shard) for shard in manifest["shards"]]


def open_corpus(directory: str | Path) -> Corpus:
    """Opens a prepared corpus.

    Args:
        directory: What `prepare_corpus` wrote.

    Returns:
        The corpus.

    Raises:
        DataError: It is not complete: a shard is missing or cut short.
        FileNotFoundError: There is no prepared corpus.
    """
    directory = Path(directory)
    path = directory / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no prepared corpus: it has no {MANIFEST}.")
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise DataError(f"{path} is of another release: delete {directory} to prepare it anew.")
    shards = read_shards(manifest)
    for shard in shards:
        file = directory / shard.name
        size = file.stat().st_size if file.is_file() else None
        if size != shard.bytes:
            state = "is missing" if size is None else f"has {size} bytes instead of {shard.bytes}"
            raise DataError(f"{file} {state}: delete {directory} to prepare it anew.")
    return Corpus(
        directory,
        CorpusSettings(**manifest["settings"]),
        tuple(manifest["sources"]),
        tuple(shards),
        manifest["dtype"],
        manifest["tokenizer"],
    )


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file of a prepared corpus, or of one that is being prepared."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path} is damaged ({error}): delete {path.parent} to prepare it anew."
        ) from error
