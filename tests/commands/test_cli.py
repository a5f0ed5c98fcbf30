"""The command line: usage, errors, and the whole path in real processes."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import absl.flags
import numpy as np
import pytest
from comparing import assert_close, largest, roundings
from distilbert_serving.tf_serving.environment import serving_environment
from processes import deadline, finish
from server_process import ServerProcess
from tiny_task import tiny_checkpoint

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
    assert shown.startswith(f"usage: distilbert-tf {name} ")
    assert cli.COMMANDS[name].summary in shown
    defined = absl.flags.FlagValues()
    cli.COMMANDS[name].define(defined)
    assert re.findall(r"^  --(\w+): ", shown, re.MULTILINE) == sorted(defined)


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (("finetun",), 2, "distilbert-tf: there is no command 'finetun'; there are finetune"),
        (("finetune", "--epoch=2"), 2, "distilbert-tf finetune: Unknown command line flag 'epoch'"),
        (("finetune", "--epochs=0"), 2, "distilbert-tf finetune: flag --epochs=0"),
        (("finetune", "sst2"), 2, "unexpected argument 'sst2': flags are written --name=value"),
        (("export", "--output=x"), 2, "distilbert-tf export: --model is required"),
        (("predict", "--model=./x", "--pair", "one text"), 1, "There is no directory x"),
        (
            ("query", "--pair", "one text"),
            2,
            "two texts separated by a tab are expected; got 'one text'",
        ),
        (("serve",), 2, "distilbert-tf serve: --model_base_path is required"),
        (("finetune", "--task=cola"), 1, "ValueError: There is no task 'cola'; known are sst2"),
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
    assert "Traceback" not in shown


def test_query_says_that_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = fails(capsys, "query", "--port=1", "--timeout_s=0.5", "Is anybody there?")
    assert code == 1
    assert "127.0.0.1:1" in shown


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
    predicted = run("predict", f"--model={tiny_classifier}", *texts).splitlines()
    expected = [json.loads(line)["answers"][0] for line in predicted]
    rows = [json.loads(line) for line in by_lines]
    assert [row["text"] for row in rows] == texts
    labels = [answer["label"] for answer in expected]
    assert [row["label"] for row in rows] == labels
    assert [line.split("\t")[0] for line in by_words] == labels
    assert_close(
        [max(row["probabilities"]) for row in rows],
        [answer["score"] for answer in expected],
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
