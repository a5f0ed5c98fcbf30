"""The command line: usage, errors, and the whole path in real processes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import absl.flags
import pytest
from distilbert_serving.tf_serving.environment import serving_environment
from tiny_task import tiny_checkpoint

from distilbert_tf import cli
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification

COMMAND = [sys.executable, "-m", "distilbert_tf.cli"]


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
        (("query", "--pair", "one text"), 2, "two texts with a tab between them; got 'one text'"),
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


def run(*argv: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [*COMMAND, *argv], input=stdin, capture_output=True, text=True, env=environment, check=False
    )


def test_a_closed_pipe_ends_quietly(tiny_classifier: Path) -> None:
    lines = "what a kind song\n" * 3000
    process = subprocess.Popen(
        [*COMMAND, "predict", f"--model={tiny_classifier}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    try:
        process.stdin.write(lines)
        process.stdin.close()
    except BrokenPipeError:
        pass
    assert "BrokenPipeError" not in process.stderr.read()
    assert process.wait(timeout=120) == 1


def test_export_serve_query(tiny_classifier: Path, tmp_path: Path) -> None:
    served = tmp_path / "served"
    exported = run("export", f"--model={tiny_classifier}", f"--output={served}", "--max_length=16")
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout == f"exported and verified: {served}/1\n"
    server = subprocess.Popen(
        [*COMMAND, "serve", f"--model_base_path={served}", "--port=0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    try:
        port = next(
            match.group(1)
            for line in server.stderr
            if (
                match := re.search(
                    r"Serving model distilbert version 1 on 127\.0\.0\.1:(\d+)", line
                )
            )
        )
        texts = ["what a stale meal", "a warm talk", "the room was bright ."]
        by_words = run("query", f"--port={port}", "--wait_s=60", *texts)
        assert by_words.returncode == 0, by_words.stderr
        by_lines = run("query", f"--port={port}", "--json", stdin="\n".join(texts) + "\n")
        assert by_lines.returncode == 0, by_lines.stderr
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0
    predicted = run("predict", f"--model={tiny_classifier}", *texts)
    expected = [json.loads(line)["answers"][0] for line in predicted.stdout.splitlines()]
    rows = [json.loads(line) for line in by_lines.stdout.splitlines()]
    assert [row["text"] for row in rows] == texts
    assert [row["label"] for row in rows] == [answer["label"] for answer in expected]
    for row, answer in zip(rows, expected, strict=True):
        assert max(row["probabilities"]) == pytest.approx(answer["score"], abs=1e-5)
    assert [line.split("\t")[0] for line in by_words.stdout.splitlines()] == [
        answer["label"] for answer in expected
    ]


def test_the_demo_does_not_touch_a_directory_of_someone_elses(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    code, shown = fails(capsys, "demo", f"--output={tmp_path}")
    assert code == 1
    assert "is not from an earlier demo" in shown
    assert (tmp_path / "thesis.txt").read_text() == "irreplaceable"
