"""Texts as people have them: in lists, arrays, columns and tensors, with cells that are no text."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

REMEDY = "give a string for every row ('' is one), or leave the row out"


def as_python(texts: Any) -> Any:
    """Makes Python's lists and strings of arrays, of pandas' columns and of string tensors.

    Args:
        texts: Anything.

    Returns:
        A string, a list, or what it was.

    Raises:
        ValueError: A tensor holds bytes that are not UTF-8.
    """
    if isinstance(texts, tf.Tensor) and texts.dtype == tf.string:
        values = texts.numpy()  # of a single text, it is bytes
        rows = [values] if isinstance(values, bytes) else values.tolist()
        check_texts(rows, allow_bytes=True)
        decoded = [text.decode() for text in rows]
        return decoded[0] if isinstance(values, bytes) else decoded
    if isinstance(texts, np.ndarray) or type(texts).__name__ == "Series":
        return texts.tolist()
    return texts


def check_texts(texts: Iterable[Any], name: str = "text", *, allow_bytes: bool = False) -> None:
    """Checks that all texts are strings.

    Args:
        texts: Strings, or lists and tuples of them.
        name: What they are called in the error.
        allow_bytes: Whether bytes of UTF-8 will do.

    Raises:
        TypeError: A text is something else; the message names its row and what to do.
        ValueError: A text is not Unicode; likewise.
    """
    for row, cell in enumerate(texts):
        for text in cell if isinstance(cell, list | tuple) else (cell,):
            if fault := describe_fault(text, allow_bytes=allow_bytes):
                kind = ValueError if isinstance(text, str | bytes) else TypeError
                raise kind(f"The {name} of row {row} (from 0) {fault}: {REMEDY}.")


def describe_fault(text: Any, *, allow_bytes: bool = False) -> str | None:
    """Says why a value is no text, as in "is None"; returns None for a string.

    Args:
        text: Any value.
        allow_bytes: Whether bytes of UTF-8 will do.
    """
    if isinstance(text, str):
        try:
            text.encode()
        except UnicodeEncodeError:
            return "is not Unicode, but holds half of a surrogate pair"
        return None
    if isinstance(text, bytes):
        try:
            text.decode()
        except UnicodeDecodeError as error:
            return f"is bytes that are not UTF-8 ({error.reason} at byte {error.start})"
        return None if allow_bytes else "is bytes, not a string; decode them"
    if text is None:
        return "is None, not a string"
    if isinstance(text, float) and text != text:
        return "is NaN, a missing value, not a string"
    return f"is {text!r}, of type {type(text).__name__}, not a string"
