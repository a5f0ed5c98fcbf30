"""The `distilbert-tf` command: finds the subcommand, parses its flags, and reports errors."""

import importlib.metadata
import logging as python_logging
import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence

from absl import flags, logging

from distilbert_tf.commands import COMMANDS
from distilbert_tf.commands.common_flags import UsageError, say
from distilbert_tf.commands.help_text import PROGRAM, describe_command, describe_commands
from distilbert_tf.spelling import find_similar
from distilbert_tf.tensorflow_import import LOG_LEVEL, WARNING_LEVEL
from distilbert_tf.version import __version__

_HELP = ("--help", "-h", "help")
_OWN_LOGS = re.compile(r"[\\/]distilbert_(tf|serving)[\\/]")


class _Formatter(python_logging.Formatter):
    """Writes a time and a message; what is worse than information is named."""

    def format(self, record: python_logging.LogRecord) -> str:
        level = "" if record.levelno <= python_logging.INFO else f"{record.levelname.lower()}: "
        return f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')} {level}{record.getMessage()}"


def _start_logging(is_verbose: bool) -> None:
    """Logs this package's steps and everybody's warnings; if verbose, all that TensorFlow says."""
    flags.FLAGS([PROGRAM])  # absl's logging needs its own flags to be parsed
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    if is_verbose:
        os.environ[LOG_LEVEL] = "0"
        return
    os.environ.setdefault(LOG_LEVEL, str(WARNING_LEVEL))
    handler = logging.get_absl_handler().python_handler
    handler.setFormatter(_Formatter())
    handler.addFilter(_is_shown)


def _is_shown(record: python_logging.LogRecord) -> bool:
    return record.levelno > python_logging.INFO or bool(_OWN_LOGS.search(record.pathname))


def _versions() -> str:
    packages = [
        f"{name} {importlib.metadata.version(name)}"
        for name in ("tensorflow", "keras", "transformers")
    ]
    return f"{PROGRAM} {__version__} (Python {platform.python_version()}, {', '.join(packages)})"


def _find_command(name: str) -> str:
    """Returns the name of a command.

    Raises:
        UsageError: There is none; it suggests one.
    """
    if name in COMMANDS:
        return name
    hint = _suggest(name.replace("_", "-"), COMMANDS)
    raise UsageError(f"there is no command {name!r}.{hint} {PROGRAM} --help lists the commands.")


def _suggest(name: str, known: Iterable[str], dashes: str = "") -> str:
    """Returns a question that names what is written like `name`; nothing if nothing is."""
    similar = find_similar(name, known, cutoff=0.5)
    return f" Did you mean {dashes}{similar}?" if similar else ""


def _underscored(word: str) -> str:
    """Returns a flag as it is defined: `--batch-size=8` is `--batch_size=8`."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name[:2] == "--" else word


def _parse(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
    """Parses a command line without the program, and returns the words that are no flags.

    Raises:
        UsageError: A flag is unknown or lacking, or there are words where none are taken.
        flags.Error: A flag's value is wrong.
    """
    name, *words = argv
    end = words.index("--") if "--" in words else len(words)
    try:
        words = values([name, *map(_underscored, words[:end]), *words[end:]])[1:]
    except flags.UnrecognizedFlagError as error:
        hint = _suggest(error.flagname, values, "--")
        raise UsageError(
            f"there is no flag --{error.flagname}.{hint} {PROGRAM} {name} --help lists the flags."
        ) from None
    command = COMMANDS[name]
    if words and not command.words:
        raise UsageError(f"unexpected argument {words[0]!r}: flags are written --name=value")
    for flag in command.required:
        if values[flag].value is None:
            raise UsageError(
                f"--{flag} is required. For example: {PROGRAM} {name} {command.example}"
            )
    return words


def _explain(error: Exception, values: flags.FlagValues) -> str:
    """Returns what is wrong, in the words of the command line."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    # The names of arguments in Python are those of flags, but for one.
    names = {name: name for name in values} | {"output_dir": "output", "version_label": "label"}
    for name, flag in names.items():
        if flag in values:
            text = re.sub(rf"(?<![\w.-]){name}=True\b", f"--{flag}", text)
            text = re.sub(rf"(?<![\w.-]){name}=(?=\S)", f"--{flag}=", text)
            if "_" in name:
                text = re.sub(rf"(?<![\w.'\"-]){name}(?![\w'\"=(])", f"--{flag}", text)
    return re.sub(r"(--\w+) \(\1\)", r"\1", text) or type(error).__name__


def _is_expected(error: Exception) -> bool:
    """Returns whether an error is of a kind whose message is meant for users."""
    kinds: tuple[type[Exception], ...] = (OSError, ValueError, TypeError, RuntimeError)
    if tensorflow := sys.modules.get("tensorflow"):
        kinds = (*kinds, tensorflow.errors.OpError)
    return isinstance(error, kinds)


def _run(argv: Sequence[str], values: flags.FlagValues) -> None:
    if not argv or (argv[0] in _HELP and len(argv) == 1):
        say(describe_commands(COMMANDS))
        return
    if argv[0] == "--version":
        say(_versions())
        return
    if argv[0] in _HELP:
        argv = (argv[1], "--help")
    name = _find_command(argv[0])
    COMMANDS[name].define(values)
    flags.DEFINE_boolean(
        "verbose", False, "show TensorFlow's log, and where an error comes from", flag_values=values
    )
    if any(word in _HELP[:2] for word in argv[1:]):
        say(describe_command(name, COMMANDS[name], values))
        return
    words = _parse(argv, values)
    _start_logging(values.verbose)
    COMMANDS[name].run(values, words)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; user errors end it with a message instead of a traceback.

    Args:
        argv: Words after the program's name; those of this process if None.

    Raises:
        SystemExit: With 2 for a wrong command line, 1 for a failure.
    """
    argv = sys.argv[1:] if argv is None else argv
    command = f"{PROGRAM} {argv[0]}" if argv and argv[0] in COMMANDS else PROGRAM
    values = flags.FlagValues()
    try:
        _run(argv, values)
    except (UsageError, flags.Error) as error:
        sys.stderr.write(f"{command}: {_explain(error, values)}\n")
        raise SystemExit(2) from None
    except BrokenPipeError:
        # The reader of our output is gone. Python would report it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        is_verbose = "verbose" in values and values.verbose
        if not _is_expected(error) or is_verbose:
            raise
        hint = "" if isinstance(error, (OSError, ValueError)) else " (--verbose shows where.)"
        sys.stderr.write(f"{command}: {_explain(error, values)}{hint}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        sys.stderr.write(f"{command}: interrupted\n")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
