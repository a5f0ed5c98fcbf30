"""The `distilbert-tf` command: finds the subcommand, parses its flags, and reports errors."""

import os
import sys
from collections.abc import Sequence

from absl import flags, logging

from distilbert_tf.commands import COMMANDS
from distilbert_tf.commands.common_flags import UsageError, say

PROGRAM = "distilbert-tf"


def _usage() -> str:
    lines = [f"usage: {PROGRAM} COMMAND [--flag=value ...]", "", "commands:"]
    lines += [f"  {name:<12} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", f"{PROGRAM} COMMAND --help lists a command's flags."])


def _command_usage(name: str, values: flags.FlagValues) -> str:
    lines = [
        f"usage: {PROGRAM} {name} [--flag=value ...] {COMMANDS[name].words}".rstrip(),
        COMMANDS[name].summary,
        "",
        "flags:",
    ]
    for flag in sorted(values):
        default = values[flag].default
        shown = "" if default is None else f" (default: {default})"
        lines.append(f"  --{flag}: {values[flag].help}{shown}")
    return "\n".join(lines)


def _is_expected(error: Exception) -> bool:
    """Returns whether an error is of a kind whose message is meant for users."""
    kinds: tuple[type[Exception], ...] = (OSError, ValueError, TypeError, RuntimeError)
    if tensorflow := sys.modules.get("tensorflow"):
        kinds = (*kinds, tensorflow.errors.OpError)
    return isinstance(error, kinds)


def _run(argv: Sequence[str]) -> None:
    if not argv or argv[0] in ("--help", "-h", "help"):
        say(_usage())
        return
    name = argv[0]
    if name not in COMMANDS:
        raise UsageError(f"there is no command {name!r}; there are {', '.join(COMMANDS)}")
    values = flags.FlagValues()
    COMMANDS[name].define(values)
    if any(word in ("--help", "-h") for word in argv[1:]):
        say(_command_usage(name, values))
        return
    words = values(list(argv))[1:]
    if words and not COMMANDS[name].words:
        raise UsageError(f"unexpected argument {words[0]!r}: flags are written --name=value")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    flags.FLAGS([PROGRAM])  # absl's logging needs its own flags to be parsed
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
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
    try:
        _run(argv)
    except (UsageError, flags.Error) as error:
        sys.stderr.write(f"{command}: {error}\n")
        raise SystemExit(2) from None
    except BrokenPipeError:
        # The reader of our output is gone. Python would report it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        if not _is_expected(error) or os.environ.get("DISTILBERT_TF_TRACEBACK"):
            raise
        sys.stderr.write(
            f"{command}: {type(error).__name__}: {error}\n"
            "(DISTILBERT_TF_TRACEBACK=1 shows where.)\n"
        )
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        sys.stderr.write(f"{command}: interrupted\n")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
