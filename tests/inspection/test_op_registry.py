"""The stored table of ops: what is in it, and that it is read as it was written."""

from pathlib import Path

import pytest
from distilbert_serving.inspection.op_registry import (
    FILE,
    find_release,
    load_releases,
)
from distilbert_serving.protos import kernel_def_pb2, op_def_pb2
from make_op_registry import Snapshot, write_registry
from tensorflow.python.framework import op_def_registry


def test_the_releases() -> None:
    releases = load_releases()
    assert [each.name for each in releases] == [f"2.{minor}" for minor in range(12, 22)]
    versions = [each.graph_version for each in releases]
    assert versions == sorted(set(versions))
    assert versions[0] == 1395  # of TensorFlow 2.12
    assert FILE.stat().st_size < 150_000
    assert find_release("2.19.1") is find_release("2.19")
    with pytest.raises(ValueError, match=r"No server release '2.11' is known; there are 2.12, "):
        find_release("2.11")


@pytest.mark.parametrize(
    ("op", "since"),
    [
        ("MatMul", "2.12"),
        ("SegmentMaxV2", "2.13"),
        ("FFTND", "2.15"),
        ("FastBertNormalize", "2.12"),  # TensorFlow Text's
        ("TFText>RoundRobinTrim", "2.20"),  # why KerasHub's preprocessors fail on older servers
    ],
)
def test_since_when_an_op_is_there(op: str, since: str) -> None:
    assert next(each.name for each in load_releases() if op in each.ops) == since
    newest = load_releases()[-1]
    assert (op in newest.text_ops) == (op in ("FastBertNormalize", "TFText>RoundRobinTrim"))


def test_attributes_and_kernels() -> None:
    def attributes(release: str, op: str) -> set[str]:
        return {attribute.name for attribute in find_release(release).ops[op].attr}

    assert attributes("2.15", "VarHandleOp") - attributes("2.14", "VarHandleOp") == {"debug_name"}
    (constraint,) = find_release("2.12").kernels["Erf"][0].constraint
    assert constraint.name == "T"
    assert find_release("2.12").kernels.get("XlaAllReduce") is None


def test_newest_is_this_tensorflow() -> None:
    newest = load_releases()[-1]
    own = {name: op for name, op in newest.ops.items() if name not in newest.text_ops}
    differing = []
    for name, op in own.items():
        here = op_def_registry.get(name)
        stored = {(a.name, a.type, a.default_value.SerializeToString()) for a in op.attr}
        if here is None or stored != {
            (a.name, a.type, a.default_value.SerializeToString()) for a in here.attr
        }:
            differing.append(name)
    assert differing == []


def op(name: str, *attributes: str) -> op_def_pb2.OpDef:
    return op_def_pb2.OpDef(
        name=name,
        summary="prose",
        attr=[op_def_pb2.OpDef.AttrDef(name=a, type="int", description="x") for a in attributes],
    )


def kernel(name: str, device: str = "CPU", **options: str) -> kernel_def_pb2.KernelDef:
    return kernel_def_pb2.KernelDef(op=name, device_type=device, **options)


def test_written_as_changes_and_read_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Snapshot(
        release="1.0",
        tensorflow="1.0.3",
        graph_version=5,
        data_types=[1, 2],
        ops=[op("A", "n"), op("B"), op("_Hidden"), op("Text"), op("Gone")],
        text_ops=["Text"],
        kernels=[kernel("A"), kernel("A", "GPU"), kernel("B", label="slow"), kernel("Text")],
    )
    second = first._replace(
        release="1.1",
        tensorflow="1.1.0",
        graph_version=6,
        data_types=[1, 2, 3],
        ops=[op("A", "n", "m"), op("B")],
        text_ops=[],
        kernels=[kernel("B", "DEFAULT")],
    )
    file = tmp_path / "registry.zip"
    write_registry([first, second], file)
    contents = file.read_bytes()
    write_registry([first, second], file)
    assert file.read_bytes() == contents
    monkeypatch.setattr("distilbert_serving.inspection.op_registry.FILE", file)
    old, new = load_releases.__wrapped__()
    assert (old.name, old.tensorflow, old.graph_version) == ("1.0", "1.0.3", 5)
    assert old.ops.keys() == {"A", "B", "Text", "Gone"}
    assert old.kernels.keys() == {"A", "Text"}
    assert len(old.kernels["A"]) == 1
    assert new.data_types == {1, 2, 3}
    assert new.ops.keys() == {"A", "B", "Text"}  # a later library's own ops, and the text's
    assert [attribute.name for attribute in new.ops["A"].attr] == ["n", "m"]
    assert new.ops["A"].summary == new.ops["A"].attr[0].description == ""
    assert new.kernels.keys() == {"B", "Text"}
    assert new.text_ops == {"Text"}
