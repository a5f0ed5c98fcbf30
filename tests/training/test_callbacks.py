"""The callbacks of a run, each by itself."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny_task import tiny_checkpoint

from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.training.callbacks import ProgressLog, SaveBest, format_duration
from distilbert_tf.training.multitask import MultiTaskModel
from distilbert_tf.training.state import Progress


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "encoder")


@pytest.mark.parametrize(
    ("execution", "every", "expected"),
    [
        (1, 5, [5, 10, 15]),
        (3, 5, [6, 12, 15]),
        (3, 2, [3, 6, 9, 12, 15]),
        (3, 3, [3, 6, 9, 12, 15]),
    ],
)
def test_progress_tells_which_executions_pass_a_multiple(
    execution: int, every: int, expected: list[int]
) -> None:
    """Two epochs of nine steps: `fit` names the last step of each execution."""
    progress, passed, ends = Progress(steps_per_epoch=9), [], []
    for epoch in (1, 2):
        for first in range(0, 9, execution):
            progress.advance(first + execution - 1)
            assert progress.epoch == epoch
            passed += [progress.step] if progress.passed(every) and progress.step <= 15 else []
            ends += [progress.step] if progress.ends_epoch else []
    assert passed == expected
    assert ends == [9, 18]


class Scripted:
    """Sets a weight and claims an accuracy, epoch by epoch."""

    def __init__(self, encoder: Path, directory: Path, patience: int | None = None) -> None:
        classifier = TFDistilBertForSequenceClassification.from_pretrained(encoder)
        self.model = MultiTaskModel({"sst2": classifier})
        self.model.stop_training = False
        self.classifier, self.progress = classifier, Progress(steps_per_epoch=3)
        self.saver = SaveBest(
            {"sst2": directory},
            DistilBertTokenizer.from_pretrained(encoder),
            lambda logs: logs["accuracy"],
            self.progress,
            patience,
        )
        self.saver.set_model(self.model)

    def play(self, accuracies: list[float], losses: Sequence[float] = (0.5,) * 6) -> int:
        for epoch, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=False)):
            self.classifier.classifier.bias.assign([epoch + 1.0, -epoch])
            self.progress.advance(2)
            logs = {"loss": 1.0, "val_accuracy": accuracy, "val_loss": loss}
            self.saver.on_epoch_end(epoch, logs)
            if self.model.stop_training:
                break
        self.saver.on_train_end()
        return epoch + 1


@pytest.mark.parametrize(
    ("accuracies", "best"), [([0.5, 0.8, 0.7], 2), ([0.6, 0.6], 1), ([0.1, 0.2, 0.3], 3)]
)
def test_save_best_keeps_the_first_best_epoch(
    encoder: Path, tmp_path: Path, accuracies: list[float], best: int
) -> None:
    script = Scripted(encoder, tmp_path)
    script.play(accuracies)
    assert script.progress.best is not None
    found = {name: script.progress.best[name] for name in ("epoch", "step", "score")}
    assert found == {"epoch": best, "step": 3 * best, "score": max(accuracies)}
    assert script.classifier.classifier.bias.numpy().tolist() == [best, -(best - 1)]
    saved = TFDistilBertForSequenceClassification.from_pretrained(tmp_path)
    assert saved.classifier.bias.numpy().tolist() == [best, -(best - 1)]


def test_of_equal_scores_the_least_loss_is_the_best(encoder: Path, tmp_path: Path) -> None:
    script = Scripted(encoder, tmp_path)
    script.play([0.5, 0.8, 0.8, 0.8, 0.7], [0.9, 0.935, 0.794, 0.8, 0.1])
    assert script.progress.best is not None
    assert script.progress.best["epoch"] == 3
    assert script.classifier.classifier.bias.numpy().tolist() == [3, -2]


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 4), (None, 6)])
def test_patience_runs_out(
    encoder: Path, tmp_path: Path, patience: int | None, epochs: int
) -> None:
    script = Scripted(encoder, tmp_path, patience)
    assert script.play([0.5, 0.6, 0.4, 0.6, 0.5, 0.3]) == epochs
    assert script.progress.is_out_of_patience(patience) == (patience is not None)


def test_progress_is_logged_with_rate_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress(steps_per_epoch=3)
    log = ProgressLog(progress, batch_size=8, interval_s=0.0)
    log.set_params({"epochs": 2})
    with caplog.at_level("INFO", logger="absl"):
        for _ in range(2):
            for batch in range(3):
                progress.advance(batch)
                log.on_train_batch_end(batch, {"loss": 0.25})
        log.on_train_batch_end(0, {})  # skipped, as when a run is resumed
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 5  # none after the first step, which traces the graph
    assert re.match(r"epoch 1/2, step 2/3, [\d.]+ examples/s, loss 0\.2500, \d+ s left", lines[0])
    assert lines[4].startswith("epoch 2/2, step 3/3, ")
    assert lines[4].endswith(" 0 s left")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (41, "41 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations_are_written_as_people_do(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
