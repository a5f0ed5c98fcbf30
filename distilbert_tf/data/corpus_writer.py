"""Text files made into a prepared corpus: in parallel, resumable, whole or not at all.

`corpus_records` says what a prepared corpus is; `corpus_beam` runs the same jobs on a cluster.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from transformers import PreTrainedTokenizerBase

from distilbert_tf.data.corpus import find_files, read_documents
from distilbert_tf.data.corpus_records import (
    FORMAT,
    MANIFEST,
    TRAIN,
    VALIDATION,
    Corpus,
    CorpusSettings,
    DocumentTokenizer,
    open_corpus,
    read_json,
)
from distilbert_tf.data.file_formats import DataError
from distilbert_tf.data.progress import Progress
from distilbert_tf.files import digest_files, replacing
from distilbert_tf.tensorflow_import import filtering_stderr

SHARD_TOKENS = 2**23  # a shard ends with the document that exceeds this

_POLL_S = 0.5


@dataclasses.dataclass(frozen=True)
class CorpusPlan:
    """How a corpus is prepared, wherever that happens; can be sent to another process.

    Attributes:
        encoder: Makes the records of a document.
        settings: See `CorpusSettings`.
        shard_tokens: After how many tokens a new shard begins, with the next document.
    """

    encoder: DocumentTokenizer
    settings: CorpusSettings
    shard_tokens: int

    def identity(self, sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns what decides over the records, as JSON: the plan, and what is read."""
        return {
            "format": FORMAT,
            "settings": dataclasses.asdict(self.settings),
            "tokenizer": self.encoder.digest(),
            "shard_tokens": self.shard_tokens,
            "sources": list(sources),
        }

    def manifest(
        self, files: Mapping[str, Sequence[Any]], shards: Sequence[Mapping[str, Any]]
    ) -> str:
        """Returns the manifest of a corpus that is complete.

        Args:
            files: What `describe_files` returns.
            shards: What `FileJob.shards` yields, of all files.

        Raises:
            DataError: There is no text, or no document is held out though some should be.
        """
        names = ", ".join(source["name"] for source in files["sources"])
        splits = {shard["split"] for shard in shards}
        if TRAIN not in splits:
            raise DataError(f"There is no text in {names}.")
        if self.settings.validation_share and VALIDATION not in splits:
            raise DataError(
                f"No document is held out: no file has {round(1 / self.settings.validation_share)} "
                "of them. Divide documents by blank lines, or choose a larger validation_share; "
                "with 0, none is held out."
            )
        made = {"dtype": self.encoder.dtype.str, "shards": shards}
        return json.dumps(self.identity(files["sources"]) | dict(files) | made, indent=1)


def make_plan(
    tokenizer: PreTrainedTokenizerBase, settings: CorpusSettings | None, shard_tokens: int
) -> CorpusPlan:
    """Makes a plan; see `prepare_corpus`."""
    settings = settings or CorpusSettings()
    return CorpusPlan(DocumentTokenizer(tokenizer, settings.max_length), settings, shard_tokens)


def prepare_corpus(
    files: str | Path | Sequence[str | Path],
    directory: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    settings: CorpusSettings | None = None,
    *,
    num_processes: int = 1,
    shard_tokens: int = SHARD_TOKENS,
) -> Corpus:
    """Prepares a corpus, unless it is prepared already.

    Interrupted and called again, it resumes after the last complete shard of each file that is
    still the same, and the records are as without an interruption. `corpus_beam` does the same on
    a cluster.

    Args:
        files: Text files (see `read_documents`), or patterns such as `wikipedia/*.jsonl.gz`; a file
            is read by one process.
        directory: Where the corpus goes; made if missing.
        tokenizer: A fast tokenizer.
        settings: How to prepare it.
        num_processes: How many files to read at once.
        shard_tokens: After how many tokens a new shard begins, with the next document.

    Returns:
        The corpus.

    Raises:
        DataError: A file cannot be read, or has changed since the corpus was prepared from it; no
            text is left, or no document is held out though some should be.
        FileNotFoundError: There is no such file.
        ValueError: `directory` was prepared with other settings.

    Example:
        tokenizer = DistilBertTokenizer.from_pretrained("distilbert-base-uncased")
        prepare_corpus("wikipedia/*.jsonl.gz", "corpus", tokenizer, num_processes=8).rows("train")
    """
    directory, paths = Path(directory), find_files(files)
    plan = make_plan(tokenizer, settings, shard_tokens)
    before = _read_earlier(directory)
    found = describe_files(paths, before)
    identity = plan.identity(found["sources"])
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / MANIFEST).is_file():
        _check_identity(directory, before, identity)
        return open_corpus(directory)
    if before:
        names = [[source["name"] for source in some["sources"]] for some in (before, identity)]
        if names[0] == names[1]:
            _forget_changed_files(directory, before, identity["sources"])
            before["sources"] = identity["sources"]
        _check_identity(directory, before, identity)
    elif any(directory.iterdir()):
        raise FileExistsError(f"{directory} holds other files; choose an empty directory.")
    with replacing(directory / _IDENTITY) as temporary:
        temporary.write_text(json.dumps(identity | found), encoding="utf-8")
    jobs = [FileJob(number, path, directory, plan) for number, path in enumerate(paths)]
    _run(jobs, num_processes)
    shards = [shard for job in jobs for shard in job.progress()["shards"]]
    try:
        manifest = plan.manifest(found, shards)
    except DataError:  # with other settings, these shards would only be in the way
        _tidy(directory, shards)
        raise
    with replacing(directory / MANIFEST) as temporary:
        temporary.write_text(manifest, encoding="utf-8")
    _tidy(directory)
    return open_corpus(directory)


