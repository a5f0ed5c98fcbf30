"""Scores of saved classifiers, against scikit-learn's on the labels that they predict."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from comparing import FEW, near, roundings
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, matthews_corrcoef
from tiny_task import BAD, CONFIG, GOOD, THINGS, tiny_checkpoint, tiny_classifier, tiny_data

from distilbert_tf.data.datasets import make_dataset
from distilbert_tf.data.examples import load_examples
from distilbert_tf.data.tasks import TASKS, Task
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.training.batches import collect_rows, evaluation_batches
from distilbert_tf.training.classifiers import load_classifier
from distilbert_tf.training.evaluation import (
    Scores,
    evaluate,
    predict_labels,
    predict_submission,
    score_pretrained,
    score_tasks,
)
from distilbert_tf.training.multitask import MultiTaskModel

COUNT = roundings(CONFIG)  # of the logits, which are about 1 here
SST2, QQP = TASKS["sst2"], TASKS["qqp"]
MOOD = Task(
    "mood", ("remark",), ("feeling",), ("gloomy", "even", "merry"),
    metrics=("macro_f1", "accuracy", "matthews_correlation"),
)  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "encoder")


@pytest.fixture(scope="module")
def run(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as of a run on three tasks."""
    root = tmp_path_factory.mktemp("run")
    for task in (SST2, QQP, MOOD):
        tiny_classifier(root / task.name, encoder, task.id2label)
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data") / "files")


@pytest.fixture(scope="module")
def moods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("moods")
    random = np.random.default_rng(4)
    lines = ["feeling,remark"]
    for number in range(29):
        feeling = MOOD.labels[number % 3]
        word = random.choice((BAD, THINGS, GOOD)[number % 3])
        lines.append(f'{feeling},"the {random.choice(THINGS)}, {word} what a {word}"')
    (root / "validation.csv").write_text("\n".join(lines) + "\n")
    return root


