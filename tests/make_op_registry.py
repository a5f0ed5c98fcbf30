"""Records which ops, attributes and CPU kernels each TensorFlow release has.

`python tests/make_op_registry.py` downloads each release's CPU wheel (about 200 MB, one at a time),
asks its library through the C API, and writes `inspection/op_registry.zip`. Needs Linux on
x86-64 and PyPI; the wheels are unpacked, not installed, so any Python will do.

`--check` compares the newest release's record with the TensorFlow that is installed here, without
the network, and exits with 1 where they differ.
"""

import argparse
import ast
import ctypes
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from distilbert_serving.inspection.op_registry import (
    FILE,
    INDEX,
    load_releases,
)
from distilbert_serving.protos import kernel_def_pb2, op_def_pb2
from google.protobuf import descriptor_pb2

# The last patch of each minor release; patches never change what an op is.
TENSORFLOW = (
    "2.12.1 2.13.1 2.14.1 2.15.1 2.16.2 2.17.1 2.18.1 2.19.1 2.20.0 2.21.0".split()
)  # fmt: skip
# TensorFlow Text that is linked into a server, by the first TF Serving release that has it.
TEXT = {"2.12": "2.12.1", "2.20": "2.20.0"}
WHEEL_PLATFORM = ["--platform=manylinux_2_17_x86_64", "--platform=manylinux_2_27_x86_64"]
VERSION_HEADERS = ("public/version.h", "public/release_version.h")


# What computes on a CPU; TensorFlow takes a DEFAULT kernel where a device has none of its own.
CPU_DEVICES = ("CPU", "DEFAULT")


class Snapshot(NamedTuple):
    """What a release says about itself: see `op_registry.Release`."""

    release: str
    tensorflow: str
    graph_version: int
    data_types: list[int]
    ops: list[op_def_pb2.OpDef]
    text_ops: list[str]
    kernels: list[kernel_def_pb2.KernelDef]


class _Buffer(ctypes.Structure):
    """The C API's TF_Buffer."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("deallocator", ctypes.c_void_p),
    )


def main() -> None:
    """Writes the registry, or checks it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with this TensorFlow")
    parser.add_argument("--dump", nargs="+", help=argparse.SUPPRESS)  # a child process' work
    arguments = parser.parse_args()
    if arguments.dump:
        _dump(*map(Path, arguments.dump))
    elif arguments.check:
        sys.exit(_check())
    else:
        write_registry([_record(version) for version in TENSORFLOW])
        print(f"{FILE}: {FILE.stat().st_size:,} bytes")


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
        _add(archive, INDEX, json.dumps(index).encode())


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
        if kernel.device_type not in CPU_DEVICES or kernel.label or kernel.op.startswith("_"):
            continue
        stripped = kernel_def_pb2.KernelDef(op=kernel.op, constraint=kernel.constraint)
        stripped.constraint.sort(key=lambda constraint: constraint.name)
        row = kernel_def_pb2.KernelList(kernel=[stripped]).SerializeToString(deterministic=True)
        described.setdefault(kernel.op, set()).add(row)
    return {op: b"".join(sorted(rows)) for op, rows in described.items()}


