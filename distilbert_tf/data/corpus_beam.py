"""A corpus prepared with Apache Beam: on Dataflow, Flink or Spark, or on this machine.

The shards and the manifest are those of `prepare_corpus`, byte for byte. An element of the pipeline
is a text file, so a large corpus has to be many files, of some 100 MB each. Text and result may be
anywhere that Beam can read and write, such as `gs://`; a worker copies its file, and moves each
shard once it is complete. Needs the extra `beam`, on the workers too.
"""

import contextlib
import dataclasses
import json
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from transformers import PreTrainedTokenizerBase

from distilbert_tf.data.corpus_records import MANIFEST, CorpusSettings, Shard, read_shards
from distilbert_tf.data.corpus_writer import (
    SHARD_TOKENS,
    CorpusPlan,
    FileJob,
    describe_files,
    make_plan,
)

AS_IT_IS = CompressionTypes.UNCOMPRESSED


def prepare_corpus_with_beam(
    files: Sequence[str],
    directory: str,
    tokenizer: PreTrainedTokenizerBase,
    settings: CorpusSettings | None = None,
    *,
    options: Sequence[str] = (),
    shard_tokens: int = SHARD_TOKENS,
) -> list[Shard]:
    """Prepares a corpus as a Beam pipeline, and waits for its end.

    A pipeline that fails leaves no manifest; the next one replaces its shards.

    Args:
        files: Text files (see `read_documents`) or patterns, where Beam can read them.
        directory: Where the corpus goes, and Beam can write; it may not hold one already.
        tokenizer: A fast tokenizer.
        settings: How to prepare it.
        options: Beam's flags, such as `--runner=FlinkRunner`.
        shard_tokens: See `prepare_corpus`.

    Returns:
        The shards.

    Raises:
        DataError: A file cannot be read; no text is left, or no document is held out though some
            should be. A runner may raise a `RuntimeError` that quotes it.
        FileExistsError: `directory` holds a prepared corpus.
        FileNotFoundError: There is no such file.
    """
    manifest = FileSystems.join(directory, MANIFEST)
    if FileSystems.exists(manifest):
        raise FileExistsError(
            f"{directory} holds a prepared corpus ({MANIFEST}): delete it, or choose another "
            "directory."
        )
    found = []
    for pattern, match in zip(files, FileSystems.match(list(files)), strict=True):
        if not match.metadata_list:
            raise FileNotFoundError(f"There is no file {pattern}.")
        found += sorted(metadata.path for metadata in match.metadata_list)
    if not FileSystems.exists(directory):
        FileSystems.mkdirs(directory)
    work = _Work(make_plan(tokenizer, settings, shard_tokens), directory)
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        _ = (
            pipeline
            | "Files" >> beam.Create(list(enumerate(found)))
            | "To all workers" >> beam.Reshuffle()
            | "Prepare" >> beam.MapTuple(work.prepare)
            | "Gather" >> beam.combiners.ToList()
            | "Finish" >> beam.Map(work.finish)
        )
    with FileSystems.open(manifest, compression_type=AS_IT_IS) as file:
        return read_shards(json.load(file))


@dataclasses.dataclass(frozen=True)
class _Work:
    """What the workers do; sent to all of them."""

    plan: CorpusPlan
    directory: str

    def prepare(self, number: int, source: str) -> dict[str, Any]:
        """Prepares a file.

        Returns:
            Its `number`, its `description`, and its `shards`.
        """
        with tempfile.TemporaryDirectory() as name:
            path, local = Path(source), Path(name)
            if not path.is_file():
                path = local / FileSystems.split(source)[1]
                with FileSystems.open(source, compression_type=AS_IT_IS) as file:
                    _copy(file, path.open("wb"))
            shards = []
            for shard in FileJob(number, path, local, self.plan).shards():
                self._move(local / shard["name"])
                shards.append(shard)
            return {"number": number, "description": describe_files([path]), "shards": shards}

    def finish(self, prepared: list[dict[str, Any]]) -> None:
        """Writes the manifest, last of all."""
        prepared = sorted(prepared, key=lambda file: file["number"])
        description = {
            key: [value for file in prepared for value in file["description"][key]]
            for key in prepared[0]["description"]
        }
        shards = [shard for file in prepared for shard in file["shards"]]
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / MANIFEST
            path.write_text(self.plan.manifest(description, shards), encoding="utf-8")
            self._move(path)

    def _move(self, path: Path) -> None:
        """Moves a file to the result, where it appears under its name only when it is whole."""
        temporary = FileSystems.join(self.directory, f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            with path.open("rb") as file:
                _copy(file, FileSystems.create(temporary, compression_type=AS_IT_IS))
            FileSystems.rename([temporary], [FileSystems.join(self.directory, path.name)])
        except BaseException:
            with contextlib.suppress(BeamIOError):  # there is none
                FileSystems.delete([temporary])
            raise
        path.unlink()


def _copy(source: Any, target: Any) -> None:
    with target:
        shutil.copyfileobj(source, target, 2**20)
