"""What the subcommands of `distilbert-tf` share: flags that several have, and how they print."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from absl import flags


class UsageError(ValueError):
    """A command line that cannot be understood."""


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        summary: What it does, in a line.
        run: Does the work, given the parsed flags and the words that are no flags.
        define: Defines the flags.
        example: What one may type after its name.
        required: Flags that must be given.
        words: How the usage line writes the words that are no flags; none if empty.
    """

    summary: str
    run: Callable[[flags.FlagValues, Sequence[str]], None]
    define: Callable[[flags.FlagValues], None]
    example: str
    required: tuple[str, ...] = ()
    words: str = ""


def say(text: str) -> None:
    """Prints a result, immediately even into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def define_flag(
    values: flags.FlagValues,
    name: str,
    default: Any,
    text: str,
    *,
    kind: type | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
) -> None:
    """Defines a flag.

    Args:
        values: Where.
        name: What it is called.
        default: Its value if it is not given.
        text: Its help.
        kind: `bool`, `int`, `float`, `str` or `list` (with commas); the default's type if None.
        minimum: The smallest number.
        maximum: The largest number.
        choices: The only values.
    """
    kind = kind or type(default)
    if choices:
        flags.DEFINE_enum(name, default, choices, text, flag_values=values)
    elif kind in (int, float):
        define: Any = flags.DEFINE_integer if kind is int else flags.DEFINE_float
        define(name, default, text, minimum, maximum, flag_values=values)
    elif kind is bool:
        flags.DEFINE_boolean(name, default, text, flag_values=values)
    elif kind is list:
        flags.DEFINE_list(name, default, text, flag_values=values)
    else:
        flags.DEFINE_string(name, default, text, flag_values=values)


def define_model(values: flags.FlagValues, default: str | None = "demo") -> None:
    define_flag(values, "model", default, "checkpoint: a directory, a hub repository, or 'demo'")


def define_max_length(values: flags.FlagValues) -> None:
    text = "longest row in tokens; longer text is truncated (default: as in fine-tuning)"
    define_flag(values, "max_length", None, text, kind=int, minimum=3)


def define_model_name(values: flags.FlagValues) -> None:
    define_flag(values, "model_name", "distilbert", "name of the served model")


def define_address(values: flags.FlagValues) -> None:
    define_model_name(values)
    define_flag(values, "host", "127.0.0.1", "address of the server")
    define_flag(values, "port", 8500, "port of the server", minimum=0, maximum=65535)


def define_batching(values: flags.FlagValues) -> None:
    text = "largest number of rows that a server computes at once"
    define_flag(values, "max_batch_size", 32, text, minimum=1)
    text = "largest number of rows in a request, which is computed in parts (default: 1024)"
    define_flag(values, "max_request_rows", None, text, kind=int, minimum=1)
    text = "how long a request may wait for others to share its batch"
    define_flag(values, "max_latency_ms", 5.0, text, minimum=0.0)
