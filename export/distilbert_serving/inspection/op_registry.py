"""Which ops, attributes and CPU kernels each server release has, as a small stored table.

`op_registry.zip` holds what TensorFlow's own libraries say about themselves: everything of the
oldest release, and of each later one what it changed. `tests/make_op_registry.py` makes it. A
server links the TensorFlow of its own number, and the ops of an older TensorFlow Text, which are
included.

Members: `index.json`, and for each release `<release>/ops.pb` (tensorflow.OpList: ops that are new
or differ from the release before) and `<release>/kernels.pb` (tensorflow.KernelList: all kernels of
each op whose kernels differ).
"""

import functools
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distilbert_serving.protos import kernel_def_pb2, op_def_pb2

FILE = Path(__file__).with_name("op_registry.zip")
# What computes on a CPU; TensorFlow takes a DEFAULT kernel where a device has none of its own.
_CPU_DEVICES = ("CPU", "DEFAULT")
_INDEX = "index.json"


class Release(NamedTuple):
    """What a server release can load.

    Attributes:
        name: As "2.12".
        tensorflow: The release of TensorFlow that was asked, as "2.12.1".
        graph_version: Its GraphDef version; a graph may ask for a lower one only.
        data_types: The numbers of `DataType` that it knows.
        ops: Definitions by name. Ops that no graph may hold (their names begin with an underscore)
            are left out.
        kernels: Kernels for the CPU by op; none for an op that runs on other devices only.
        text_ops: The names of those ops that are TensorFlow Text's.
    """

    name: str
    tensorflow: str
    graph_version: int
    data_types: frozenset[int]
    ops: Mapping[str, op_def_pb2.OpDef]
    kernels: Mapping[str, Sequence[kernel_def_pb2.KernelDef]]
    text_ops: frozenset[str]


class Snapshot(NamedTuple):
    """What a release says about itself: `Release`, as it comes out of the library."""

    release: str
    tensorflow: str
    graph_version: int
    data_types: list[int]
    ops: list[op_def_pb2.OpDef]
    text_ops: list[str]
    kernels: list[kernel_def_pb2.KernelDef]


@functools.cache
def load_releases() -> tuple[Release, ...]:
    """Reads the stored releases, the oldest first."""
    releases = []
    ops: dict[str, op_def_pb2.OpDef] = {}
    kernels: dict[str, list[kernel_def_pb2.KernelDef]] = {}
    with zipfile.ZipFile(FILE) as archive:
        for entry in json.loads(archive.read(_INDEX)):
            name = entry["release"]
            new_ops, new_kernels = op_def_pb2.OpList(), kernel_def_pb2.KernelList()
            new_ops.ParseFromString(archive.read(f"{name}/ops.pb"))
            new_kernels.ParseFromString(archive.read(f"{name}/kernels.pb"))
            ops = {op: ops[op] for op in ops.keys() - set(entry["removed_ops"])}
            ops.update((op.name, op) for op in new_ops.op)
            kernels = {op: kernels[op] for op in kernels.keys() - set(entry["removed_kernels"])}
            kernels.update(_group(new_kernels.kernel))
            releases.append(
                Release(
                    name,
                    entry["tensorflow"],
                    entry["graph_version"],
                    frozenset(entry["data_types"]),
                    ops,
                    kernels,
                    frozenset(entry["text_ops"]),
                )
            )
    return tuple(releases)


def find_release(name: str) -> Release:
    """Gives a release by its name.

    Args:
        name: As "2.12"; a patch ("2.12.1") means its minor release.

    Raises:
        ValueError: Nothing is stored about it.
    """
    by_name = {release.name: release for release in load_releases()}
    short = ".".join(name.split(".")[:2])
    if short not in by_name:
        raise ValueError(f"No server release {name!r} is known; there are {', '.join(by_name)}.")
    return by_name[short]


