"""What a SavedModel may hold, so that every stock TF Serving since 2.12 can run it as it is.

The checks read the files and need no TensorFlow runtime. What a release can load is on record in
`op_registry`; what no server should be given although it could load it is listed here.
"""

import os
import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from distilbert_serving.inspection.endpoint_contracts import (
    describe_signatures,
    find_contract_faults,
)
from distilbert_serving.inspection.op_registry import find_release
from distilbert_serving.inspection.releases import NodeKind, find_kinds, find_misfits
from distilbert_serving.inspection.saved_model_files import (
    CompatibilityError,
    Place,
    read_meta_graph,
    walk_nodes,
)
from distilbert_serving.protos import meta_graph_pb2

OLDEST_SERVER = "2.12"

# Core ops that fail on a stock server or do there what nobody wants: pattern of the name -> reason.
_UNFIT_OPS = {
    r"Xla.*|.*XLA.*": "an XLA op, which a stock server refuses",
    r".*PyFunc.*": "Python code, which no server can run",
}
_UNWANTED_OPS = {
    r"ReadFile|WriteFile|.*Dataset.*|.*Reader.*": "an op that reads files of its own",
    r"(Random|Stateless(Random|Truncated)|Multinomial).*": "a random op: dropout was left on",
}
_XLA_MARKERS = ("_XlaMustCompile", "_XlaCompile")
_LISTED = 20


def check_saved_model(directory: Path, private_paths: Iterable[Path] = ()) -> frozenset[str]:
    """Checks a SavedModel's files, strictly: as one that this package has written.

    Args:
        directory: Where `saved_model.pb` is.
        private_paths: Directories of this machine that no file may name, besides the usual ones.

    Returns:
        The names of all ops in the graph.

    Raises:
        CompatibilityError: Something in it would not work on a stock server, or tells about this
            machine. The message lists every finding.
    """
    meta_graph = read_meta_graph(directory)
    kinds = find_kinds(meta_graph)
    ops = frozenset(kind.op for kind in kinds)
    problems = [
        *find_unfit(meta_graph, kinds),
        *find_misfits(meta_graph, kinds, find_release(OLDEST_SERVER)),
        *_find_text_ops(ops),
        *find_unwanted(meta_graph, kinds),
        *_find_private_paths(directory, private_paths),
    ]
    for signature in describe_signatures(meta_graph):
        problems += [*signature.unbatched, *find_contract_faults(signature)]
    if problems:
        listed = "\n  ".join(problems[:_LISTED])
        rest = f"\n  and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise CompatibilityError(
            f"This model cannot be exported for TF Serving {OLDEST_SERVER} and newer:\n  {listed}"
            f"{rest}"
        )
    return ops


def find_unfit(
    meta_graph: meta_graph_pb2.MetaGraphDef, kinds: Mapping[NodeKind, Place]
) -> Iterator[str]:
    """Finds what no stock server can run, whatever its release."""
    yield from _match_ops(kinds, _UNFIT_OPS)
    yield from find_xla_markers(meta_graph)


def find_unwanted(
    meta_graph: meta_graph_pb2.MetaGraphDef, kinds: Mapping[NodeKind, Place]
) -> Iterator[str]:
    """Finds what a server may run, but hardly as it was meant."""
    yield from _match_ops(kinds, _UNWANTED_OPS)
    for node, place in walk_nodes(meta_graph):
        if node.device and "CPU" not in node.device.upper():
            yield f"node {place}: bound to {node.device}, which a server may lack"


def find_xla_markers(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[str]:
    """Finds functions and nodes that ask to be compiled, which a stock server cannot do."""
    for function in meta_graph.graph_def.library.function:
        if any(function.attr[marker].b for marker in _XLA_MARKERS if marker in function.attr):
            yield f"function {function.signature.name}: marked for XLA (jit_compile=True)"
    for node, place in walk_nodes(meta_graph):
        if any(node.attr[marker].b for marker in _XLA_MARKERS if marker in node.attr):
            yield f"node {place}: marked for XLA (jit_compile=True)"


def _find_text_ops(ops: frozenset[str]) -> Iterator[str]:
    # Those of later releases, and other custom ops, are misfits already.
    for op in sorted(find_release(OLDEST_SERVER).text_ops & ops):
        yield f"op {op}: TensorFlow Text's, which only TF Serving has, and no other runtime"


def _find_private_paths(directory: Path, private_paths: Iterable[Path] = ()) -> Iterator[str]:
    """Finds files that name a directory of this machine.

    Args:
        directory: The SavedModel.
        private_paths: Directories to look for, besides the working directory, the home, and those
            of Python's libraries.
    """
    # Not Path.home(), which raises for a user without an entry, as in many containers.
    usual = [Path.cwd(), Path(os.path.expanduser("~")), Path(__file__).parents[2]]
    usual += [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")]
    paths = {path.absolute() for path in (*private_paths, *usual)}
    patterns = {path: re.compile(_path_pattern(path)) for path in paths if path.name}
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        if ".data-" in file.name:  # the weights: numbers
            continue
        contents = file.read_bytes()
        for path, pattern in patterns.items():
            if pattern.search(contents):
                yield f"{file.relative_to(directory)}: names a directory of this machine, {path}"


def _match_ops(kinds: Mapping[NodeKind, Place], patterns: Mapping[str, str]) -> Iterator[str]:
    first: dict[str, Place] = {}
    for kind, place in kinds.items():
        first.setdefault(kind.op, place)
    for op, place in sorted(first.items()):
        reasons = [why for pattern, why in patterns.items() if re.fullmatch(pattern, op)]
        if reasons:
            yield f"op {op}, at {place}: {reasons[0]}"


def _path_pattern(path: Path) -> bytes:
    name = re.escape(str(path).encode())
    # A short path such as "/root" also occurs inside the names of nodes ("encoder/root/add").
    return name if len(path.parts) > 2 else rb"(?<![\w.-])" + name + rb"/"