def _join_changes(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> bytes:
    return b"".join(after[op] for op in sorted(after) if after[op] != before.get(op))


def _add(archive: zipfile.ZipFile, name: str, contents: bytes) -> None:
    # A fixed date, so that the same contents give the same file.
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    archive.writestr(member, contents, zipfile.ZIP_LZMA)


def _record(version: str) -> Snapshot:
    """Downloads a release and asks it."""
    release = ".".join(version.split(".")[:2])
    with tempfile.TemporaryDirectory() as work:
        package = _unpack(f"tensorflow-cpu=={version}", Path(work)) / "tensorflow"
        libraries = []
        if release in TEXT:
            text = _unpack(f"tensorflow-text=={TEXT[release]}", Path(work))
            libraries = sorted((text / "tensorflow_text" / "python").glob("**/_*.so"))
        snapshot = _ask(package, libraries, Path(work))
    print(version, len(snapshot.ops), "ops", len(snapshot.kernels), "kernels", flush=True)
    return snapshot._replace(release=release, tensorflow=version)


def _unpack(requirement: str, work: Path) -> Path:
    """Returns a directory with a wheel's libraries and version files."""
    directory = work / requirement.split("=")[0]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    pip += ["--only-binary=:all:", "--python-version=3.11", *WHEEL_PLATFORM]
    subprocess.run([*pip, f"--dest={directory}", requirement], check=True)
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            is_library = re.search(r"\.so(\.\d+)?$", name)
            if is_library or name.endswith(("/types_pb2.py", *VERSION_HEADERS)):
                archive.extract(name, directory)
    wheel.unlink()
    return directory


def _ask(package: Path, text_libraries: list[Path], work: Path) -> Snapshot:
    # In a process of its own: one process can hold one TensorFlow only.
    command = [sys.executable, __file__, "--dump", work, package, *text_libraries]
    subprocess.run(list(map(str, command)), check=True)
    ops = op_def_pb2.OpList.FromString((work / "ops.pb").read_bytes())
    kernels = kernel_def_pb2.KernelList.FromString((work / "kernels.pb").read_bytes())
    headers = "".join(
        path.read_text()
        for name in VERSION_HEADERS
        if (path := package / "include" / "tensorflow" / "core" / name).exists()
    )
    (graph_version,) = re.findall(r"#define TF_GRAPH_DEF_VERSION (\d+)", headers)
    return Snapshot(
        release="",
        tensorflow="",
        graph_version=int(graph_version),
        data_types=_list_data_types(package / "core" / "framework" / "types_pb2.py"),
        ops=list(ops.op),
        text_ops=json.loads((work / "text_ops.json").read_text()),
        kernels=list(kernels.kernel),
    )


def _list_data_types(module: Path) -> list[int]:
    """Returns the numbers of DataType, which a generated module describes in a bytes literal."""
    descriptor = descriptor_pb2.FileDescriptorProto()
    literals = [
        node.value
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, bytes)
    ]
    descriptor.ParseFromString(max(literals, key=len))
    (enum,) = (enum for enum in descriptor.enum_type if enum.name == "DataType")
    return sorted(value.number for value in enum.value)


def _dump(work: Path, package: Path, *text_libraries: Path) -> None:
    """Writes what a release's library says to files."""
    library = _open_library(package)
    library.TF_LoadLibrary.restype = ctypes.c_void_p
    library.TF_Message.restype = ctypes.c_char_p
    before = {op.name for op in _list_ops(library).op}
    for path in text_libraries:
        status = _status(library)
        if not library.TF_LoadLibrary(str(path).encode(), status):
            raise RuntimeError(f"{path.name}: {library.TF_Message(status).decode()}")
    ops = _list_ops(library)
    (work / "ops.pb").write_bytes(ops.SerializeToString())
    text_ops = sorted({op.name for op in ops.op} - before)
    (work / "text_ops.json").write_text(json.dumps(text_ops))
    (work / "kernels.pb").write_bytes(_read(library.TF_GetAllRegisteredKernels, _status(library)))


def _open_library(package: Path) -> ctypes.CDLL:
    for name in ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2"):
        library = ctypes.CDLL(str(package / name), mode=ctypes.RTLD_GLOBAL)
    return library


def _list_ops(library: ctypes.CDLL) -> op_def_pb2.OpList:
    return op_def_pb2.OpList.FromString(_read(library.TF_GetAllOpList))


def _status(library: ctypes.CDLL) -> ctypes.c_void_p:
    library.TF_NewStatus.restype = ctypes.c_void_p
    return ctypes.c_void_p(library.TF_NewStatus())


def _read(function, *arguments) -> bytes:
    function.restype = ctypes.POINTER(_Buffer)
    buffer = function(*arguments).contents
    return ctypes.string_at(buffer.data, buffer.length)


def _check() -> int:
    """Compares the newest record with the TensorFlow that is installed."""
    spec = importlib.util.find_spec("tensorflow")
    with tempfile.TemporaryDirectory() as work:
        here = _ask(Path(spec.submodule_search_locations[0]), [], Path(work))
    newest = load_releases()[-1]
    here_ops = describe_ops(op for op in here.ops if op.name not in newest.text_ops)
    stored = describe_ops(op for name, op in newest.ops.items() if name not in newest.text_ops)
    differing = sorted(
        op for op in here_ops.keys() | stored.keys() if here_ops.get(op) != stored.get(op)
    )
    print(f"{len(differing)} of {len(here_ops)} ops differ", *differing)
    return bool(differing)


if __name__ == "__main__":
    main()
