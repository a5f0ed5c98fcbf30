"""TF Serving's APIs as a descriptor set: what clients in other languages are made from.

`protoc --descriptor_set_in` generates code from it, `grpcurl -protoset` asks a server with it, and
Go, Node and others read it when they run, without any generated code.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

from distilbert_serving.protos import model_service_pb2, prediction_service_pb2
from distilbert_tf.files import replacing

PROTOSET_FILE = "tf_serving.protoset"


def make_protoset() -> descriptor_pb2.FileDescriptorSet:
    """Describes PredictionService and ModelService, and all that they refer to.

    Returns:
        The files that define them, each after those that it imports, as readers expect.
    """
    files: dict[str, Any] = {}
    for module in (prediction_service_pb2, model_service_pb2):
        files |= {file.name: file for file in _with_imports(module.DESCRIPTOR)}
    protoset = descriptor_pb2.FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(protoset.file.add())
    return protoset


def write_protoset(path: str | os.PathLike[str]) -> Path:
    """Writes what `make_protoset` returns.

    Args:
        path: The file.

    Returns:
        The file.

    Raises:
        OSError: It cannot be written.
    """
    path = Path(path)
    with replacing(path) as temporary:
        temporary.write_bytes(make_protoset().SerializeToString(deterministic=True))
    return path


def _with_imports(file: Any) -> Iterator[Any]:
    for imported in file.dependencies:
        yield from _with_imports(imported)
    yield file