def find_custom_ops(ops: Iterable[str]) -> frozenset[str]:
    """Gives those ops that are not TensorFlow's own, TensorFlow Text's among them."""
    own = {op for each in load_releases() for op in each.ops.keys() - each.text_ops}
    return frozenset(ops) - own


def write_registry(snapshots: Iterable[Snapshot], file: Path = FILE) -> None:
    """Writes the stored table.

    Args:
        snapshots: Of each release, the oldest first. An op of TensorFlow Text stays as it is until
            a snapshot has that library again.
        file: Where to.
    """
    index: list[dict[str, Any]] = []
    ops: dict[str, bytes] = {}
    kernels: dict[str, bytes] = {}
    text_ops: list[str] = []
    with zipfile.ZipFile(file, "w") as archive:
        for snapshot in snapshots:
            new_ops, new_kernels = describe_ops(snapshot.ops), _describe_kernels(snapshot.kernels)
            text_ops = snapshot.text_ops or text_ops
            new_ops |= {op: ops[op] for op in text_ops if op not in new_ops}
            new_kernels |= {
                op: kernels[op] for op in text_ops if op not in new_kernels and op in kernels
            }
            index.append(
                {
                    "release": snapshot.release,
                    "tensorflow": snapshot.tensorflow,
                    "graph_version": snapshot.graph_version,
                    "data_types": snapshot.data_types,
                    "text_ops": text_ops,
                    "removed_ops": sorted(ops.keys() - new_ops.keys()),
                    "removed_kernels": sorted(kernels.keys() - new_kernels.keys()),
                }
            )
            # Serialized lists of one field each: joined they are the list of all.
            _add(archive, f"{snapshot.release}/ops.pb", _join_changes(ops, new_ops))
            _add(archive, f"{snapshot.release}/kernels.pb", _join_changes(kernels, new_kernels))
            ops, kernels = new_ops, new_kernels
        _add(archive, _INDEX, json.dumps(index).encode())


def describe_ops(ops: Iterable[op_def_pb2.OpDef]) -> dict[str, bytes]:
    """Serializes each op that a graph may hold as a list of one, without its prose."""
    described = {}
    for op in ops:
        if op.name.startswith("_"):
            continue
        stripped = op_def_pb2.OpList(op=[op])
        for part in (stripped.op[0], *stripped.op[0].attr):
            part.ClearField("description")
        stripped.op[0].ClearField("summary")
        described[op.name] = stripped.SerializeToString(deterministic=True)
    return described


def _describe_kernels(kernels: Iterable[kernel_def_pb2.KernelDef]) -> dict[str, bytes]:
    """Serializes each op's kernels for the CPU as a list."""
    described: dict[str, set[bytes]] = {}
    for kernel in kernels:
        # A kernel with a label runs only where a node asks for it.
        if kernel.device_type not in _CPU_DEVICES or kernel.label or kernel.op.startswith("_"):
            continue
        stripped = kernel_def_pb2.KernelDef(op=kernel.op, constraint=kernel.constraint)
        stripped.constraint.sort(key=lambda constraint: constraint.name)
        row = kernel_def_pb2.KernelList(kernel=[stripped]).SerializeToString(deterministic=True)
        described.setdefault(kernel.op, set()).add(row)
    return {op: b"".join(sorted(rows)) for op, rows in described.items()}


def _group(
    kernels: Iterable[kernel_def_pb2.KernelDef],
) -> dict[str, list[kernel_def_pb2.KernelDef]]:
    grouped: dict[str, list[kernel_def_pb2.KernelDef]] = {}
    for kernel in kernels:
        grouped.setdefault(kernel.op, []).append(kernel)
    return grouped


def _join_changes(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> bytes:
    return b"".join(after[op] for op in sorted(after) if after[op] != before.get(op))


def _add(archive: zipfile.ZipFile, name: str, contents: bytes) -> None:
    # A fixed date, so that the same contents give the same file.
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    archive.writestr(member, contents, zipfile.ZIP_LZMA)
