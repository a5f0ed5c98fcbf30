"""The subcommand `demo`: the commands a user would type, each in a process of its own."""

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from distilbert_tf.commands.common_flags import define_flag, say
from distilbert_tf.training.launcher import command_line, free_ports

SENTENCES = (
    "I came for the soup and stayed three hours; we are already planning our next evening there.",
    "The zip broke within a week and nobody answers my emails.",
    "Not the smoothest start, yet the second half more than makes up for it.",
)
MARKER = ".distilbert_tf_demo"  # a directory that a demo made, and may replace
SERVER_LOG = "serve.log"


def define_demo(values: flags.FlagValues) -> None:
    text = "directory for everything; that of an earlier demo is replaced"
    define_flag(values, "output", "demo_run", text)


def run_demo(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Fine-tunes the demo encoder, exports it, serves it and queries it with three sentences.

    Raises:
        FileExistsError: The directory exists, and no demo made it.
        RuntimeError: A command failed.
    """
    output = Path(values.output)
    if output.exists():
        if not (output / MARKER).exists():
            raise FileExistsError(
                f"{output} is not from an earlier demo; choose another directory with --output."
            )
        shutil.rmtree(output)
    output.mkdir(parents=True)
    (output / MARKER).touch()
    port = str(free_ports(1)[0])
    checkpoint, served = str(output / "checkpoint"), str(output / "served")
    _run("finetune", "--task=sst2", "--model=demo", "--data=demo", "--epochs=4",
         "--batch_size=16", "--learning_rate=1e-4", "--output", checkpoint)  # fmt: skip
    _run("export", "--model", checkpoint, "--output", served)
    with (output / SERVER_LOG).open("wb") as log:
        command = _announced("serve", "--model_base_path", served, "--port", port)
        server = subprocess.Popen(command, stderr=log, stdout=log)
        try:
            _run("query", "--port", port, "--wait_s=120", *SENTENCES)
        except RuntimeError as error:
            raise RuntimeError(f"{error} The server's log is {output / SERVER_LOG}.") from error
        finally:
            server.terminate()
            server.wait(timeout=30)


def _announced(*words: str) -> list[str]:
    say(f"\n$ {shlex.join(['distilbert-tf', *words])}")
    return command_line(*words)


def _run(*words: str) -> None:
    result = subprocess.run(_announced(*words), check=False)
    if result.returncode:
        raise RuntimeError(f"distilbert-tf {words[0]} ended with exit code {result.returncode}.")
