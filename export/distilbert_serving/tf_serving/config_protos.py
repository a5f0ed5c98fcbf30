"""TF Serving's configuration messages that `tensorflow-serving-api` does not ship.

Declared here as protocol buffers with the server's names and field numbers, so that the files for
a server are written and read by the library that the server itself uses, with its checks.

Reference: tensorflow_serving/servables/tensorflow/session_bundle_config.proto,
tensorflow_serving/config/monitoring_config.proto and ssl_config.proto.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_PACKAGE = "tensorflow.serving"
_Field = descriptor_pb2.FieldDescriptorProto
_INT64_VALUE = "google.protobuf.Int64Value"
_STRING_VALUE = "google.protobuf.StringValue"
_BOOL_VALUE = "google.protobuf.BoolValue"

# Field number, name, and type: a scalar type of protocol buffers, or a message's name. The one
# field that is repeated is marked so.
_MESSAGES: dict[str, tuple[tuple[int, str, int | str], ...]] = {
    "BatchingParameters": (
        (1, "max_batch_size", _INT64_VALUE),
        (2, "batch_timeout_micros", _INT64_VALUE),
        (3, "max_enqueued_batches", _INT64_VALUE),
        (4, "num_batch_threads", _INT64_VALUE),
        (5, "thread_pool_name", _STRING_VALUE),
        (6, "allowed_batch_sizes", _Field.TYPE_INT64),
        (7, "pad_variable_length_inputs", _Field.TYPE_BOOL),
        (8, "enable_large_batch_splitting", _BOOL_VALUE),
        (9, "max_execution_batch_size", _INT64_VALUE),
    ),
    "PrometheusConfig": (
        (1, "enable", _Field.TYPE_BOOL),
        (2, "path", _Field.TYPE_STRING),
    ),
    "MonitoringConfig": ((1, "prometheus_config", f"{_PACKAGE}.PrometheusConfig"),),
    "SSLConfig": (
        (1, "server_key", _Field.TYPE_STRING),
        (2, "server_cert", _Field.TYPE_STRING),
        (3, "custom_ca", _Field.TYPE_STRING),
        (4, "client_verify", _Field.TYPE_BOOL),
    ),
}
_REPEATED = ("allowed_batch_sizes",)


def _declare() -> descriptor_pool.DescriptorPool:
    """Declares the messages in a pool of their own, apart from whatever TensorFlow declares."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="export/config.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for number, name, kind in fields:
            label = _Field.LABEL_REPEATED if name in _REPEATED else _Field.LABEL_OPTIONAL
            field = message.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".{kind}"
            else:
                field.type = kind  # type: ignore[assignment]
    pool.Add(file)
    return pool


_POOL = _declare()


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


BatchingParameters = _class("BatchingParameters")
MonitoringConfig = _class("MonitoringConfig")
SSLConfig = _class("SSLConfig")
