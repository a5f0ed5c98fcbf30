"""What TF Serving's configuration files have in common: protocol buffers as text, and errors."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import text_format

from distilbert_tf.files import replacing

_Message = TypeVar("_Message")


class ConfigError(ValueError):
    """A configuration that a server would refuse, or that cannot mean what was wanted."""


def read_config(path: str | os.PathLike[str], message: _Message) -> _Message:
    """Reads a file.

    Args:
        path: The file.
        message: A message of the type that the file holds; it is filled.

    Returns:
        The message.

    Raises:
        OSError: The file cannot be read.
        ConfigError: It holds something else. The error names file, line and column.
    """
    contents = Path(path).read_bytes()
    try:
        return text_format.Parse(contents.decode(), message)  # type: ignore[type-var]
    except UnicodeDecodeError as error:
        lines = contents[: error.start].split(b"\n")
        what = f"{len(lines)}:{len(lines[-1]) + 1} : this is not UTF-8"
    except text_format.ParseError as error:
        what = str(error)  # begins with line and column
    raise ConfigError(f"{os.fspath(path)}:{what} (it should be a {type(message).__name__})")


@contextlib.contextmanager
def errors_name(path: str | os.PathLike[str]) -> Iterator[None]:
    """Puts a file's name before what ValueErrors say of its contents, and makes ConfigErrors."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{os.fspath(path)}: {error}") from error


def write_config(path: str | os.PathLike[str], message: Any, comment: str = "") -> Path:
    """Writes a file, by one rename: a server may be reading.

    Args:
        path: The file.
        message: The message.
        comment: What to say at the file's beginning.

    Returns:
        The file.
    """
    lines = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
    path = Path(path)
    with replacing(path) as temporary:
        temporary.write_text(lines + text_format.MessageToString(message), encoding="utf-8")
    return path


def check_positive(name: str, value: int) -> None:
    """Checks a number.

    Args:
        name: What it is, for the error.
        value: The number.

    Raises:
        ConfigError: It is no integer, or less than 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be an integer of at least 1, not {value!r}.")
