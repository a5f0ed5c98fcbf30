"""TF Serving's APIs as a descriptor set, for what has no TensorFlow: our client, other languages.

`tf_serving.protoset` holds the services and what else `protos` needs, as TensorFlow's and TF
Serving's packages define them; tests/make_protoset.py writes it. Message classes are made of it
when it is read, as protobuf's own generated modules do.
"""

import functools
import types
from pathlib import Path
from typing import Any

from google.protobuf import (
    any_pb2,  # noqa: F401  (it and wrappers_pb2 are what files of the set import)
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    wrappers_pb2,  # noqa: F401
)
from google.protobuf.internal import enum_type_wrapper

PROTOSET = Path(__file__).parent / "tf_serving.protoset"


@functools.cache
def load_modules() -> dict[str, types.SimpleNamespace]:
    """Makes what generated modules would hold: messages, enums, and stubs of services.

    Returns:
        Namespaces by the names of those modules, such as `predict_pb2` and
        `prediction_service_pb2_grpc`.
    """
    pool, modules = descriptor_pool.Default(), {}
    protoset = descriptor_pb2.FileDescriptorSet.FromString(PROTOSET.read_bytes())
    for proto in protoset.file:
        if proto.name.startswith("google/protobuf/"):
            continue  # protobuf's own, as it comes here
        file = pool.AddSerializedFile(proto.SerializeToString()) or pool.FindFileByName(proto.name)
        name = Path(proto.name).stem
        modules[f"{name}_pb2"] = types.SimpleNamespace(DESCRIPTOR=file, **_members(file))
        stubs = {f"{key}Stub": _make_stub(one) for key, one in file.services_by_name.items()}
        if stubs:
            modules[f"{name}_pb2_grpc"] = types.SimpleNamespace(**stubs)
    return modules


def _members(file: Any) -> dict[str, Any]:
    """Makes the classes of a file's messages, its enums and their values, by name."""
    found: dict[str, Any] = {
        key: message_factory.GetMessageClass(one) for key, one in file.message_types_by_name.items()
    }
    for key, enum in file.enum_types_by_name.items():
        found[key] = enum_type_wrapper.EnumTypeWrapper(enum)
        found |= {value.name: value.number for value in enum.values}
    return found


def _make_stub(service: Any) -> type:
    """Makes a class as gRPC's generator does: its objects have a callable for each method."""

    def connect(self: Any, channel: Any) -> None:
        for method in service.methods:
            request, answer = (
                message_factory.GetMessageClass(one)
                for one in (method.input_type, method.output_type)
            )
            call = channel.unary_unary(
                f"/{service.full_name}/{method.name}",
                request_serializer=request.SerializeToString,
                response_deserializer=answer.FromString,
            )
            setattr(self, method.name, call)

    return type(f"{service.name}Stub", (), {"__init__": connect})
