"""Fine-tuning end to end on a tiny model and a task that can be learnt in seconds."""

import hashlib
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from comparing import FEW, largest, near, roundings
from tiny_task import CONFIG, tiny_checkpoint, tiny_data

from distilbert_tf.checkpoints.tensor_files import CheckpointError
from distilbert_tf.data.tasks import Task
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.shared_encoder import load_classifiers
from distilbert_tf.pipelines import pipeline
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.training.evaluation import score_pretrained
from distilbert_tf.training.finetuning import FinetuneResult, finetune
from distilbert_tf.training.plan import plan_finetuning
from distilbert_tf.training.run import TrainingDivergedError
from distilbert_tf.training.run_directory import find_task_directories

PARTS = ("embeddings", "layer_0", "layer_1", "classifier")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("tiny")
    return tiny_checkpoint(root / "encoder"), tiny_data(root / "data")


class Vandal(keras.callbacks.Callback):
    """Leaves other weights behind than the ones that were validated."""

    def on_train_end(self, logs: dict | None = None) -> None:
        for weight in self.model.trainable_weights:
            weight.assign(tf.zeros_like(weight))


@pytest.fixture(scope="module")
def result(paths: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    encoder, data = paths
    output = tmp_path_factory.mktemp("run") / "out"
    return finetune(
        "sst2", encoder, data, output, epochs=6, batch_size=8, learning_rate=1e-2, max_length=12,
        callbacks=[Vandal()],
    )  # fmt: skip


def test_it_learns(result: FinetuneResult) -> None:
    assert result.metrics["accuracy"] >= 0.95
    assert result.metrics["accuracy"] == max(result.history["val_accuracy"])
    assert result.scores["sst2"]["validation"].rows == 31
    assert len(result.history["val_accuracy"]) == 6
    assert result.run["steps"] == result.run["total_steps"] == 6 * 12


def test_the_best_weights_are_put_back_last(result: FinetuneResult) -> None:
    saved = TFDistilBertForSequenceClassification.from_pretrained(result.output_dir)
    for ours, on_disk in zip(result.model.weights, saved.weights, strict=True):
        if "dropout" not in ours.path:
            np.testing.assert_array_equal(ours.numpy(), on_disk.numpy())


def test_the_record_is_complete(result: FinetuneResult, paths: tuple[Path, Path]) -> None:
    metrics = json.loads((result.output_dir / "metrics.json").read_text())
    own = metrics["scores"]["sst2"]["validation"]
    assert {name: own[name] for name in result.metrics} == result.metrics
    assert own["confusion"] == result.scores["sst2"]["validation"].confusion.tolist()
    assert [epoch["val_loss"] for epoch in metrics["epochs"]] == result.history["val_loss"]
    assert metrics["best"] == max(
        metrics["evaluations"], key=lambda found: (found["score"], -found["loss"])
    )
    run = json.loads((result.output_dir / "run.json").read_text())
    assert run == result.run
    assert run["status"] == "finished"
    train = run["data_files"]["sst2"]["train"]
    content = (paths[1] / "train.tsv").read_bytes()
    assert train["sha256"] == hashlib.sha256(content).hexdigest()
    assert train["rows"] == 96
    assert run["train_time_s"] > 0
    assert run["peak_memory_mib"] > 100
    report = result.report()
    assert f"accuracy {result.metrics['accuracy']:.4f} (before: " in report
    card = (result.output_dir / "README.md").read_text()
    assert f"| validation | 31 | {own['loss']:.4f} | {own['accuracy']:.4f} |" in card
    for name in ("learning_curves.png", "confusion_matrix.png"):
        assert (result.output_dir / name).read_bytes().startswith(b"\x89PNG")
    assert list((result.output_dir / "tensorboard" / "train").glob("events.*"))
    assert not (result.output_dir / "checkpoints").exists()


def test_another_metric_can_choose_the_checkpoint(paths: tuple[Path, Path], tmp_path: Path) -> None:
    options = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-2, "max_length": 12}
    result = finetune("sst2", *paths, tmp_path / "out", metric_for_best_model="loss", **options)
    losses = result.history["val_loss"]
    assert result.run["best"]["score"] == -min(losses)
    assert result.run["best"]["epoch"] == losses.index(min(losses)) + 1
    with pytest.raises(ValueError, match="'f1', which sst2 does not have: .* accuracy, loss"):
        finetune("sst2", *paths, tmp_path / "other", metric_for_best_model="f1", **options)


