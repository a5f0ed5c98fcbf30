"""Teachers of a task: whose logits they are, when they are computed, and which cannot teach."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from comparing import assert_close, roundings
from safetensors.numpy import load_file
from tiny_task import WORDS, tiny_checkpoint, tiny_classifier, tiny_data

from distilbert_tf import cli
from distilbert_tf.checkpoints.tensor_files import CheckpointError
from distilbert_tf.data.examples import load_examples
from distilbert_tf.data.tasks import TASKS, Task
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.training.batches import collect_rows
from distilbert_tf.training.finetuning import FinetuneResult, finetune
from distilbert_tf.training.teacher import find_teacher

RECIPE: dict[str, Any] = {
    "epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "max_length": 12,
}  # fmt: skip
SST2 = TASKS["sst2"]
MOOD = Task("mood", ("sentence",), ("label",), ("glad", "sad", "none"), ("1", "0", "2"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student to be, data of two tasks, and their teachers, with labels in another order."""
    root = tmp_path_factory.mktemp("tiny")
    tiny_checkpoint(root / "student")
    larger = tiny_checkpoint(root / "larger", n_layers=2, dim=24)
    data = tiny_data(root / "data")
    for name in ("sst2", "mood"):
        (data / name).symlink_to(data)
    for name, labels in (("sst2", ("Positive", "Negative")), ("mood", ("none", "glad", "sad"))):
        tiny_classifier(root / "teachers" / name, larger, dict(enumerate(labels)))
    return root


@pytest.fixture(scope="module")
def taught(root: Path) -> FinetuneResult:
    return tune(root, root / "taught", root / "teachers" / "sst2")


def tune(root: Path, output: Path, teacher: Path | None = None, **options: Any) -> FinetuneResult:
    arguments = {"task": "sst2", "model": root / "student", "data": root / "data"}
    return finetune(**(arguments | RECIPE | options), output_dir=output, teacher=teacher)


def assert_same_weights(first: Path, second: Path) -> None:
    ours, theirs = (load_file(path / "model.safetensors") for path in (first, second))
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])


def test_logits_are_each_tasks_teachers_in_the_tasks_order(root: Path, tmp_path: Path) -> None:
    tasks = [SST2, MOOD]
    tokenizer = DistilBertTokenizer.from_pretrained(root / "student")
    tokenize, strategy = tokenizer.as_layer(max_length=12), tf.distribute.get_strategy()
    splits = {
        split: collect_rows([load_examples(task, root / "data", split) for task in tasks], tokenize)
        for split in ("train", "validation")
    }
    teacher = find_teacher(root / "teachers", tasks)
    found = teacher.find_logits(splits, tmp_path / "kept", strategy)
    assert list(found) == ["train", "validation"]
    for split, logits in found.items():
        rows = len(logits) // 2
        assert logits.shape == (2 * {"train": 96, "validation": 31}[split], 3)
        for number, (task, order) in enumerate(((SST2, [1, 0]), (MOOD, [1, 2, 0]))):
            texts = load_examples(task, root / "data", split).texts[0]
            model = TFDistilBertForSequenceClassification.from_pretrained(
                root / "teachers" / task.name
            )
            expected = model(tokenizer(list(texts), padding=True, return_tensors="tf")).numpy()
            own = logits[number * rows : (number + 1) * rows].numpy()
            assert_close(own[:, : len(order)], expected[:, order], roundings(model))
            assert (own[:, len(order) :] == 0).all()

    # They are computed once: what is kept is read, unless it is damaged or of other rows.
    (file,) = (tmp_path / "kept").iterdir()
    weights = root / "teachers" / "mood" / "model.safetensors"
    hidden = weights.rename(weights.with_name("hidden"))
    again = teacher.find_logits(splits, tmp_path / "kept", strategy)
    for split, logits in found.items():
        np.testing.assert_array_equal(again[split], logits)
    shorter = {"train": splits["train"]}
    with pytest.raises(FileNotFoundError):
        teacher.find_logits(shorter, tmp_path / "kept", strategy)
    hidden.rename(weights)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    again = teacher.find_logits(splits, tmp_path / "kept", strategy)
    for split, logits in found.items():
        np.testing.assert_array_equal(again[split], logits)
    assert file.read_bytes() == content
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_run_tells_of_its_teacher(root: Path, taught: FinetuneResult) -> None:
    run = json.loads((taught.output_dir / "run.json").read_text())
    (digest,) = run["teacher"]["sha256"].values()
    teacher = str(root / "teachers" / "sst2")
    assert run["teacher"] == {"checkpoint": teacher, "sha256": {"sst2": digest}}
    assert digest in (taught.output_dir / "README.md").read_text()
    assert f"teacher: {teacher}" in taught.report()
    scores = json.loads((taught.output_dir / "metrics.json").read_text())["scores"]["sst2"]
    assert scores["validation"]["agreement"] == taught.metrics["agreement"]
    assert not (taught.output_dir / "teacher_logits").exists()


def test_agreement_is_with_the_teacher(root: Path, taught: FinetuneResult) -> None:
    texts = load_examples(SST2, root / "data", "validation").texts[0]
    inputs = taught.tokenizer(list(texts), padding=True, return_tensors="tf")
    teacher = TFDistilBertForSequenceClassification.from_pretrained(root / "teachers" / "sst2")
    same = taught.model(inputs).numpy().argmax(1) == 1 - teacher(inputs).numpy().argmax(1)
    assert taught.metrics["agreement"] == pytest.approx(same.mean())
    assert 0 < taught.metrics["agreement"] < 1