_IDENTITY = "preparing.json"


def _tidy(directory: Path, shards: Sequence[Mapping[str, Any]] = ()) -> None:
    """Removes what only a preparation needs, and these shards."""
    # The last are of a process that was killed as it wrote.
    for path in (*directory.glob("progress-*.json"), *directory.glob(".*.tmp")):
        path.unlink()
    for shard in shards:
        (directory / shard["name"]).unlink()
    (directory / _IDENTITY).unlink()


def describe_files(
    paths: Iterable[Path], before: Mapping[str, Sequence[Any]] | None = None
) -> dict[str, list[Any]]:
    """Describes text files.

    Args:
        paths: The files.
        before: An earlier description: where size and time of change are still the same, so is the
            digest, and the file is not read.

    Returns:
        `sources`, the name, size and SHA-256 of each; and `modified_ns`, when each was changed.

    Raises:
        FileNotFoundError: There is no such file.
    """
    before = before or {}
    earlier: Iterator[tuple[dict[str, Any], Any]] = zip(
        before.get("sources", ()), before.get("modified_ns", ()), strict=False
    )
    found: dict[str, list[Any]] = {"sources": [], "modified_ns": []}
    for path in paths:
        if path.is_dir():
            raise FileNotFoundError(
                f"{path} is a directory without a prepared corpus ({MANIFEST}). To read the text "
                f"files in it, name them, or give a pattern such as {path / '*.txt'}."
            )
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
        status = path.stat()  # before it is read: what changes it later will show
        source, modified_ns = next(earlier, ({}, None))
        known = (source.get("name"), source.get("bytes"), modified_ns)
        if known != (path.name, status.st_size, status.st_mtime_ns):
            source = {"name": path.name, "bytes": status.st_size, "sha256": digest_files([path])}
        found["sources"].append(source)
        found["modified_ns"].append(status.st_mtime_ns)
    return found


def _read_earlier(directory: Path) -> dict[str, Any]:
    """Reads what a directory was prepared from, even if not to the end; empty if there is none."""
    for path in (directory / MANIFEST, directory / _IDENTITY):
        if path.is_file():
            return read_json(path)
    return {}


def _forget_changed_files(
    directory: Path, before: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]
) -> None:
    """Removes what was prepared of files that have been changed since, such as mended."""
    for number, source in enumerate(sources):
        if source != before["sources"][number]:
            names = (f"progress-{number:05d}.json", f"*-{number:05d}-*.tfrecord")
            for path in itertools.chain.from_iterable(map(directory.glob, names)):
                path.unlink()


def _check_identity(
    directory: Path, before: Mapping[str, Any], identity: Mapping[str, Any]
) -> None:
    """Checks that a directory is of the same text and settings."""
    changed = [key for key, value in identity.items() if before.get(key) != value]
    if "sources" in changed:
        now, then = identity["sources"], before["sources"]
        differing = [source for source in (*now, *then) if source not in now or source not in then]
        names = ", ".join(dict.fromkeys(source["name"] for source in differing))
        raise DataError(
            f"{directory} was prepared from other text: {names or 'the order of the files'} has "
            "changed, is new, or is no longer given. Delete it, or choose another directory."
        )
    if changed:
        raise ValueError(
            f"{directory} was prepared with another {changed[0]}: {before.get(changed[0])}, now "
            f"{identity[changed[0]]}. Delete it, or choose another directory."
        )