@pytest.mark.parametrize(
    ("options", "learn"),
    [
        ({"frozen_layers": 0}, ["layer_0", "layer_1", "classifier"]),
        ({"frozen_layers": 1}, ["layer_1", "classifier"]),
        ({"freeze_encoder": True}, ["classifier"]),
    ],
)
def test_what_is_frozen_stays_as_it_was(
    options: dict, learn: list[str], paths: tuple[Path, Path], tmp_path: Path
) -> None:
    encoder = tiny_checkpoint(tmp_path / "encoder", n_layers=2)
    result = finetune(
        "sst2", encoder, paths[1], tmp_path / "out", epochs=1, batch_size=8, learning_rate=1e-2,
        max_length=12, **options,
    )  # fmt: skip
    before = TFDistilBertForSequenceClassification.from_pretrained(encoder, num_labels=2)
    changed = set()
    for ours, old in zip(result.model.weights, before.weights, strict=True):
        if "dropout" not in ours.path and not np.array_equal(ours.numpy(), old.numpy()):
            changed |= {part for part in PARTS if part in ours.path}
    assert changed == set(learn)
    kept = [weight for weight in result.model.weights if not weight.trainable]
    assert result.run["parameters"] == sum(
        int(np.prod(weight.shape)) for weight in result.model.trainable_weights
    )
    assert kept


def test_more_frozen_layers_than_there_are_are_refused(
    paths: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="frozen_layers is 3, but the encoder has 1 layers"):
        finetune("sst2", *paths, tmp_path / "out", frozen_layers=3)
    with pytest.raises(ValueError, match="freezes all layers, and frozen_layers=1 some"):
        finetune("sst2", *paths, tmp_path / "out", frozen_layers=1, freeze_encoder=True)
    assert not (tmp_path / "out").exists()


def test_what_is_saved_scores_the_same(result: FinetuneResult, paths: tuple[Path, Path]) -> None:
    scores = score_pretrained(result.output_dir, "sst2", paths[1], batch_size=5).values
    found = score_pretrained(result.output_dir, "sst2", paths[1])
    saved = result.scores["sst2"]["validation"]
    np.testing.assert_array_equal(found.confusion, saved.confusion)
    model = TFDistilBertForSequenceClassification.from_pretrained(result.output_dir)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    tokenizer = DistilBertTokenizer.from_pretrained(result.output_dir)
    logits = model(
        tokenizer(["a stale meal", "what a kind talk"], padding=True, return_tensors="tf")
    )
    assert logits.numpy().argmax(axis=1).tolist() == [0, 1]
    assert scores == near(result.metrics, roundings(CONFIG), size=largest(logits))


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
    assert run.metrics["accuracy"] == near(np.mean(right), FEW)
    losses = [
        -np.log(answer["score"] if ok else 1 - answer["score"])
        for answer, ok in zip(answers, right, strict=True)
    ]
    assert run.metrics["loss"] == near(np.mean(losses), roundings(CONFIG), size=1.0)
    assert run.scores["qqp"]["validation"].rows == 6
    assert run.model.config.task_name == "qqp"
    assert run.model.config.text_pair is True


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"dtype": "mixed_bfloat16"}])
def test_xla_and_bfloat16_learn_too(
    paths: tuple[Path, Path], tmp_path: Path, options: dict
) -> None:
    run = finetune(
        "sst2", *paths, tmp_path / "out", epochs=5, batch_size=8, learning_rate=1e-2,
        max_length=12, **options,
    )  # fmt: skip
    assert run.metrics["accuracy"] >= 0.9
    assert run.run["dtype"] == options.get("dtype", "float32")


def test_an_earlier_result_is_not_overwritten(
    result: FinetuneResult, paths: tuple[Path, Path]
) -> None:
    with pytest.raises(FileExistsError, match="already holds a finished run"):
        finetune("sst2", *paths, result.output_dir)