def test_without_weight_a_teacher_changes_nothing(
    root: Path, taught: FinetuneResult, tmp_path: Path
) -> None:
    tune(root, tmp_path / "alone")
    tune(root, tmp_path / "mute", root / "teachers" / "sst2", distill_alpha=0.0)
    assert_same_weights(tmp_path / "alone", tmp_path / "mute")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "alone", taught.output_dir)


def test_with_all_the_weight_no_label_is_read(root: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "dev.tsv").symlink_to(root / "data" / "dev.tsv")
    text = (root / "data" / "train.tsv").read_text()
    (data / "train.tsv").write_text(text.replace("\t0\n", "\t1\n"))
    for name, directory in (("labels", root / "data"), ("others", data)):
        tune(
            root, tmp_path / name, root / "teachers" / "sst2", data=directory, distill_alpha=1.0
        )  # fmt: skip
    assert_same_weights(tmp_path / "labels", tmp_path / "others")


def test_several_tasks_have_a_teacher_each(root: Path, tmp_path: Path) -> None:
    run = tune(
        root, tmp_path / "out", root / "teachers", task=["sst2", MOOD], epochs=1,
        steps_per_execution=2, dtype="mixed_bfloat16",
    )  # fmt: skip
    assert run.run["teacher"]["sha256"].keys() == {"sst2", "mood"}
    assert {"sst2_agreement", "val_mood_agreement"} <= run.history.keys()
    for name in ("sst2", "mood"):
        assert run.scores[name]["validation"].values["agreement"] > 0
        digest = run.run["teacher"]["sha256"][name]
        assert digest in (tmp_path / "out" / name / "README.md").read_text()


def test_weights_and_labels_are_digested(root: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    found = []
    for labels, encoder in (("ab", "larger"), ("ba", "larger"), ("ab", "student")):
        tiny_classifier(teacher, root / encoder, dict(enumerate(labels)))
        task = Task("own", ("text",), ("label",), ("a", "b"))
        found.append(find_teacher(teacher, [task]).record()["sha256"]["own"])
    content = [(teacher / name).read_bytes() for name in ("config.json", "model.safetensors")]
    assert found[-1] == hashlib.sha256(b"".join(content)).hexdigest()
    assert len(set(found)) == 3


def test_a_plan_names_the_teacher(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--model={root / 'student'}", f"--data={root / 'data'}", "--max_length=12"]
    cli.main(["finetune", "--task=sst2", f"--teacher={root / 'teachers'}", "--dry_run", *flags])
    assert f"teacher: {root / 'teachers'}, which computes its logits" in capsys.readouterr().out


def with_words(directory: Path, words: tuple[str, ...]) -> Path:
    (directory / "vocab.txt").write_text("\n".join(words) + "\n")
    return directory


def test_who_cannot_teach_is_refused(root: Path, tmp_path: Path) -> None:
    out, larger = tmp_path / "out", root / "larger"
    labels = {0: "negative", 1: "positive"}

    def refuse(error: type[Exception], message: str, teacher: Path | None, **options: Any) -> None:
        with pytest.raises(error, match=message):
            tune(root, out, teacher, **options)
        assert not out.exists()

    message = r"The teacher .*mood has the labels none, glad, sad; the task 'sst2' has negative, p"
    refuse(CheckpointError, message, root / "teachers" / "mood")
    same_number = tiny_classifier(tmp_path / "same", larger, {0: "bad", 1: "good"})
    refuse(CheckpointError, r"labels bad, good; the task 'sst2' has negative", same_number)
    refuse(CheckpointError, r"classifier", larger)
    refuse(FileNotFoundError, r"nobody", tmp_path / "nobody")
    missing = root / "teachers"
    refuse(FileNotFoundError, r"config\.json", missing, task="qqp", data="demo")
    refuse(ValueError, r"distill_alpha is 0\.9, but there is no teacher", None, distill_alpha=0.9)
    message = r"distill_temperature is 4\.0, but there is no teacher: pass teacher \(--teacher\)"
    refuse(ValueError, message, None, distill_temperature=4.0)

    short = tiny_checkpoint(tmp_path / "short", max_position_embeddings=11)
    short = tiny_classifier(tmp_path / "brief", short, labels)
    refuse(ValueError, r"max_length is 12, but the teacher .*brief has 11 positions", short)
    other = tiny_checkpoint(tmp_path / "words")
    with_words(other, (*WORDS[:-2], "is", "."))
    other = tiny_classifier(tmp_path / "other", other, labels)
    message = (
        rf"must tokenize alike, but of the teacher .*other the vocabulary has {len(WORDS)} "
        rf"entries, the id of 'is' is {len(WORDS) - 2}, of the student None"
    )
    refuse(ValueError, message, other)
    cased = tiny_classifier(tmp_path / "cased", larger, labels)
    DistilBertTokenizer.from_pretrained(larger, do_lower_case=False).save_pretrained(cased)
    refuse(ValueError, r"lowercase is False, of the student True", cased)


def test_a_teacher_is_not_written_over(root: Path, tmp_path: Path) -> None:
    teacher = tiny_classifier(
        tmp_path / "out" / "sst2", root / "larger", {0: "negative", 1: "positive"}
    )
    before = (teacher / "model.safetensors").read_bytes()
    for output, task in ((teacher, "sst2"), (teacher.parent, "sst2,qqp")):
        with pytest.raises(ValueError, match=r"sst2 would be read and written: a run that fails"):
            tune(root, output, teacher, task=task, overwrite=True)
    assert (teacher / "model.safetensors").read_bytes() == before
