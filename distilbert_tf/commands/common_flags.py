"""What the subcommands of `distilbert-tf` share: flags that several have, and small helpers."""

import sys
from collections.abc import Callable, Iterable, Sequence
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
        words: How the usage line writes the words that are no flags; none if empty.
    """

    summary: str
    run: Callable[[flags.FlagValues, Sequence[str]], None]
    define: Callable[[flags.FlagValues], None]
    words: str = ""


def say(text: str) -> None:
    """Prints a result, at once even into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def required(values: flags.FlagValues, name: str) -> Any:
    """Gives a flag's value, and complains if there is none."""
    if values[name].value is None:
        raise UsageError(f"--{name} is required")
    return values[name].value


def read_texts(words: Sequence[str]) -> Iterable[str]:
    """Gives the texts of a command line, or the lines of standard input."""
    return words or (line.rstrip("\r\n") for line in sys.stdin)


def split_pair(text: str) -> tuple[str, str]:
    """Splits at the first tab."""
    first, tab, second = text.partition("\t")
    if not tab:
        raise UsageError(f"--pair wants two texts with a tab between them; got {text[:60]!r}")
    return first, second


def define_model(values: flags.FlagValues, default: str | None = "demo") -> None:
    """Defines --model."""
    flags.DEFINE_string(
        "model",
        default,
        "checkpoint: a directory, a name on the hub, or 'demo'",
        flag_values=values,
    )


def define_task(values: flags.FlagValues, text: str = "task: sst2, mnli or qqp") -> None:
    """Defines --task and --data."""
    flags.DEFINE_string("task", "sst2", text, flag_values=values)
    flags.DEFINE_string(
        "data",
        "demo",
        "directory with the task's files in GLUE's layout or the hub's, 'hub', or 'demo'",
        flag_values=values,
    )


def define_data(values: flags.FlagValues) -> None:
    """Defines --task, --data and --batch_size."""
    define_task(values)
    flags.DEFINE_integer("batch_size", 32, "rows per step", lower_bound=1, flag_values=values)


def define_max_length(values: flags.FlagValues) -> None:
    """Defines --max_length."""
    flags.DEFINE_integer(
        "max_length",
        None,
        "longest row in tokens; longer text is cut (default: that of the fine-tuning)",
        3,
        flag_values=values,
    )


def define_pair(values: flags.FlagValues) -> None:
    """Defines --pair."""
    flags.DEFINE_boolean(
        "pair", False, "each TEXT holds two texts with a tab between them", flag_values=values
    )


def define_model_name(values: flags.FlagValues) -> None:
    """Defines --model_name."""
    flags.DEFINE_string("model_name", "distilbert", "name of the served model", flag_values=values)


def define_address(values: flags.FlagValues) -> None:
    """Defines --model_name, --host and --port."""
    define_model_name(values)
    flags.DEFINE_string("host", "127.0.0.1", "address of the server", flag_values=values)
    flags.DEFINE_integer("port", 8500, "port of the server", 0, 65535, flag_values=values)
