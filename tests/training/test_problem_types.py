"""Rows with any number of labels, and rows with a number: from files to exports."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from comparing import FEW, assert_close, near, roundings
from distilbert_serving.saved_model.exporter import export_saved_model
from sklearn import metrics as sklearn_metrics
from tiny_task import BAD, CONFIG, GOOD, THINGS, tiny_checkpoint

from distilbert_tf import cli
from distilbert_tf.checkpoints.problem_types import MULTI_LABEL, REGRESSION
from distilbert_tf.data.datasets import make_dataset
from distilbert_tf.data.examples import Examples, find_labels, load_examples
from distilbert_tf.data.file_formats import DataError
from distilbert_tf.data.splits import split_examples
from distilbert_tf.data.tasks import Task
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.pipelines import pipeline
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.training.evaluation import evaluate, score_pretrained
from distilbert_tf.training.finetuning import finetune
from distilbert_tf.training.label_loss import binary_losses, squared_errors
from distilbert_tf.training.metrics import MultiLabelMetrics, RegressionMetrics

COUNT = roundings(CONFIG)
COUNTED = FEW + 96  # additions of all rows
TAGS = Task("tags", ("remark",), ("tags",), ("bad", "good", "tea"), problem_type=MULTI_LABEL)
STARS = Task("stars", ("remark",), ("stars",), problem_type=REGRESSION)
SETTINGS: dict[str, Any] = {
    "epochs": 12, "batch_size": 8, "learning_rate": 1e-2, "max_length": 12,
}  # fmt: skip


def remark(number: int) -> dict[str, Any]:
    """Makes a text of two words that are good, bad or neither, and one thing."""
    random = np.random.default_rng(number)
    kinds = random.integers(0, 3, 2)
    words = [random.choice((BAD, GOOD, ("what", "the"))[kind]) for kind in kinds]
    thing = random.choice(THINGS)
    tags = {name for name, is_there in (("bad", 0 in kinds), ("good", 1 in kinds)) if is_there}
    if thing == "tea":
        tags.add("tea")
    stars = 3.0 + int((kinds == 1).sum()) - int((kinds == 0).sum())
    return {"remark": f"{words[0]} {words[1]} {thing}", "tags": sorted(tags), "stars": stars}


REMARKS = [remark(number) for number in range(96)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "encoder")


# Data.


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["tea", "bad"], [1, 0, 1]),
        ([], [0, 0, 0]),
        ("good; tea", [0, 1, 1]),
        ("", [0, 0, 0]),
        ("good;", [0, 1, 0]),
        ([0, 1], [1, 1, 0]),
        (np.array(["tea"]), [0, 0, 1]),
        (2, [0, 0, 1]),
    ],
)
def test_several_labels_in_a_cell(tags: Any, expected: list[int]) -> None:
    examples = load_examples(TAGS, [{"remark": "x", "tags": tags}], "train")
    assert examples.labels.tolist() == [expected]
    assert examples.labels.dtype == np.float32


def test_a_column_for_each_label() -> None:
    task = Task("toxic", ("remark",), ("rude", "loud"), problem_type=MULTI_LABEL)
    assert task.labels == ("rude", "loud")
    rows = {"remark": ["a", "b", "c"], "loud": [1, 0, "1.0"], "rude": [0, 1.0, True]}
    assert load_examples(task, rows, "train").labels.tolist() == [[0, 1], [1, 0], [1, 1]]
    with pytest.raises(
        DataError, match="index 1: column 'rude, loud': 2 is neither 1 nor 0, which"
    ):
        load_examples(task, {**rows, "loud": [1, 2, 0]}, "train")
    with pytest.raises(DataError, match="no column 'loud'"):
        load_examples(task, {"remark": ["a"], "rude": [1]}, "train")


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        (TAGS, {"tags": "good;Tea"}, r"the label 'Tea' is none of .*\(did you mean 'tea'\?\)"),
        (TAGS, {"tags": None}, r"column 'tags' is missing or null; a row without labels has \[\]"),
        (STARS, {"stars": "five"}, "column 'stars': 'five' is no number"),
        (STARS, {"stars": float("inf")}, "column 'stars': inf is no number"),
        (STARS, {"stars": None}, "holds no label but None"),
    ],
)
def test_labels_that_are_wrong_are_named(task: Task, row: dict, message: str) -> None:
    with pytest.raises(DataError, match=f"index 0: .*{message}"):
        load_examples(task, [{"remark": "x", **row}], "train")


def test_numbers_are_read_as_they_are_written() -> None:
    rows = {"remark": list("abcd"), "stars": [4, "2.5", -1.0, np.float32(0.5)]}
    examples = load_examples(STARS, rows, "train")
    assert examples.labels.tolist() == [4.0, 2.5, -1.0, 0.5]
    assert examples.labels.dtype == np.float32
    assert STARS.labels == ("stars",)


def test_labels_are_found_in_cells_of_several(tmp_path: Path) -> None:
    bare = Task("tags", ("remark",), ("tags",), problem_type=MULTI_LABEL)
    assert find_labels(bare, REMARKS) == TAGS
    frame = pd.DataFrame(REMARKS)
    frame["tags"] = frame["tags"].str.join(";")
    frame.to_csv(tmp_path / "train.csv", index=False)
    assert find_labels(bare, tmp_path) == TAGS


def test_rare_combinations_of_labels_are_held_out_together() -> None:
    labels = np.array([[1, 0, 0]] * 20 + [[0, 1, 0]] * 20 + [[1, 1, 0], [0, 1, 1], [1, 1, 1]] * 1)
    texts = tuple(f"text {i}" for i in range(len(labels)))
    rest, held = split_examples(Examples((texts,), labels.astype(np.float32)), 0.2)
    kinds, counts = np.unique(held.labels, axis=0, return_counts=True)
    held_out = dict(zip(map(tuple, kinds.tolist()), counts.tolist(), strict=True))
    assert (held_out.pop((1, 0, 0)), held_out.pop((0, 1, 0))) == (4, 4)
    assert list(held_out.values()) == [1]  # of the three kinds that are there once
    assert len(rest) == 34


# Losses and scores.


def test_losses_are_those_of_keras() -> None:
    random = np.random.default_rng(3)
    logits = random.normal(size=(6, 4)).astype(np.float32) * 3
    labels = random.integers(0, 2, (6, 4)).astype(np.float32)
    theirs = keras.losses.BinaryCrossentropy(from_logits=True, reduction=None)(labels, logits)
    assert_close(binary_losses(labels, tf.constant(logits)), theirs, COUNTED)
    numbers = random.normal(size=6).astype(np.float32)
    expected = (logits[:, 0] - numbers) ** 2
    assert_close(squared_errors(numbers, tf.constant(logits[:, :1])), expected, COUNTED)


def test_scores_of_several_labels_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(5)
    true = (random.random((40, 3)) < [0.5, 0.1, 0.8]).astype(np.float32)
    logits = random.normal(size=(40, 3)).astype(np.float32)
    weights = np.array([1.0] * 37 + [0.0] * 3, np.float32)
    metric = MultiLabelMetrics(3, tuple(MultiLabelMetrics.known))
    for part in (slice(0, 15), slice(15, 40)):
        metric.update_state(true[part], logits[part], logits[part, 0], weights[part])
    true, predicted = true[:37], logits[:37] > 0
    found = {name: float(value) for name, value in metric.result().items()}
    assert found == near(
        {
            "loss": logits[:37, 0].mean(),
            "micro_f1": sklearn_metrics.f1_score(true, predicted, average="micro"),
            "macro_f1": sklearn_metrics.f1_score(true, predicted, average="macro"),
            "accuracy": sklearn_metrics.accuracy_score(true, predicted),
        },
        COUNTED,
        size=1.0,
    )
    tables = sklearn_metrics.multilabel_confusion_matrix(true, predicted)
    assert metric.read_confusion().tolist() == tables.tolist()


def test_scores_of_numbers_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(6)
    true = (2000 + random.normal(size=50)).astype(np.float32)
    logits = (true + random.normal(size=50))[:, np.newaxis].astype(np.float32)
    weights = np.array([1.0] * 44 + [0.0] * 6, np.float32)
    metric = RegressionMetrics(1, ("pearson", "r2"))
    for part in (slice(0, 30), slice(30, 50)):
        metric.update_state(true[part], logits[part], logits[part, 0], weights[part])
    true, predicted = true[:44].astype(float), logits[:44, 0].astype(float)
    found = metric.result()
    assert float(found["pearson"]) == near(np.corrcoef(true, predicted)[0, 1], COUNTED, size=1.0)
    assert float(found["r2"]) == near(sklearn_metrics.r2_score(true, predicted), COUNTED, size=1.0)


# The whole way.


def test_several_labels_from_the_command_line(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.DataFrame(REMARKS)
    frame["tags"] = frame["tags"].str.join(";")
    frame.to_csv(tmp_path / "train.csv", index=False)
    output = tmp_path / "out"
    cli.main(["finetune", f"--data={tmp_path}", f"--model={encoder}", f"--output={output}",
              "--text_columns=remark", "--label_column=tags", f"--problem_type={MULTI_LABEL}",
              *(f"--{name}={value}" for name, value in SETTINGS.items())])  # fmt: skip
    capsys.readouterr()
    saved = json.loads((output / "metrics.json").read_text())["scores"]
    (scores,) = saved.values()
    assert scores["validation"]["micro_f1"] > 0.8
    cli.main(["evaluate", f"--model={output}"])
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["loss", "micro_f1", "macro_f1", "accuracy"]
    assert found == near({name: scores["validation"][name] for name in found}, COUNT, size=1.0)
    whole = score_pretrained(output, data=tmp_path / "train.csv")
    true = load_examples(TAGS, REMARKS, "train").labels
    classify = pipeline("text-classification", model=str(output), top_k=None)
    answers = classify([row["remark"] for row in REMARKS])
    scored = [{one["label"]: one["score"] for one in answer} for answer in answers]
    predicted = np.array([[one[label] > 0.5 for label in TAGS.labels] for one in scored])
    assert whole.values["micro_f1"] == near(
        sklearn_metrics.f1_score(true, predicted, average="micro"), COUNTED
    )
    assert whole.rows == 96
    tables = sklearn_metrics.multilabel_confusion_matrix(true, predicted)
    assert whole.confusion.tolist() == tables.tolist()
    expected = sklearn_metrics.precision_recall_fscore_support(true, predicted, zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), expected[:3], strict=True):
        assert whole.by_label[name] == near(values.tolist(), COUNTED)
    assert whole.rows_by_label.tolist() == expected[3].tolist()
    card = (output / "README.md").read_text()
    assert "A DistilBERT multi-label classifier of `remark`" in card
    assert "| validation: label | rows |" in card
    assert "confusion" not in card
    config = json.loads((output / "config.json").read_text())
    assert config["problem_type"] == MULTI_LABEL
    with pytest.raises(SystemExit):
        cli.main(["submit", f"--model={output}"])
    assert "a submission has one label a row" in capsys.readouterr().err


def test_numbers_from_a_data_frame(encoder: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame(REMARKS)
    result = finetune(STARS, encoder, frame, tmp_path / "out", **SETTINGS)
    assert result.metrics["pearson"] > 0.8
    scores = score_pretrained(tmp_path / "out", data=frame)
    classify = pipeline("text-classification", model=str(tmp_path / "out"))
    predicted = [answer["score"] for answer in classify(frame["remark"].tolist())]
    assert scores.values == near(
        {
            "loss": np.mean((frame["stars"] - predicted) ** 2),
            "pearson": np.corrcoef(frame["stars"], predicted)[0, 1],
            "r2": sklearn_metrics.r2_score(frame["stars"], predicted),
        },
        COUNT,
        size=5.0,
    )
    assert (scores.rows, scores.by_label) == (96, {"precision": [], "recall": [], "f1": []})
    assert "A DistilBERT regression of `remark`" in (tmp_path / "out/README.md").read_text()
    # With Keras alone, from the same examples.
    tokenize = result.tokenizer.as_layer(max_length=12)
    dataset = make_dataset(load_examples(STARS, frame, "train"), tokenize, 16)
    model = TFDistilBertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert evaluate(model, dataset) == near({"loss": scores.values["loss"]}, COUNT, size=5.0)


@pytest.mark.parametrize("kind", [MULTI_LABEL, REGRESSION])
def test_exports_compute_what_the_pipeline_does(encoder: Path, tmp_path: Path, kind: str) -> None:
    labels = TAGS.labels if kind == MULTI_LABEL else STARS.labels
    keras.utils.set_random_seed(2)
    model = TFDistilBertForSequenceClassification.from_pretrained(
        encoder, id2label=dict(enumerate(labels)), problem_type=kind
    )
    tokenizer = DistilBertTokenizer.from_pretrained(encoder)
    path = export_saved_model(model, tokenizer, tmp_path / "base", max_length=16)
    texts = [row["remark"] for row in REMARKS[:5]]
    answers = tf.saved_model.load(str(path)).signatures["serving_default"](text=tf.constant(texts))
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    for row, answer in enumerate(classify(texts)):
        by_label = {one["label"]: one["score"] for one in answer}
        expected = [by_label[label] for label in labels]
        assert_close(answers["probabilities"][row], expected, COUNT)
        assert answers["label"][row].numpy().decode() == answer[0]["label"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weight": "balanced"}, "tags is a multi_label_classification; class_weight is for"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is for tasks with one label a"),
        ({"teacher": "demo"}, "a teacher is for tasks with one label a row"),
    ],
)
def test_settings_for_one_label_a_row_are_refused(
    encoder: Path, tmp_path: Path, settings: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        finetune(TAGS, encoder, REMARKS, tmp_path / "out", **SETTINGS, **settings)
    with pytest.raises(ValueError, match="such a task is trained alone"):
        finetune([TAGS, STARS], encoder, REMARKS, tmp_path / "out", **SETTINGS)