@dataclasses.dataclass(frozen=True)
class FileJob:
    """Preparing one file; all that its process needs to know.

    Attributes:
        number: Which file of the corpus it is.
        path: The file.
        directory: Where the shards go.
        plan: How to prepare it.
    """

    number: int
    path: Path
    directory: Path
    plan: CorpusPlan

    @property
    def progress_path(self) -> Path:
        """The file that says how far it is."""
        return self.directory / f"progress-{self.number:05d}.json"

    def progress(self) -> dict[str, Any]:
        """Returns how far it is: `documents`, `shards`, `is_done`."""
        if not self.progress_path.is_file():
            return {"documents": 0, "shards": [], "is_done": False}
        return json.loads(self.progress_path.read_text(encoding="utf-8"))

    def shards(self, on_tokens: Callable[[int], None] = lambda count: None) -> Iterator[dict]:
        """Writes the shards that are missing, noting how far it is after each.

        Args:
            on_tokens: Is told how many tokens a record has that is written.

        Yields:
            Each shard once it is complete: the fields of `Shard`.
        """
        progress = self.progress()
        settings, encoder = self.plan.settings, self.plan.encoder
        numbered = enumerate(read_documents(self.path, text_column=settings.text_column))
        for _ in itertools.islice(numbered, progress["documents"]):
            pass
        while not progress["is_done"]:
            progress["is_done"] = True
            with _ShardWriters(self, len(progress["shards"]), on_tokens) as writers:
                for number, document in numbered:
                    progress["documents"] = number + 1
                    writers.write(settings.split_of(number), encoder.rows(document))
                    if writers.tokens >= self.plan.shard_tokens:
                        progress["is_done"] = False
                        break
            progress["shards"] += writers.shards
            with replacing(self.progress_path) as temporary:
                temporary.write_text(json.dumps(progress), encoding="utf-8")
            yield from writers.shards


class _ShardWriters(contextlib.AbstractContextManager["_ShardWriters"]):
    """A shard for each split, under their names only when they are complete."""

    def __init__(self, job: FileJob, first: int, on_tokens: Callable[[int], None]) -> None:
        self.job, self.first, self.on_tokens = job, first, on_tokens
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
            tokens = len(record) // self.job.plan.encoder.dtype.itemsize
            shard["rows"] += 1
            shard["tokens"] += tokens
            self.tokens += tokens
            self.on_tokens(tokens)

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


def _run(jobs: Sequence[FileJob], num_processes: int) -> None:
    """Runs jobs, in this process or in others, and shows how far they are."""

    def files_done() -> str:
        return f"{sum(job.progress()['is_done'] for job in jobs)}/{len(jobs)}"

    before = sum(shard["tokens"] for job in jobs for shard in job.progress()["shards"])
    with Progress("Preparing the corpus", "tokens", files_done, initial=before) as progress:
        if num_processes == 1:
            for job in jobs:
                for _ in job.shards(progress.add):
                    pass
            return
        # Not forked: TensorFlow has threads.
        context = multiprocessing.get_context("spawn")
        written, must_stop = context.Value("q", 0), context.Event()
        with concurrent.futures.ProcessPoolExecutor(
            min(num_processes, len(jobs)), context, _start_process, (written, must_stop)
        ) as pool:
            with filtering_stderr(for_children=True):  # which import TensorFlow as well
                waiting = {pool.submit(_run_in_process, job) for job in jobs}
            try:
                while waiting:
                    done, waiting = concurrent.futures.wait(
                        waiting, _POLL_S, concurrent.futures.FIRST_EXCEPTION
                    )
                    progress.add_up_to(written.value)
                    for future in done:
                        future.result()
            except BaseException:
                must_stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


_shared: dict[str, Any] = {}  # of a process of the pool with the one that waits for it


def _start_process(written: Any, must_stop: Any) -> None:
    _shared.update(written=written, must_stop=must_stop)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the other processors have work


def _run_in_process(job: FileJob) -> None:
    def count(tokens: int) -> None:
        if _shared["must_stop"].is_set():
            raise concurrent.futures.CancelledError
        with _shared["written"].get_lock():
            _shared["written"].value += tokens

    for _ in job.shards(count):
        pass
