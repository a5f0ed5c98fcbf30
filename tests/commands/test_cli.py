"""The command line: usage, errors, and the whole path in real processes."""

import contextlib
import importlib.metadata
import json
import os
import pty
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import absl.flags
import numpy as np
import pytest
from comparing import assert_close, largest, roundings
from distilbert_serving.tf_serving.environment import serving_environment
from processes import deadline, finish
from server_process import ServerProcess
from tiny_task import tiny_checkpoint

import distilbert_tf
from distilbert_tf import cli
from distilbert_tf.checkpoints.config import load_config
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve` sets its process' environment, which is this one here: take it back afterwards."""
    for name in serving_environment():
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "classifier")
    model = TFDistilBertForSequenceClassification.from_pretrained(
        directory, id2label={0: "negative", 1: "positive"}
    )
    model.save_pretrained(directory)
    return directory


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize("argv", [(), ("--help",), ("-h",), ("help",)])
def test_usage_lists_every_command(capsys: pytest.CaptureFixture[str], argv: tuple) -> None:
    cli.main(argv)
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", shown, re.MULTILINE) for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_explains_its_flags(capsys: pytest.CaptureFixture[str], name: str) -> None:
    cli.main([name, "--help"])
    shown = capsys.readouterr().out
    command = cli.COMMANDS[name]
    assert shown.startswith(f"usage: distilbert-tf {name} ")
    assert command.summary[1:] in shown
    defined = absl.flags.FlagValues()
    command.define(defined)
    names = re.findall(r"^  --(?:\[no\])?(\w+): ", shown, re.MULTILINE)
    assert sorted(names) == sorted([*defined, "verbose"])
    assert max(map(len, shown.split("example:")[1].split("\n\n", 1)[1].splitlines())) <= 100
    # The example is one: it parses, and nothing that is required is missing.
    assert cli._parse([name, *shlex.split(command.example)], defined) is not None
    cli.main(["help", name])
    assert capsys.readouterr().out == shown


def test_help_groups_flags_and_shows_defaults_as_one_types_them(capsys) -> None:
    cli.main(["finetune", "--help"])
    shown = capsys.readouterr().out
    titles = re.findall(r"^([a-z ]+):$", shown, re.MULTILINE)
    assert titles[:4] == ["example", "model and result", "data", "training"]
    assert "\n  --[no]overwrite: replace an earlier result\n" in shown
    assert "  --learning_rate: peak learning rate (default: 5e-05)" in shown
    cli.main(["export", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "filter outputs (default: serving_default)" in shown
    assert "goes to <output>/<version>/ (required)" in shown


def test_version(capsys) -> None:
    cli.main(["--version"])
    tensorflow = importlib.metadata.version("tensorflow")
    assert re.match(
        rf"distilbert-tf {re.escape(distilbert_tf.__version__)} \(Python 3\.\d+\.\d+, "
        rf"tensorflow {tensorflow}, keras ",
        capsys.readouterr().out,
    )


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (
            ("fine-tune",),
            2,
            "distilbert-tf: there is no command 'fine-tune'. Did you mean finetune?",
        ),
        (("check_export",), 2, "Did you mean check-export?"),
        (("xyz",), 2, "there is no command 'xyz'. distilbert-tf --help lists the commands."),
        (("finetune",), 2, "distilbert-tf finetune: which task? Give --task=sst2"),
        (
            ("finetune", "--epoch=2"),
            2,
            "finetune: there is no flag --epoch. Did you mean --epochs?",
        ),
        (("query", "--concurency", "3"), 2, "no flag --concurency. Did you mean --concurrency?"),
        (("query", "--x=1"), 2, "no flag --x. distilbert-tf query --help lists the flags."),
        (("finetune", "--epochs=0"), 2, "distilbert-tf finetune: flag --epochs=0"),
        (("finetune", "sst2"), 2, "unexpected argument 'sst2': flags are written --name=value"),
        (
            ("export", "--output=x"),
            2,
            "export: --model is required. For example: distilbert-tf export --",
        ),
        (("predict", "a text"), 2, "distilbert-tf predict: --model is required"),
        (("predict", "--model=./x", "--pair", "one text"), 1, "predict: There is no directory x"),
        (("predict", "--model=x", "--input=./nowhere.csv"), 1, "nowhere.csv: No such file or dir"),
        (("serve",), 2, "serve: --model_base_path (or --model_config_file) is required"),
        (("finetune", "--task=cola"), 1, "finetune: There is no task 'cola'; known are sst2"),
        (("evaluate", "--model=./nowhere"), 1, "There is no directory nowhere"),
        (("serve", "--model_base_path=./nowhere"), 1, "nowhere"),
    ],
)
def test_mistakes_end_with_one_clear_line(
    capsys: pytest.CaptureFixture[str], argv: tuple, code: int, message: str
) -> None:
    ended_with, shown = fails(capsys, *argv)
    assert ended_with == code
    assert message in shown
    assert len(shown.splitlines()) == 1
    assert not re.search(r"\w(Error|Exception)\b|\w=True", shown)


def test_errors_speak_of_flags(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    code, shown = fails(capsys, "finetune", "--task=sst2", f"--output={tmp_path}")
    assert code == 1
    assert shown.endswith("Choose another --output, or pass --overwrite to replace it.\n")
    # A flag may be written with hyphens.
    code, shown = fails(capsys, "finetune", "--task=sst2", "--batch-size=0")
    assert shown.startswith("distilbert-tf finetune: flag --batch_size=0")


def test_query_says_at_once_that_nobody_listens(
    capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    start_s = time.monotonic()
    code, shown = fails(capsys, "query", f"--port={free_port}", "--timeout_s=60", "Anybody there?")
    assert time.monotonic() - start_s < 30
    assert code == 1
    assert shown.startswith(f"distilbert-tf query: nothing listens at 127.0.0.1:{free_port}. Start")
    assert len(shown.splitlines()) == 1
    code, shown = fails(capsys, "query", f"--port={free_port}", "--wait_s=0.5", "Anybody there?")
    assert f"127.0.0.1:{free_port}" in shown


def test_serve_says_in_one_line_that_its_port_is_taken(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, shown = fails(capsys, "serve", f"--model_base_path={tmp_path}", f"--port={port}")
    assert code == 1
    assert shown == (
        f"distilbert-tf serve: port {port} of 127.0.0.1 is in use, perhaps by another server: "
        "--port=0 takes a free one.\n"
    )


def test_help_imports_nothing_heavy() -> None:
    """So that it answers at once."""
    heavy = {"tensorflow", "keras", "transformers", "grpc", "numpy", "matplotlib"}
    code = (
        "import sys; from distilbert_tf import cli\n"
        "for name in cli.COMMANDS: cli.main([name, '--help'])\n"
        f"sys.exit(str({heavy} & sys.modules.keys()) if {heavy} & sys.modules.keys() else 0)"
    )
    finish(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True))


def start(*argv: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "distilbert_tf.cli", *argv],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip


def run(*argv: str, stdin: str = "") -> str:
    """Runs a command to its end, and returns what it prints."""
    process = start(*argv)
    with deadline(process, 120.0):
        output, errors = process.communicate(stdin)
    assert process.returncode == 0, errors
    return output


def test_a_closed_pipe_ends_quietly(tiny_classifier: Path) -> None:
    process = start("predict", f"--model={tiny_classifier}")
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with deadline(process, 120.0):
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("what a kind song\n" * 3000)
            process.stdin.close()
        assert "BrokenPipeError" not in process.stderr.read()
        assert process.wait() == 1


def test_export_serve_query(tiny_classifier: Path, tmp_path: Path) -> None:
    served = tmp_path / "served"
    exported = run("export", f"--model={tiny_classifier}", f"--output={served}", "--max_length=16")
    assert exported == f"exported and verified: {served}/1\n"
    texts = ["what a stale meal", "a warm talk", "the room was bright ."]
    with ServerProcess(f"--model_base_path={served}") as server:
        port = f"--port={server.port}"
        by_words = run("query", port, "--wait_s=60", *texts).splitlines()
        by_lines = run("query", port, "--json", stdin="\n".join(texts) + "\n").splitlines()
        assert server.end() == 0
    (tmp_path / "texts.csv").write_text("text\n" + "\n".join(texts) + "\n")
    predicted = run(
        "predict", f"--model={tiny_classifier}", f"--input={tmp_path / 'texts.csv'}", "--json"
    ).splitlines()
    expected = [json.loads(line) for line in predicted]
    rows = [json.loads(line) for line in by_lines]
    assert [row.keys() for row in rows] == [row.keys() for row in expected]
    assert [row["label_id"] for row in rows] == [row["label_id"] for row in expected]
    assert [row["text"] for row in rows] == texts
    labels = [answer["label"] for answer in expected]
    assert [row["label"] for row in rows] == labels
    assert [line.split("\t")[0] for line in by_words] == labels
    assert_close(
        [row["probabilities"] for row in rows],
        [row["probabilities"] for row in expected],
        roundings(load_config(tiny_classifier / "config.json")[0]),
        size=max(1.0, largest(np.log([row["probabilities"] for row in rows]))),  # the logits'
    )


def test_the_demo_does_not_touch_a_directory_of_someone_elses(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    code, shown = fails(capsys, "demo", f"--output={tmp_path}")
    assert code == 1
    assert "is not from an earlier demo" in shown
    assert (tmp_path / "thesis.txt").read_text() == "irreplaceable"


def test_a_terminal_is_asked_for_texts(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    terminal, stdin = pty.openpty()
    with os.fdopen(stdin) as file:
        monkeypatch.setattr(sys, "stdin", file)
        os.write(terminal, b"\x04")  # Ctrl-D
        code, shown = fails(capsys, "predict", "--model=./nowhere")
    os.close(terminal)
    assert code == 1
    assert shown.startswith("Type a text and Enter; Ctrl-D ends.")
