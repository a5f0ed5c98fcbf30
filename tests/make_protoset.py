"""Writes `tf_serving.protoset`: the services of TF Serving and the messages that this package uses.

`--check` compares the file with the TensorFlow and TF Serving API that are installed, and exits
with 1 where they differ.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from distilbert_serving import protos
from distilbert_serving.protoset import PROTOSET
from google.protobuf import descriptor_pb2


def make_protoset() -> bytes:
    """Describes all modules of `protos`: each file after those that it imports."""
    files: dict[str, Any] = {}
    for name in protos.__all__:
        module = getattr(protos, name)
        if hasattr(module, "DESCRIPTOR"):
            files |= {file.name: file for file in with_imports(module.DESCRIPTOR)}
    protoset = descriptor_pb2.FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(protoset.file.add())
    return protoset.SerializeToString(deterministic=True)


def with_imports(file: Any) -> Iterator[Any]:
    for imported in file.dependencies:
        yield from with_imports(imported)
    yield file


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args(words).check:
        return int(PROTOSET.read_bytes() != make_protoset())
    PROTOSET.write_bytes(make_protoset())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