def predictions(run: Path, task: Task, data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns labels, predicted labels and probabilities, in one batch with the plain tokenizer."""
    examples = load_examples(task, data, "validation")
    model = load_classifier(run, task)
    tokenizer = DistilBertTokenizer.from_pretrained(run / task.name)
    labels = predict_labels(model, make_dataset(examples, tokenizer.as_layer(), 64))
    inputs = tokenizer(*map(list, examples.texts), padding=True, return_tensors="np")
    logits = tf.cast(model(dict(inputs)), tf.float64)
    return examples.labels, labels, tf.nn.softmax(logits).numpy()


@pytest.mark.parametrize("batch_size", [1, 8])
def test_scores_are_those_of_the_predictions(run: Path, data: Path, batch_size: int) -> None:
    true, predicted, probabilities = predictions(run, SST2, data)
    assert set(predicted) == {0, 1}
    assert predicted.tolist() == probabilities.argmax(axis=1).tolist()
    scores = score_pretrained(run / "sst2", SST2, data, batch_size=batch_size)
    assert scores.values == near(
        {"loss": log_loss(true, probabilities), "accuracy": accuracy_score(true, predicted)},
        COUNT,
        size=1.0,
    )
    assert scores.confusion.tolist() == confusion_matrix(true, predicted).tolist()
    assert scores.rows == 31
    assert score_pretrained(run, "sst2", data, batch_size=batch_size).values == scores.values


def test_a_task_of_ones_own_with_three_labels(run: Path, moods: Path) -> None:
    true, predicted, probabilities = predictions(run, MOOD, moods)
    assert len(set(predicted)) > 1
    scores = score_pretrained(run, MOOD, moods, batch_size=7)
    assert list(scores.values) == ["loss", *MOOD.metrics]
    assert scores.values == near(
        {
            "loss": log_loss(true, probabilities, labels=[0, 1, 2]),
            "macro_f1": f1_score(true, predicted, labels=[0, 1, 2], average="macro"),
            "accuracy": accuracy_score(true, predicted),
            "matthews_correlation": matthews_corrcoef(true, predicted),
        },
        COUNT,
        size=1.0,
    )
    table = confusion_matrix(true, predicted, labels=[0, 1, 2])
    assert scores.confusion.tolist() == table.tolist()
    assert scores.confusion.sum(axis=1).tolist() == [10, 10, 9]


def test_a_pair_task_has_its_f1(run: Path) -> None:
    examples = load_examples(QQP, "demo", "validation")
    model = load_classifier(run, QQP)
    tokenize = DistilBertTokenizer.from_pretrained(run / "qqp").as_layer(max_length=20)
    predicted = predict_labels(model, make_dataset(examples, tokenize, 64))
    scores = score_pretrained(run, "qqp", "demo", max_length=20)
    assert scores.rows == len(examples)
    assert scores.values["f1"] == near(f1_score(examples.labels, predicted), FEW)


def test_the_score_of_the_classifier_alone_is_the_same(run: Path, data: Path) -> None:
    examples = load_examples(SST2, data, "validation")
    tokenize = DistilBertTokenizer.from_pretrained(run / "sst2").as_layer()
    found = evaluate(load_classifier(run, SST2), make_dataset(examples, tokenize, 9))
    assert found == near(score_pretrained(run, SST2, data).values, COUNT, size=1.0)


def test_splits_and_bad_rows_can_be_chosen(run: Path, data: Path, tmp_path: Path) -> None:
    assert score_pretrained(run, SST2, data, split="train").rows == 96
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\na kind tea\t1\na stale walk\t?\n")
    with pytest.raises(ValueError, match="line 3"):
        score_pretrained(run, SST2, tmp_path)
    assert score_pretrained(run, SST2, tmp_path, bad_rows="skip").rows == 1


def test_long_rows_are_cut_as_in_the_training(encoder: Path, tmp_path: Path) -> None:
    """The length is that of the saved tokenizer, unless another one is given."""
    tiny_classifier(tmp_path, encoder, SST2.id2label)
    tokenizer = DistilBertTokenizer.from_pretrained(tmp_path)
    tokenizer.model_max_length = 6
    tokenizer.save_pretrained(tmp_path)
    text = "a crisp song the clumsy room was bitter what a rude talk"
    (tmp_path / "dev.tsv").write_text(f"sentence\tlabel\n{text}\t1\n")
    model = load_classifier(tmp_path, SST2)

    def loss(length: int) -> float:
        ids = tokenizer([text], truncation=True, max_length=length, return_tensors="tf")
        return -float(tf.nn.log_softmax(model(ids))[0, 1])

    default = score_pretrained(tmp_path, SST2, tmp_path).values["loss"]
    assert default == near(loss(6), COUNT, size=1.0)
    longer = score_pretrained(tmp_path, SST2, tmp_path, max_length=10).values["loss"]
    assert longer == near(loss(10), COUNT, size=1.0)
    assert abs(default - longer) > 1e-4


def test_a_task_without_rows_has_scores_of_zero(run: Path, data: Path) -> None:
    examples = load_examples(SST2, data, "validation")
    classifier = load_classifier(run, SST2)
    tokenizer = DistilBertTokenizer.from_pretrained(run / "sst2")
    other = type(classifier)(classifier.config, encoder=classifier.distilbert)
    model = MultiTaskModel({"sst2": classifier, "absent": other})
    model.compile()
    rows = collect_rows([examples], tokenizer.as_layer())
    found = score_tasks(model, *evaluation_batches(rows, 8, tf.distribute.get_strategy()))
    alone = score_pretrained(run, SST2, data)
    assert found["sst2"].values == near(alone.values, COUNT, size=1.0)
    assert found["absent"].values == {"loss": 0.0, "accuracy": 0.0}
    assert found["absent"].rows == 0


def test_a_record_of_scores_is_plain_json() -> None:
    scores = Scores({"loss": 0.5, "accuracy": 0.75}, np.array([[2, 1], [0, 1]]))
    assert scores.record() == {
        "loss": 0.5, "accuracy": 0.75, "rows": 4, "confusion": [[2, 1], [0, 1]],
        "by_label": {"precision": [1, 0.5], "recall": [2 / 3, 1], "f1": [0.8, 2 / 3]},
    }  # fmt: skip
    assert type(scores.record()["rows"]) is int


def test_a_submission_answers_each_row_under_its_index(run: Path, tmp_path: Path) -> None:
    texts = ["the film was rude .", "a sweet book", "what a cold meal", "warm walk", "a talk"]
    indices = [4, 0, 3, 17, 1]
    lines = [f"{index}\t{text}\n" for index, text in zip(indices, texts, strict=True)]
    (tmp_path / "test.tsv").write_text("index\tsentence\n" + "".join(lines))
    (path,) = predict_submission(run, "sst2", tmp_path, tmp_path / "answers", batch_size=2)
    assert path == tmp_path / "answers" / "SST-2.tsv"
    tokenizer = DistilBertTokenizer.from_pretrained(run / "sst2")
    logits = load_classifier(run, SST2)(tokenizer(texts, padding=True, return_tensors="tf"))
    expected = logits.numpy().argmax(axis=1)
    assert len(Counter(expected.tolist())) == 2
    rows = [f"{index}\t{label}" for index, label in zip(indices, expected, strict=True)]
    assert path.read_text().splitlines() == ["index\tprediction", *rows]


def test_a_submission_of_pairs(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "QQP"
    folder.mkdir()
    pairs = [("a tea", "the tea"), ("rude song", "what a walk"), ("kind talk", "a kind talk .")]
    lines = [f"{number}\t{one}\t{two}\n" for number, (one, two) in enumerate(pairs)]
    (folder / "test.tsv").write_text("id\tquestion1\tquestion2\n" + "".join(lines))
    (path,) = predict_submission(run / "qqp", QQP, tmp_path, tmp_path)
    assert path.name == "QQP.tsv"
    tokenizer = DistilBertTokenizer.from_pretrained(run / "qqp")
    inputs = tokenizer(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="tf")
    expected = load_classifier(run, QQP)(inputs).numpy().argmax(axis=1)
    answers = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    assert answers == [[str(i), str(label)] for i, label in enumerate(expected)]


def test_a_task_of_ones_own_is_answered_in_its_labels(run: Path, tmp_path: Path) -> None:
    texts = ["the film was rude .", "a sweet book", "what a cold meal", "warm walk"]
    (tmp_path / "test.csv").write_text("remark\n" + "\n".join(texts) + "\n")
    (path,) = predict_submission(run, MOOD, tmp_path, tmp_path)
    assert path == tmp_path / "mood.tsv"
    tokenizer = DistilBertTokenizer.from_pretrained(run / "mood")
    logits = load_classifier(run, MOOD)(tokenizer(texts, padding=True, return_tensors="tf"))
    expected = [MOOD.labels[i] for i in logits.numpy().argmax(axis=1)]
    rows = [f"{i}\t{label}" for i, label in enumerate(expected)]
    assert path.read_text().splitlines() == ["index\tprediction", *rows]


def test_a_task_without_a_test_split_has_no_submission(run: Path, data: Path) -> None:
    untested = dataclasses.replace(MOOD, splits={"train": "train"}, submission={})
    with pytest.raises(ValueError, match="Task 'mood' has no test split"):
        predict_submission(run, untested, data, run / "answers")
    assert not (run / "answers").exists()
