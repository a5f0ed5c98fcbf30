"""Fine-tuning end to end on a tiny model and a task that can be learnt in seconds."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_task import tiny_checkpoint, tiny_data

from distilbert_tf.callbacks import ProgressLog, SaveBest, TrainingDivergedError
from distilbert_tf.checkpoint_files import CheckpointError
from distilbert_tf.heads import TFDistilBertForSequenceClassification
from distilbert_tf.pipelines import pipeline
from distilbert_tf.tasks import Task
from distilbert_tf.tokenizer import DistilBertTokenizer
from distilbert_tf.training import FinetuneResult, evaluate_pretrained, finetune


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("tiny")
    return tiny_checkpoint(root / "encoder"), tiny_data(root / "data")


@pytest.fixture(scope="module")
def result(paths: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    encoder, data = paths
    output = tmp_path_factory.mktemp("run") / "out"
    return finetune(
        "sst2", encoder, data, output, epochs=6, batch_size=8, learning_rate=1e-2, max_length=12
    )


def test_it_learns(result: FinetuneResult) -> None:
    assert result.metrics["accuracy"] >= 0.95
    assert result.metrics["accuracy"] == max(result.history["val_accuracy"])
    assert result.metrics["train_examples"] == 96
    assert result.metrics["validation_examples"] == 31
    assert len(result.history["val_accuracy"]) == result.metrics["epochs"] == 6


def test_the_record_is_complete(result: FinetuneResult) -> None:
    saved = json.loads((result.output_dir / "metrics.json").read_text())
    assert saved == result.metrics
    assert saved["history"]["val_loss"] == pytest.approx(result.history["val_loss"])
    assert saved["train_time_s"] > 0
    assert saved["peak_memory_mib"] > 100
    report = result.report()
    assert f"after {saved['accuracy']:.4f}" in report
    assert "96 training and 31 validation examples" in report
    assert list((result.output_dir / "tensorboard" / "train").glob("events.*"))


def test_what_is_saved_scores_the_same(result: FinetuneResult, paths: tuple[Path, Path]) -> None:
    scores = evaluate_pretrained(result.output_dir, "sst2", paths[1], batch_size=5)
    assert scores["accuracy"] == pytest.approx(result.metrics["accuracy"])
    assert scores["loss"] == pytest.approx(result.metrics["loss"], abs=1e-5)
    model = TFDistilBertForSequenceClassification.from_pretrained(result.output_dir)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    tokenizer = DistilBertTokenizer.from_pretrained(result.output_dir)
    logits = model(
        tokenizer(["a stale meal", "what a kind talk"], padding=True, return_tensors="tf")
    )
    assert logits.numpy().argmax(axis=1).tolist() == [0, 1]


def test_the_seed_repeats_a_run(paths: tuple[Path, Path], tmp_path: Path) -> None:
    encoder, data = paths

    def losses(name: str, seed: int) -> list[float]:
        run = finetune("sst2", encoder, data, tmp_path / name, epochs=2, batch_size=16, seed=seed)
        return run.history["loss"]

    assert losses("a", 1) == losses("b", 1) != losses("c", 2)


def test_pairs_reach_the_model_as_pairs(paths: tuple[Path, Path], tmp_path: Path) -> None:
    """Scores from `evaluate` equal those of the pipeline, which tokenizes by itself."""
    data = tmp_path / "qqp"
    data.mkdir()
    pairs = [("a tea", "the tea", 1), ("a song", "dull", 0), ("warm room", "the warm room", 1)]
    pairs += [("what a walk", "cold meal", 0), ("kind", "rude talk", 0), ("film", "a film", 1)]
    lines = ["question1\tquestion2\tis_duplicate", *("\t".join(map(str, p)) for p in pairs)]
    for name in ("train", "dev"):
        (data / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    run = finetune("qqp", paths[0], data, tmp_path / "out", epochs=1, batch_size=4)
    classify = pipeline("text-classification", model=run.output_dir)
    answers = classify([{"text": first, "text_pair": second} for first, second, _ in pairs])
    right = [
        answer["label"] == ("not_duplicate", "duplicate")[label]
        for answer, (_, _, label) in zip(answers, pairs, strict=True)
    ]
    assert run.metrics["accuracy"] == pytest.approx(np.mean(right))
    losses = [
        -np.log(answer["score"] if ok else 1 - answer["score"])
        for answer, ok in zip(answers, right, strict=True)
    ]
    assert run.metrics["loss"] == pytest.approx(np.mean(losses), abs=1e-5)


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"dtype": "mixed_bfloat16"}])
def test_xla_and_bfloat16_learn_too(
    paths: tuple[Path, Path], tmp_path: Path, options: dict
) -> None:
    run = finetune(
        "sst2", *paths, tmp_path / "out", epochs=5, batch_size=8, learning_rate=1e-2,
        max_length=12, **options,
    )  # fmt: skip
    assert run.metrics["accuracy"] >= 0.9
    assert run.metrics["dtype"] == options.get("dtype", "float32")
    assert run.metrics["jit_compile"] == run.model.jit_compile == ("jit_compile" in options)


def test_an_earlier_result_is_not_overwritten(
    result: FinetuneResult, paths: tuple[Path, Path]
) -> None:
    with pytest.raises(FileExistsError, match="already holds a checkpoint"):
        finetune("sst2", *paths, result.output_dir)


@pytest.mark.parametrize("arguments", [{"epochs": 0}, {"batch_size": 0}])
def test_bad_arguments_are_refused(
    paths: tuple[Path, Path], tmp_path: Path, arguments: dict
) -> None:
    with pytest.raises(ValueError, match="must each be at least 1"):
        finetune("sst2", *paths, tmp_path / "out", **arguments)


def test_a_task_with_other_labels_is_refused(
    result: FinetuneResult, paths: tuple[Path, Path]
) -> None:
    with pytest.raises(CheckpointError, match=r"labels negative, positive; the task 'qqp' has"):
        evaluate_pretrained(result.output_dir, "qqp", paths[1])


class Scripted(keras.callbacks.Callback):
    """Sets a weight and claims an accuracy, epoch by epoch."""

    def __init__(self, model: keras.Model, callback: SaveBest) -> None:
        super().__init__()
        callback.set_model(model)
        self.model_, self.callback = model, callback

    def play(self, accuracies: list[float]) -> None:
        for epoch, accuracy in enumerate(accuracies):
            self.model_.classifier.bias.assign([epoch + 1.0, -epoch])
            self.callback.on_epoch_end(epoch, {"loss": 1.0, "val_accuracy": accuracy})
        self.callback.on_train_end()


@pytest.mark.parametrize(
    ("accuracies", "best"), [([0.5, 0.8, 0.7], 2), ([0.6, 0.6], 1), ([0.1, 0.2, 0.3], 3)]
)
def test_save_best_keeps_the_first_best_epoch(
    paths: tuple[Path, Path], tmp_path: Path, accuracies: list[float], best: int
) -> None:
    model = TFDistilBertForSequenceClassification.from_pretrained(paths[0])
    callback = SaveBest(tmp_path, DistilBertTokenizer.from_pretrained(paths[0]))
    Scripted(model, callback).play(accuracies)
    assert (callback.best_epoch, callback.best) == (best, max(accuracies))
    assert model.classifier.bias.numpy().tolist() == [best, -(best - 1)]
    saved = TFDistilBertForSequenceClassification.from_pretrained(tmp_path)
    assert saved.classifier.bias.numpy().tolist() == [best, -(best - 1)]


def test_a_diverged_run_ends_with_an_error(paths: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match=r"loss of epoch 1 is nan.*Nothing was saved"):
        finetune(
            "sst2", *paths, tmp_path / "out", learning_rate=1e38, warmup_ratio=0.0, batch_size=8
        )
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_model_is_not_tuned_over_itself(paths: tuple[Path, Path]) -> None:
    before = (paths[0] / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="a run that fails would lose the model"):
        finetune("sst2", *paths, paths[0], overwrite=True)
    assert (paths[0] / "model.safetensors").read_bytes() == before


class Vandal(keras.callbacks.Callback):
    """Leaves other weights behind than the ones that were validated."""

    def on_train_end(self, logs: dict | None = None) -> None:
        for weight in self.model.trainable_weights:
            weight.assign(tf.zeros_like(weight))


def test_the_best_epoch_is_put_back_last(paths: tuple[Path, Path], tmp_path: Path) -> None:
    run = finetune("sst2", *paths, tmp_path / "out", epochs=2, batch_size=8, callbacks=[Vandal()])
    saved = TFDistilBertForSequenceClassification.from_pretrained(run.output_dir)
    for ours, on_disk in zip(run.model.weights, saved.weights, strict=True):
        if "dropout" not in ours.path:
            np.testing.assert_array_equal(ours.numpy(), on_disk.numpy())


def test_a_head_for_other_labels_gives_way_and_for_the_same_is_kept(
    result: FinetuneResult,
    paths: tuple[Path, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = Task("own", ("sentence",), ("label",), ("bad", "good"), ("0", "1"))
    other = finetune(own, result.output_dir, paths[1], tmp_path / "other", epochs=1)
    assert "freshly initialised head" in caplog.text
    assert other.model.config.id2label == {0: "bad", 1: "good"}
    caplog.clear()
    same = finetune("sst2", result.output_dir, paths[1], tmp_path / "same", epochs=1)
    assert "freshly initialised head" not in caplog.text
    assert same.metrics["accuracy_before"] == pytest.approx(result.metrics["accuracy"])


def test_the_length_of_the_training_is_that_of_the_evaluation(result: FinetuneResult) -> None:
    assert result.metrics["max_length"] == 12
    tokenizer = DistilBertTokenizer.from_pretrained(result.output_dir)
    long = ["a warm tea " * 20]
    assert tokenizer.as_layer()(long)["input_ids"].shape == (1, 12)


def test_positions_must_suffice(paths: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"max_length is 129, but .* has 128 positions"):
        finetune("sst2", *paths, tmp_path / "out", max_length=129)


def test_overwriting_leaves_nothing_of_the_earlier_run(
    paths: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "tf_model.h5").write_bytes(b"old weights")
    with pytest.raises(FileExistsError, match=r"already holds a checkpoint \(tf_model\.h5\)"):
        finetune("sst2", *paths, tmp_path, epochs=1)
    finetune("sst2", *paths, tmp_path, epochs=1, overwrite=True)
    assert not (tmp_path / "tf_model.h5").exists()


def test_progress_is_logged_with_rate_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensors((tf.ones([2, 1]), tf.ones([2, 1]))).repeat(4)
    data = data.apply(tf.data.experimental.assert_cardinality(4))
    with caplog.at_level("INFO", logger="absl"):
        model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[ProgressLog(interval_s=0.0)])
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("epoch")]
    assert len(lines) == 8
    assert lines[4].startswith("epoch 2/2, step 1/4, ")
    assert lines[7].endswith("0 s left in this epoch")
