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
from typing import NamedTuple

from distilbert_serving.protos import kernel_def_pb2, op_def_pb2

FILE = Path(__file__).with_name("op_registry.zip")
INDEX = "index.json"


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


@functools.cache
def load_releases() -> tuple[Release, ...]:
    """Reads the stored releases, the oldest first."""
    releases = []
    ops: dict[str, op_def_pb2.OpDef] = {}
    kernels: dict[str, list[kernel_def_pb2.KernelDef]] = {}
    with zipfile.ZipFile(FILE) as archive:
        for entry in json.loads(archive.read(INDEX)):
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
    """Returns a release by its name.

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
    """Returns those ops that are not TensorFlow's own, TensorFlow Text's among them."""
    own = {op for each in load_releases() for op in each.ops.keys() - each.text_ops}
    return frozenset(ops) - own


def _group(
    kernels: Iterable[kernel_def_pb2.KernelDef],
) -> dict[str, list[kernel_def_pb2.KernelDef]]:
    grouped: dict[str, list[kernel_def_pb2.KernelDef]] = {}
    for kernel in kernels:
        grouped.setdefault(kernel.op, []).append(kernel)
    return grouped
