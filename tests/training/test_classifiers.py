"""Which checkpoint may start a task, and which may answer it."""

from pathlib import Path

import numpy as np
import pytest
from tiny_task import tiny_checkpoint, tiny_classifier

from distilbert_tf.checkpoints.tensor_files import CheckpointError
from distilbert_tf.data.tasks import TASKS, Task
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.training.classifiers import load_classifier, start_classifiers, task_checkpoint

SST2, MNLI, QQP = TASKS["sst2"], TASKS["mnli"], TASKS["qqp"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "encoder")


@pytest.fixture(scope="module")
def sentiment(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("sentiment"), encoder, SST2.id2label)


@pytest.fixture(scope="module")
def unnamed(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = {0: "LABEL_0", 1: "LABEL_1"}
    return tiny_classifier(tmp_path_factory.mktemp("unnamed"), encoder, labels)


def head(model: TFDistilBertForSequenceClassification) -> list[np.ndarray]:
    layers = (model.pre_classifier, model.classifier)
    return [weight.numpy() for layer in layers for weight in layer.weights]


def is_head_of(model: TFDistilBertForSequenceClassification, checkpoint: Path) -> bool:
    saved = head(TFDistilBertForSequenceClassification.from_pretrained(checkpoint))
    return all(map(np.array_equal, head(model), saved))


def test_all_tasks_start_on_one_encoder(encoder: Path) -> None:
    started = start_classifiers(encoder, [SST2, MNLI, QQP])
    assert list(started) == ["sst2", "mnli", "qqp"]
    assert len({id(model.distilbert) for model in started.values()}) == 1
    saved = TFDistilBertForSequenceClassification.from_pretrained(encoder)
    for ours, theirs in zip(
        started["mnli"].distilbert.trainable_weights,
        saved.distilbert.trainable_weights,
        strict=True,
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    for task in (SST2, MNLI, QQP):
        model = started[task.name]
        assert model.config.id2label == task.id2label
        assert model.classifier.bias.shape == (len(task.labels),)
    heads = [id(layer) for model in started.values() for layer in model.layers]
    assert len(heads) == len(set(heads)) + 2  # the encoder stands in all three


def test_configurations_name_task_and_pair(encoder: Path, tmp_path: Path) -> None:
    for name, model in start_classifiers(encoder, [SST2, QQP]).items():
        model.save_pretrained(tmp_path / name)
    for task in (SST2, QQP):
        config = load_classifier(tmp_path, task).config
        assert (config.task_name, config.text_pair) == (task.name, task.is_pair)


def test_one_task_keeps_the_head_of_its_labels(
    sentiment: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (model,) = start_classifiers(sentiment, [SST2]).values()
    assert is_head_of(model, sentiment)
    assert caplog.text == ""


def test_a_fresh_head_can_be_asked_for(sentiment: Path) -> None:
    (model,) = start_classifiers(sentiment, [SST2], fresh_head=True).values()
    assert not is_head_of(model, sentiment)
    (other,) = start_classifiers(sentiment, [MNLI], fresh_head=True).values()
    assert other.config.id2label == MNLI.id2label
    assert other.classifier.bias.shape == (3,)


def test_several_tasks_start_with_fresh_heads(sentiment: Path) -> None:
    started = start_classifiers(sentiment, [SST2, MNLI])
    assert not is_head_of(started["sst2"], sentiment)
    assert head(started["mnli"])[2].shape == (16, 3)


@pytest.mark.parametrize("task", [QQP, MNLI])
def test_a_head_for_other_labels_is_refused(sentiment: Path, task: Task) -> None:
    labels = ", ".join(task.labels)
    with pytest.raises(CheckpointError, match=f"labels negative, positive; .* has {labels}") as one:
        start_classifiers(sentiment, [task])
    assert "fresh_head (--fresh_head) starts with a new head" in str(one.value)
    with pytest.raises(CheckpointError, match=f"labels negative, positive; .* has {labels}") as two:
        load_classifier(sentiment, task)
    assert "fresh_head" not in str(two.value)  # nothing is trained here


def test_labels_in_another_order_are_refused(encoder: Path, tmp_path: Path) -> None:
    backwards = tiny_classifier(tmp_path, encoder, {0: "positive", 1: "negative"})
    with pytest.raises(CheckpointError, match="labels positive, negative; .* negative, positive"):
        load_classifier(backwards, SST2)


def test_capitals_make_no_other_label(encoder: Path, tmp_path: Path) -> None:
    loud = tiny_classifier(tmp_path, encoder, {0: "NEGATIVE", 1: "Positive"})
    assert is_head_of(load_classifier(loud, SST2), loud)


def test_unnamed_labels_are_taken_with_a_warning(
    unnamed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = f"{unnamed} does not name its labels; they are taken for negative, positive."
    assert is_head_of(load_classifier(unnamed, SST2), unnamed)
    assert expected in caplog.text
    caplog.clear()
    (model,) = start_classifiers(unnamed, [SST2]).values()
    assert is_head_of(model, unnamed)
    assert model.config.id2label == SST2.id2label
    assert expected in caplog.text
    with pytest.raises(CheckpointError, match="has the labels LABEL_0, LABEL_1; the task 'mnli'"):
        load_classifier(unnamed, MNLI)


def test_an_encoder_alone_answers_no_task(encoder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"pre_classifier|classifier"):
        load_classifier(encoder, SST2)


def test_a_run_on_several_tasks_has_a_checkpoint_for_each(encoder: Path, tmp_path: Path) -> None:
    for task in (SST2, MNLI):
        tiny_classifier(tmp_path / task.name, encoder, task.id2label)
        assert task_checkpoint(tmp_path, task) == tmp_path / task.name
        assert is_head_of(load_classifier(str(tmp_path), task), tmp_path / task.name)
    assert task_checkpoint(tmp_path, QQP) == tmp_path
    with pytest.raises(FileNotFoundError):
        load_classifier(tmp_path, QQP)


def test_a_checkpoint_comes_before_what_lies_in_its_directory(
    encoder: Path, tmp_path: Path
) -> None:
    tiny_classifier(tmp_path, encoder, SST2.id2label)
    tiny_classifier(tmp_path / "sst2", encoder, QQP.id2label)
    assert task_checkpoint(tmp_path, SST2) == tmp_path
    assert task_checkpoint("demo", SST2) == "demo"