@pytest.mark.parametrize("arguments", [{"epochs": 0}, {"batch_size": 0}])
def test_bad_arguments_are_refused(
    paths: tuple[Path, Path], tmp_path: Path, arguments: dict
) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be at least 1; got 0"):
        finetune("sst2", *paths, tmp_path / "out", **arguments)


def test_a_task_with_other_labels_is_refused(
    result: FinetuneResult, paths: tuple[Path, Path]
) -> None:
    with pytest.raises(CheckpointError, match=r"labels negative, positive; the task 'qqp' has"):
        score_pretrained(result.output_dir, "qqp", paths[1])


def test_a_diverged_run_ends_with_an_error(paths: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(
        TrainingDivergedError,
        match=r"gradients of step 2 \(epoch 1, batch 2: rows [\d, ]+ of sst2's training examples, "
        r".*not finite.*Nothing was saved",
    ):
        finetune(
            "sst2", *paths, tmp_path / "out", learning_rate=1e38, warmup_ratio=0.0, batch_size=8
        )
    assert not (tmp_path / "out" / "model.safetensors").exists()


class Poison(keras.callbacks.Callback):
    """Spoils a weight in the second epoch."""

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self.model.optimizer.iterations.numpy() == 15:
            bias = self.model.classifiers["sst2"].classifier.bias
            bias.assign([np.nan, 0.0])


def test_the_last_good_checkpoint_survives_a_diverged_run(
    paths: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(
        TrainingDivergedError, match=r"step 16 \(epoch 2, batch 4.*checkpoint of step 12 is kept"
    ):
        finetune("sst2", *paths, tmp_path / "out", batch_size=8, callbacks=[Poison()])
    saved = TFDistilBertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert all(np.isfinite(weight.numpy()).all() for weight in saved.weights)


def test_a_model_is_not_tuned_over_itself(paths: tuple[Path, Path]) -> None:
    before = (paths[0] / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="a run that fails would lose the model"):
        finetune("sst2", *paths, paths[0], overwrite=True)
    assert (paths[0] / "model.safetensors").read_bytes() == before


def test_a_head_for_other_labels_is_refused_and_for_the_same_kept(
    result: FinetuneResult, paths: tuple[Path, Path], tmp_path: Path
) -> None:
    own = Task("own", ("sentence",), ("label",), ("bad", "good"), ("0", "1"))
    with pytest.raises(CheckpointError, match=r"labels negative, positive; the task 'own' has bad"):
        finetune(own, result.output_dir, paths[1], tmp_path / "other", epochs=1)
    same = finetune("sst2", result.output_dir, paths[1], tmp_path / "same", epochs=1)
    before = same.run["scores_before"]["sst2"]["accuracy"]
    assert before == near(result.metrics["accuracy"], FEW)


def largest_logit(model: TFDistilBertForSequenceClassification) -> float:
    words = np.arange(model.config.vocab_size)[:, np.newaxis]
    return largest(model(words))


def test_two_tasks_on_one_encoder(paths: tuple[Path, Path], tmp_path: Path) -> None:
    """The second task is the first one's, with the labels the other way round and in words."""
    mood = Task("mood", ("sentence",), ("label",), ("glad", "sad"))
    (tmp_path / "data" / "mood").mkdir(parents=True)
    (tmp_path / "data" / "sst2").symlink_to(paths[1])
    for name in ("train", "dev"):
        text = (paths[1] / f"{name}.tsv").read_text()
        turned = text.replace("\t1\n", "\tglad\n").replace("\t0\n", "\tsad\n")
        (tmp_path / "data" / "mood" / f"{name}.tsv").write_text(turned)
    run = finetune(
        ["sst2", mood], paths[0], tmp_path / "data", tmp_path / "out",
        epochs=8, batch_size=8, learning_rate=1e-2, max_length=12, sampling_temperature=2.0,
    )  # fmt: skip
    assert [run.scores[name]["validation"].values["accuracy"] >= 0.9 for name in run.scores] == [
        True,
        True,
    ]
    assert {"sst2_accuracy", "mood_loss", "val_mood_accuracy", "loss"} <= run.history.keys()
    found = find_task_directories(tmp_path / "out")
    assert [path.name for path in found] == ["sst2", "mood"]
    classifiers = load_classifiers(found)  # refuses encoders that differ
    assert classifiers["mood"].config.id2label == {0: "glad", 1: "sad"}
    for task in ("sst2", mood):
        name = task if isinstance(task, str) else task.name
        scores = score_pretrained(tmp_path / "out", task, tmp_path / "data").values
        saved = run.scores[name]["validation"].values
        assert scores == near(saved, roundings(CONFIG), size=largest_logit(classifiers[name]))
        assert (
            "trained for sst2, mood together" in (tmp_path / "out" / name / "README.md").read_text()
        )


def test_the_plan_is_what_then_happens(paths: tuple[Path, Path], tmp_path: Path) -> None:
    options = {"epochs": 1, "batch_size": 10, "max_length": 12, "steps_per_execution": 2}
    plan = plan_finetuning("sst2", *paths, **options)
    run = finetune("sst2", *paths, tmp_path / "out", **options)
    assert plan.steps_per_epoch == run.run["steps_per_epoch"] == 8  # 9 would be no whole executions
    assert plan.rows == {"sst2": {"train": 96, "validation": 31}}
    assert plan.parameters == sum(np.prod(weight.shape) for weight in run.model.trainable_weights)
    assert "1 epochs of 8 steps: 8 steps of 10 rows, shared by 1 replica(s)" in plan.report()


def test_batches_must_be_shared_evenly(paths: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"batch_size is 9, which 1 replica\(s\) x 2 gradient accum"
    ):
        finetune("sst2", *paths, tmp_path / "out", batch_size=9, gradient_accumulation_steps=2)


def test_the_length_of_the_training_is_that_of_the_evaluation(result: FinetuneResult) -> None:
    assert result.run["options"]["max_length"] == 12
    tokenizer = DistilBertTokenizer.from_pretrained(result.output_dir)
    long = ["a warm tea " * 20]
    assert tokenizer.as_layer()(long)["input_ids"].shape == (1, 12)


def test_positions_must_suffice(paths: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"max_length is 129, but .* has 128 positions"):
        finetune("sst2", *paths, tmp_path / "out", max_length=129)


class Looking(keras.callbacks.Callback):
    """Lists the files of a directory as a run begins."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory, self.seen = directory, set()

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.seen = {path.name for path in self.directory.iterdir()}


def test_several_tasks_may_replace_one(paths: tuple[Path, Path], tmp_path: Path) -> None:
    """No config.json and no scores of the one are left, or the directory would be taken for it."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tf_model.h5").write_bytes(b"old weights")
    with pytest.raises(FileExistsError, match=r"already holds a checkpoint \(tf_model\.h5\)"):
        finetune("sst2", *paths, tmp_path / "out", epochs=1)
    finetune("sst2", *paths, tmp_path / "out", epochs=1, overwrite=True)
    assert not (tmp_path / "out" / "tf_model.h5").exists()
    (tmp_path / "out" / "confusion_validation_mismatched.png").touch()
    looking = Looking(tmp_path / "out")
    same = Task("same", ("sentence",), ("label",), ("negative", "positive"), ("0", "1"))
    finetune(
        ["sst2", same], *paths, tmp_path / "out", epochs=1, overwrite=True, callbacks=[looking]
    )
    tokenizer = {"tokenizer.json", "tokenizer_config.json", "vocab.txt"}  # does no harm
    left = {"run.json", *tokenizer}
    assert looking.seen - {"tensorboard"} == left
    assert [path.name for path in find_task_directories(tmp_path / "out")] == ["sst2", "same"]


def test_a_run_that_was_killed_before_its_first_state_begins_anew(
    paths: tuple[Path, Path], tmp_path: Path
) -> None:
    def run(seed: int, **options: bool) -> FinetuneResult:
        return finetune("sst2", *paths, tmp_path, epochs=1, batch_size=8, seed=seed, **options)

    first = run(1)
    (tmp_path / "metrics.json").unlink()  # as the kill left it: a checkpoint, and "running"
    record = json.loads((tmp_path / "run.json").read_text()) | {"status": "running"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(FileExistsError, match=r"already holds a checkpoint \(model\.safetensors\)"):
        run(2)
    assert run(1).history == first.history  # a seed repeats a run
    assert run(2, overwrite=True).history != first.history
