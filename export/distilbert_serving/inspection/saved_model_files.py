"""Reads the files of a SavedModel, any SavedModel, without TensorFlow's runtime."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from distilbert_serving.protos import meta_graph_pb2, saved_model_pb2, types_pb2

_SERVING_TAG = "serve"
_SMALL_FLOATS = {"bfloat16": types_pb2.DT_BFLOAT16, "float16": types_pb2.DT_HALF}
_BINARY, _TEXT = "saved_model.pb", "saved_model.pbtxt"


class CompatibilityError(ValueError):
    """A SavedModel that a stock TF Serving could not load or run."""


class MissingModelError(CompatibilityError, FileNotFoundError):
    """There is no SavedModel in a directory."""


class Place(NamedTuple):
    """Where a node stands.

    Attributes:
        node: Its name.
        function: The function it is in; "" for none.
    """

    node: str
    function: str

    def __str__(self) -> str:
        return f"{self.node!r}" + (f" in {self.function}" if self.function else "")


def read_meta_graph(directory: Path) -> meta_graph_pb2.MetaGraphDef:
    """Reads the graph that a server would load.

    Args:
        directory: Where `saved_model.pb` is.

    Returns:
        The graph whose one tag is "serve".

    Raises:
        MissingModelError: There is no SavedModel.
        CompatibilityError: It is damaged, or no graph has that tag.
        OSError: The file cannot be read.
    """
    saved_model = _read_saved_model(directory)
    tags = [sorted(each.meta_info_def.tags) for each in saved_model.meta_graphs]
    if [_SERVING_TAG] not in tags:
        raise CompatibilityError(
            f"No graph in {directory} has the tag {_SERVING_TAG!r} and no other, so a server finds "
            f"none to load; there are {tags if tags else 'no graphs at all'}."
        )
    return saved_model.meta_graphs[tags.index([_SERVING_TAG])]


def walk_nodes(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[tuple]:
    """Yields every NodeDef of the graph and of its functions, with its Place."""
    for node in meta_graph.graph_def.node:
        yield node, Place(node.name, "")
    for function in meta_graph.graph_def.library.function:
        for node in function.node_def:
            yield node, Place(node.name, function.signature.name)


def find_compute_dtype(meta_graph: meta_graph_pb2.MetaGraphDef) -> str:
    """Returns the smallest float type that a graph multiplies matrices in, or "float32"."""
    types = {
        node.attr["T"].type
        for node, _ in walk_nodes(meta_graph)
        if node.op in ("MatMul", "BatchMatMulV2")
    }
    found = [name for name, number in _SMALL_FLOATS.items() if number in types]
    return found[0] if found else "float32"


def _read_saved_model(directory: Path) -> saved_model_pb2.SavedModel:
    file = directory / _BINARY
    try:
        if file.is_file():
            return saved_model_pb2.SavedModel.FromString(file.read_bytes())
        file = directory / _TEXT
        if file.is_file():
            contents = file.read_text(encoding="utf-8")
            return text_format.Parse(contents, saved_model_pb2.SavedModel())
    except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise CompatibilityError(f"{file} is damaged or cut off: {error}.") from error
    raise MissingModelError(f"{directory} is no SavedModel: {_guess_mistake(directory)}")


def _guess_mistake(directory: Path) -> str:
    if not directory.is_dir():
        return "it is a file." if directory.exists() else "there is no such directory."
    versions = [path for path in directory.iterdir() if (path / _BINARY).is_file()]
    if versions:
        newest = max(versions, key=lambda path: (path.name.isdecimal(), len(path.name), path.name))
        return f"it has no {_BINARY}, but holds some that have; did you mean {newest}?"
    return f"it has no {_BINARY}."
