"""Texts as tf.Examples: the input of Classify, Regress and MultiInference."""

from collections.abc import Mapping, Sequence

from distilbert_serving.protos import input_pb2


def to_input(columns: Mapping[str, Sequence[str | bytes]]) -> input_pb2.Input:
    """Makes the input message of B texts or pairs.

    Args:
        columns: B texts by feature name: `signatures.TEXT`, and `TEXT_PAIR` for pairs. Bytes are
            UTF-8.

    Returns:
        A message with B tf.Examples.

    Raises:
        ValueError: The columns differ in length.
    """
    message = input_pb2.Input()
    examples = message.example_list.examples
    for row in zip(*columns.values(), strict=True):
        feature = examples.add().features.feature
        for name, text in zip(columns, row, strict=True):
            value = text.encode() if isinstance(text, str) else text
            feature[name].bytes_list.value.append(value)
    return message


def serialize_examples(columns: Mapping[str, Sequence[str | bytes]]) -> list[bytes]:
    """Makes serialized tf.Examples: the input of a signature that takes them.

    Args:
        columns: See `to_input`.

    Returns:
        The bytes of B tf.Examples.
    """
    examples = to_input(columns).example_list.examples
    return [example.SerializeToString(deterministic=True) for example in examples]
