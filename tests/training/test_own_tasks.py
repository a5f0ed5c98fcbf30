"""Tasks of one's own: from a file or a table to a classifier that knows its task."""

import csv
import dataclasses
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from comparing import near, roundings
from interruptions import StopOnce
from tiny_task import BAD, CONFIG, GOOD, THINGS, tiny_checkpoint, tiny_classifier

from distilbert_tf import cli
from distilbert_tf.commands import training as commands
from distilbert_tf.data.splits import load_training_splits
from distilbert_tf.data.tasks import Task
from distilbert_tf.training.classifiers import recorded_task
from distilbert_tf.training.evaluation import evaluate, score_pretrained
from distilbert_tf.training.finetuning import finetune
from distilbert_tf.training.interruption import InterruptedRunError

COUNT = roundings(CONFIG)
QUEUES = ("complaints", "praise", "questions")
COLUMNS = ["--text_columns=subject,body", "--label_column=queue"]
SETTINGS = ["--epochs=1", "--batch_size=8", "--learning_rate=1e-3", "--max_length=12"]
BARE = Task("tickets", ("subject", "body"), ("queue",))


def ticket(number: int) -> dict[str, str]:
    random = np.random.default_rng(number)
    queue = number % 3
    word = random.choice((BAD, GOOD, THINGS)[queue])
    subject, body = f"the {random.choice(THINGS)}", f"what a {word} {random.choice(THINGS)}"
    return {"subject": subject, "body": body, "queue": QUEUES[queue]}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "encoder")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "tickets"
    root.mkdir()
    with (root / "train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["queue", "body", "subject"], delimiter=";")
        writer.writeheader()
        writer.writerows(map(ticket, range(40)))
    pd.DataFrame(map(ticket, range(50, 61))).to_json(
        root / "test.jsonl", orient="records", lines=True
    )
    return root


@pytest.fixture(scope="module")
def run(encoder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "out"
    cli.main(["finetune", f"--model={encoder}", f"--data={data}", f"--output={output}", *COLUMNS,
              "--metrics=macro_f1,accuracy", *SETTINGS])  # fmt: skip
    return output


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    cli.main(words)
    return json.loads(capsys.readouterr().out)


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit):
        cli.main(words)
    return capsys.readouterr().err


def test_the_command_line_finds_labels_and_makes_a_validation_split(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert config["id2label"] == {str(i): queue for i, queue in enumerate(QUEUES)}
    task = Task("tickets", BARE.text_columns, BARE.label_columns, QUEUES,
                metrics=("macro_f1", "accuracy"))  # fmt: skip
    assert recorded_task(run) == task
    found = json.loads((run / "run.json").read_text())["data_files"]["tickets"]
    assert {split: one["rows"] for split, one in found.items()} == {
        "train": 36, "validation": 4, "test": 11,
    }  # fmt: skip


def test_a_checkpoint_knows_its_task_and_its_data(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = json.loads((run / "metrics.json").read_text())["scores"]["tickets"]["validation"]
    expected = {name: saved[name] for name in ("loss", "macro_f1", "accuracy")}
    for words in ([], [f"--data={data}"], ["--task=tickets"]):
        scores = printed(capsys, "evaluate", f"--model={run}", *words)
        assert scores == near(expected, COUNT, size=1.0)
    whole = score_pretrained(run, data=data / "train.csv")
    assert whole.rows == 40
    test = json.loads((run / "metrics.json").read_text())["scores"]["tickets"]["test"]
    scores = printed(capsys, "evaluate", f"--model={run}", "--split=test")
    assert scores == near({name: test[name] for name in expected}, COUNT, size=1.0)
    assert test["rows"] == 11
    card = (run / "README.md").read_text()
    assert "| test | 11 |" in card
    assert "- validation: train.csv, 4 rows, held out of the training rows (0.1 of each" in card
    held_out = printed(capsys, "evaluate", f"--model={run}", "--metrics=accuracy")
    assert list(held_out) == ["loss", "accuracy"]
    message = fails(capsys, "evaluate", f"--model={run}", "--task=mails")
    assert "no task 'mails'; known are sst2, mnli, qqp, and" in message
    assert "is for 'tickets'" in message


def test_a_run_on_a_single_file_is_scored_on_what_it_held_out(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a file was the training split, whatever split is asked for."""
    model = shutil.copytree(run, tmp_path / "model")
    record = json.loads((run / "run.json").read_text())
    (model / "run.json").write_text(json.dumps({**record, "data": str(data / "train.csv")}))
    saved = json.loads((run / "metrics.json").read_text())["scores"]["tickets"]
    for split, flags in (("validation", []), ("test", [f"--test_file={data / 'test.jsonl'}"])):
        scores = printed(capsys, "evaluate", f"--model={model}", f"--split={split}", *flags)
        assert scores == near({name: saved[split][name] for name in scores}, COUNT, size=1.0)
    assert evaluate(model) == near(
        {name: saved["validation"][name] for name in scores}, COUNT, size=1.0
    )
    file = f"--validation_file={data / 'test.jsonl'}"
    scores = printed(capsys, "evaluate", f"--model={model}", file)
    assert scores == near({name: saved["test"][name] for name in scores}, COUNT, size=1.0)
    assert "has no test split" in fails(capsys, "evaluate", f"--model={model}", "--split=test")
    for command, flag in (("evaluate", "--validation_file"), ("finetune", "--test_file")):
        message = fails(capsys, command, f"--model={model}", "--task=tickets", f"{flag}=new.csv")
        assert "there is no file new.csv here" in message
    pd.DataFrame([ticket(i) for i in range(3)]).to_csv(tmp_path / "new.csv", index=False)
    cli.main(["submit", f"--model={model}", f"--test_file={tmp_path / 'new.csv'}",
              f"--output={tmp_path}"])  # fmt: skip
    assert len((tmp_path / "tickets.tsv").read_text().splitlines()) == 1 + 3


def test_a_file_of_its_own_for_validation_beside_a_single_file(data: Path) -> None:
    splits = {**BARE.splits, "validation": (str(data / "test.jsonl"),)}
    task = dataclasses.replace(BARE, labels=QUEUES, splits=splits)
    found = load_training_splits(task, data / "train.csv")
    assert {split: len(examples) for split, examples in found.items()} == {
        "train": 40, "validation": 11,
    }  # fmt: skip


def test_a_classifier_of_pairs_takes_no_single_texts(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = printed(capsys, "predict", "--json", f"--model={run}", "the tea\twhat a rude talk")
    assert answer["label"] in QUEUES
    assert (answer["text"], answer["text_pair"]) == ("the tea", "what a rude talk")
    message = fails(capsys, "predict", f"--model={run}", "what a rude talk")
    assert "two texts separated by a tab are expected; got 'what a rude talk'" in message
    assert r"in a shell, a pair is written $'first\tsecond'" in message


def test_the_test_split_is_answered_in_the_tasks_labels(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pd.DataFrame([ticket(i) for i in range(5)]).to_csv(tmp_path / "new.csv", index=False)
    cli.main(["submit", f"--model={run}", f"--data={tmp_path}", "--test_file=new.csv",
              f"--output={tmp_path}"])  # fmt: skip
    header, *rows = (tmp_path / "tickets.tsv").read_text().splitlines()
    assert header == "index\tprediction"
    assert {row.split("\t")[1] for row in rows} <= set(QUEUES)
    assert len(rows) == 5


def test_a_task_in_a_file_and_a_run_that_is_resumed_by_its_directory_alone(
    encoder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "help desk.json"
    file.write_text(json.dumps({**BARE.record(), "name": "desk", "validation_share": 0.2}))
    options = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "max_length": 12}
    with pytest.raises(InterruptedRunError):
        finetune(str(file), encoder, data, tmp_path / "out", **options,
                 callbacks=[StopOnce(3, signal.SIGTERM)])  # fmt: skip
    file.unlink()
    cli.main(["finetune", f"--output={tmp_path / 'out'}"])
    assert "desk, validation, 8 rows" in capsys.readouterr().out
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert (run["resumed_at_step"], run["steps"]) == (3, 8)
    with pytest.raises(FileExistsError, match="already holds a finished run"):
        finetune(BARE, encoder, data, tmp_path / "out")


def test_an_interrupted_run_on_other_columns_is_another_run(
    encoder: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InterruptedRunError):
        finetune(BARE, encoder, data, tmp_path / "out", batch_size=8, max_length=12,
                 callbacks=[StopOnce(1, signal.SIGTERM)])  # fmt: skip
    swapped = Task("tickets", ("body", "subject"), ("queue",))
    with pytest.raises(
        FileExistsError, match=r"another run .*task_records was .*'subject', 'body'"
    ):
        finetune(swapped, encoder, data, tmp_path / "out", batch_size=8, max_length=12)


def test_a_data_frame_is_split_trained_on_and_scored(encoder: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame([ticket(i) for i in range(40)])
    result = finetune(BARE, encoder, frame, tmp_path / "out", epochs=1, batch_size=8, max_length=12)
    assert {split: scores.rows for split, scores in result.scores["tickets"].items()} == {
        "validation": 4
    }
    assert result.run["data"] is None
    assert "- train: in memory, 36 rows, sha256" in (tmp_path / "out/README.md").read_text()
    held_out = load_training_splits(recorded_task(tmp_path / "out"), frame)["validation"]
    for found in (
        evaluate(tmp_path / "out", {"train": frame}),
        evaluate(result.model, held_out, result.tokenizer),
    ):
        assert found == near(result.metrics, COUNT, size=1.0)
    with pytest.raises(TypeError, match=r"it needs the tokenizer, too: evaluate\(model, data, tok"):
        evaluate(result.model, frame)
    with pytest.raises(FileExistsError, match="already holds a finished run"):
        finetune(BARE, encoder, frame, tmp_path / "out")


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        (pd.DataFrame({"subject": ["a"]}), {}, r"or a \.json file; got DataFrame. A table of"),
        (BARE, {"num_epochs": 2}, r"no setting 'num_epochs' \(did you mean 'epochs'\?\)"),
        (BARE, {"validation_data": []}, r"Validation data is part of data: \{\"train\": \.\.\., "),
    ],
)
def test_calls_that_are_almost_right(
    encoder: Path, tmp_path: Path, task: Any, settings: dict, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        finetune(task, encoder, [ticket(i) for i in range(9)], tmp_path / "out", **settings)


def test_several_tasks_in_memory(encoder: Path, tmp_path: Path) -> None:
    rows = [ticket(i) for i in range(24)]
    tone = Task("tone", ("body",), ("tone",), ("cold", "warm"))
    tones = {"body": [row["body"] for row in rows], "tone": [i % 2 for i in range(24)]}
    result = finetune(
        [BARE, tone], encoder, {"tickets": rows, "tone": {"train": tones}}, tmp_path / "out",
        epochs=1, batch_size=8, max_length=12,
    )  # fmt: skip
    assert result.classifiers["tickets"].config.id2label == dict(enumerate(QUEUES))
    assert recorded_task(tmp_path / "out", "tone") == tone
    with pytest.raises(ValueError, match=r"several tasks; name one of tickets, tone \(--task\)"):
        recorded_task(tmp_path / "out")


def test_a_file_is_looked_for_where_the_data_is_and_then_here(
    data: Path, encoder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pd.DataFrame([ticket(i) for i in range(6)]).to_csv("extra.csv", index=False)
    words = ["finetune", f"--model={encoder}", "--dry_run", *SETTINGS, *COLUMNS]
    cli.main([*words, f"--data={data}", "--validation_file=extra.csv"])
    assert "train 40 rows, validation 6 rows, test 11 rows" in capsys.readouterr().out
    cli.main([*words, f"--data={data}", "--validation_file=test.jsonl"])
    assert "train 40 rows, validation 11 rows, test 11 rows" in capsys.readouterr().out
    cli.main([*words, f"--train_file={data / 'train.csv'}", "--validation_share=0.5"])
    assert "train: train 20 rows, validation 20 rows;" in capsys.readouterr().out


def test_a_classifier_of_someone_elses_is_scored_on_the_columns_that_are_named(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_classifier(tmp_path / "model", encoder, {0: "LABEL_0", 1: "LABEL_1"})
    pd.DataFrame({"remark": ["kind tea", "rude walk"], "mood": [1, 0]}).to_csv(
        tmp_path / "all.csv", index=False
    )
    words = ["evaluate", f"--model={tmp_path / 'model'}", f"--data={tmp_path / 'all.csv'}"]
    message = fails(capsys, *words)
    assert "does not record which task it is for: name the task (--task), or its col" in message
    scores = printed(capsys, *words, "--text_columns=remark", "--label_column=mood")
    assert scores["accuracy"] in (0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which task? Give --task=sst2, mnli, qqp or a .json file; or, for one of your"),
        (["--data={data}"], "train.csv has the columns queue, body, subject)"),
        (["--data={data}", "--text_columns=body"], "needs both --text_columns and --label_column"),
        (["--task=sst2,mnli", "--text_columns=body"], "describe one task, not several"),
        (["--data={data}", "--text_columns=body", "--label_column=Queue"], "did you mean 'queue'?"),
        (COLUMNS, "no demo data for the task 'task': name the directory with its files"),
        ([*COLUMNS, "--data={data}", "--labels=complaints,Praise,questions"],
         "line 3: column 'queue': the label 'praise' is none of complaints, Praise, questions, "),
        ([*COLUMNS, "--data={data}", "--train_file=tickets.csv"], "(--train_file)"),
        ([*COLUMNS, "--data={data}", "--label_column=subject", "--validation_share=2"], "0 and 1"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said(
    data: Path, encoder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    given = [word.format(data=data) for word in words]
    assert message in fails(capsys, "finetune", f"--model={encoder}", *given)


def test_workers_get_the_flags_of_the_task(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(commands, "launch", lambda *arguments: calls.append(arguments))
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(["finetune", f"--data={data}", *COLUMNS, "--labels=b,a", "--num_workers=2"])
    ((words, count, logs),) = calls
    assert {*COLUMNS, "--labels=b,a", f"--data={data}"} <= set(words)
    assert (count, logs) == (2, Path("runs/tickets/logs"))
