"""A corpus as token ids on disk: prepared once, then read by every run.

A prepared corpus is a directory of TFRecord shards and `manifest.json`. A record is one row of
consecutive sentences with [CLS] and [SEP], as little-endian integers: unsigned ones of 2 bytes,
or signed ones of 4 if the vocabulary needs them. Held-out documents are in shards of their own.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
import tokenizers
import tqdm
from transformers import PreTrainedTokenizerBase

from distilbert_tf.data.corpus import pack_document, read_documents, split_sentences
from distilbert_tf.data.file_formats import DataError
from distilbert_tf.files import replacing

MANIFEST = "manifest.json"
TRAIN, VALIDATION = "train", "validation"
SHARD_TOKENS = 2**23  # a shard ends with the document that exceeds this

_FORMAT = 1  # of the manifest and the records
_SENTENCES = 1000  # that the tokenizer gets at once
_POLL_S = 0.5

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

    max_length: int = 512
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
        sources: Name, size and SHA-256 of each text file.
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
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("format") != _FORMAT:
        raise DataError(f"{path} is of another release: delete {directory} to prepare it anew.")
    shards = tuple(Shard(**shard) for shard in manifest["shards"])
    for shard in shards:
        file = directory / shard.name
        size = file.stat().st_size if file.is_file() else None
        if size != shard.bytes:
            state = "is missing" if size is None else f"has {size} bytes instead of {shard.bytes}"
            raise DataError(f"{file} {state}: delete {path} to have it prepared again.")
    return Corpus(
        directory,
        CorpusSettings(**manifest["settings"]),
        tuple(manifest["sources"]),
        shards,
        manifest["dtype"],
        manifest["tokenizer"],
    )


def prepare_corpus(
    files: Sequence[str | Path],
    directory: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    settings: CorpusSettings | None = None,
    *,
    num_processes: int = 1,
    shard_tokens: int = SHARD_TOKENS,
) -> Corpus:
    """Prepares a corpus, unless it is prepared already.

    Interrupted and called again, it resumes after the last complete shard of each file, and the
    records are the same.

    Args:
        files: Text files, see `read_documents`; each is read by one process.
        directory: Where the corpus goes; made if missing.
        tokenizer: A fast tokenizer.
        settings: How to prepare it.
        num_processes: How many files to read at once.
        shard_tokens: After how many tokens a new shard begins, with the next document.

    Returns:
        The corpus.

    Raises:
        DataError: A file cannot be read or has changed since the corpus was prepared from it; no
            text is left, or no document is held out though some should be.
        FileNotFoundError: There is no such file.
        ValueError: `directory` was prepared with other settings.
    """
    settings = settings or CorpusSettings()
    directory, paths = Path(directory), [Path(file) for file in files]
    if not paths:
        raise ValueError("A corpus needs at least one file.")
    encoder = DocumentTokenizer(tokenizer, settings.max_length)
    identity = {
        "format": _FORMAT,
        "settings": dataclasses.asdict(settings),
        "tokenizer": encoder.digest(),
        "shard_tokens": shard_tokens,
        "sources": [_describe(path) for path in paths],
    }
    directory.mkdir(parents=True, exist_ok=True)
    _check_identity(directory, identity)
    if (directory / MANIFEST).is_file():
        return open_corpus(directory)
    jobs = [
        _Job(number, path, directory, encoder, settings, shard_tokens)
        for number, path in enumerate(paths)
    ]
    _run(jobs, num_processes)
    shards = [shard for job in jobs for shard in job.progress()["shards"]]
    rows = {s: sum(d["rows"] for d in shards if d["split"] == s) for s in (TRAIN, VALIDATION)}
    if not rows[TRAIN]:
        raise DataError(f"There is no text in {', '.join(map(str, paths))}.")
    if settings.validation_share and not rows[VALIDATION]:
        raise DataError(
            f"No document is held out: no file has {round(1 / settings.validation_share)} of them. "
            "Divide documents by blank lines, or choose a larger validation_share; with 0, none is "
            "held out."
        )
    manifest = identity | {"dtype": encoder.dtype.str, "shards": shards}
    with replacing(directory / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    # The last are of a process that was killed as it wrote.
    for leftover in (*directory.glob("progress-*.json"), *directory.glob(".*.tmp")):
        leftover.unlink()
    (directory / _IDENTITY).unlink()
    return open_corpus(directory)


_IDENTITY = "preparing.json"


def _describe(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _check_identity(directory: Path, identity: dict[str, Any]) -> None:
    """Checks that what a directory holds is of the same text and settings; notes them if empty."""
    for name in (MANIFEST, _IDENTITY):
        if (directory / name).is_file():
            found = json.loads((directory / name).read_text(encoding="utf-8"))
            changed = [key for key, value in identity.items() if found.get(key) != value]
            if "sources" in changed:
                raise DataError(
                    f"{directory} was prepared from other files: their names or contents have "
                    "changed. Delete it, or choose another directory."
                )
            if changed:
                raise ValueError(
                    f"{directory} was prepared with another {changed[0]}: "
                    f"{found.get(changed[0])}, now {identity[changed[0]]}. Delete it, or choose "
                    "another directory."
                )
            return
    if any(directory.iterdir()):
        raise FileExistsError(f"{directory} holds other files; choose an empty directory.")
    with replacing(directory / _IDENTITY) as temporary:
        temporary.write_text(json.dumps(identity), encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class _Job:
    """Preparing one file; all that its process needs to know."""

    number: int
    path: Path
    directory: Path
    encoder: DocumentTokenizer
    settings: CorpusSettings
    shard_tokens: int

    @property
    def progress_path(self) -> Path:
        return self.directory / f"progress-{self.number:05d}.json"

    def progress(self) -> dict[str, Any]:
        """Returns how far it came: `documents`, `shards`, `is_done`."""
        if not self.progress_path.is_file():
            return {"documents": 0, "shards": [], "is_done": False}
        return json.loads(self.progress_path.read_text(encoding="utf-8"))

    def run(self, on_progress: Callable[[], None] = lambda: None) -> None:
        """Writes the shards that are missing, noting how far it is after each."""
        progress = self.progress()
        if progress["is_done"]:
            return
        documents = read_documents(self.path, text_column=self.settings.text_column)
        numbered = enumerate(documents)
        for _ in itertools.islice(numbered, progress["documents"]):
            pass
        is_done = False
        while not is_done:
            with _ShardWriters(self, len(progress["shards"])) as writers:
                is_done = True
                for number, document in numbered:
                    progress["documents"] = number + 1
                    writers.write(self.settings.split_of(number), self.encoder.rows(document))
                    if writers.tokens >= self.shard_tokens:
                        is_done = False
                        break
            progress["shards"] += writers.shards
            progress["is_done"] = is_done
            with replacing(self.progress_path) as temporary:
                temporary.write_text(json.dumps(progress), encoding="utf-8")
            on_progress()


class _ShardWriters(contextlib.AbstractContextManager["_ShardWriters"]):
    """A shard for each split, under their names only when they are complete."""

    def __init__(self, job: _Job, first: int) -> None:
        self.job, self.first = job, first
        self.tokens = 0
        self.shards: list[dict[str, Any]] = []
        self._stack = contextlib.ExitStack()
        self._open: dict[str, tuple[Callable[[bytes], None], dict[str, Any], Path]] = {}

    def write(self, split: str, records: Iterable[bytes]) -> None:
        for record in records:
            if split not in self._open:
                self._open[split] = self._start(split)
            write, shard, _ = self._open[split]
            write(record)
            shard["rows"] += 1
            shard["tokens"] += len(record) // self.job.encoder.dtype.itemsize
            self.tokens += len(record) // self.job.encoder.dtype.itemsize

    def _start(self, split: str) -> tuple[Callable[[bytes], None], dict[str, Any], Path]:
        number = self.first + len(self._open)
        name = f"{split}-{self.job.number:05d}-{number:05d}.tfrecord"
        path = self.job.directory / name
        writer = tf.io.TFRecordWriter(str(self._stack.enter_context(replacing(path))))
        self._stack.callback(writer.close)
        return writer.write, {"name": name, "split": split, "rows": 0, "tokens": 0}, path

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
        if error[0] is None:
            self.shards = [
                shard | {"bytes": path.stat().st_size} for _, shard, path in self._open.values()
            ]


def _run(jobs: Sequence[_Job], num_processes: int) -> None:
    """Runs jobs, in this process or in others, and shows how far they are."""
    with tqdm.tqdm(unit=" tokens", unit_scale=True, desc="Preparing the corpus") as bar:

        def show() -> None:
            shards = [shard for job in jobs for shard in job.progress()["shards"]]
            bar.set_postfix(files=f"{sum(job.progress()['is_done'] for job in jobs)}/{len(jobs)}")
            bar.update(sum(shard["tokens"] for shard in shards) - bar.n)

        if num_processes == 1:
            for job in jobs:
                job.run(show)
            return
        # Not forked: TensorFlow has threads.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(
            min(num_processes, len(jobs)), context, _leave_processors_to_others
        ) as pool:
            waiting = {pool.submit(job.run) for job in jobs}
            while waiting:
                done, waiting = concurrent.futures.wait(
                    waiting, _POLL_S, concurrent.futures.FIRST_EXCEPTION
                )
                show()
                for future in done:
                    if error := future.exception():
                        pool.shutdown(wait=False, cancel_futures=True)
                        raise error


def _leave_processors_to_others() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
