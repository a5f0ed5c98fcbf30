"""Names of TensorFlow's data types, also of those that are newer than this TensorFlow."""

from export.protos import types_pb2


def name_data_type(number: int) -> str:
    """Names a value of `DataType` as in "float", or says its number if it is not known."""
    try:
        return types_pb2.DataType.Name(number).removeprefix("DT_").lower()
    except ValueError:
        return f"type {number}"
