"""What a run writes down: read back, and compared with what was measured."""

import hashlib
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.image import imread

from distilbert_tf.data.examples import Examples, load_examples
from distilbert_tf.data.tasks import TASKS, Task
from distilbert_tf.training.evaluation import Scores
from distilbert_tf.training.report import (
    describe_data,
    describe_process,
    peak_memory_mib,
    plot_confusion,
    plot_curves,
    write_card,
    write_json,
)

SST2, MNLI = TASKS["sst2"], TASKS["mnli"]


def make_run(**changes: Any) -> dict[str, Any]:
    """A record with as much of a run as the card tells."""
    files = {"files": ["train.tsv"], "sha256": "ab12", "rows": 67349, "skipped": 0}
    dev = {"files": ["dev-0.csv", "dev-1.csv"], "sha256": "cd34", "rows": 1234, "skipped": 1017}
    return {
        "model": "distilbert-base-uncased",
        "tasks": ["sst2"],
        "options": {
            "epochs": 4, "batch_size": 24, "learning_rate": 3e-5, "warmup_ratio": 0.06,
            "weight_decay": 0.02, "seed": 77, "max_length": 96,
        },
        "steps_per_epoch": 2806,
        "train_time_s": 1520.6,
        "examples_per_s": 177.25,
        "devices": ["CPU: x86_64"],
        "replicas": 2,
        "dtype": "float32",
        "data_files": {"sst2": {"train": files, "validation": dev}},
        "versions": {"tensorflow": "2.21.9", "keras": "3.15.8", "distilbert_tf": "0.7.6"},
        **changes,
    }  # fmt: skip


def table(card: str) -> list[list[str]]:
    lines = [line for line in card.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_card_has_the_scores_that_were_measured(tmp_path: Path) -> None:
    matched = Scores({"loss": 0.31249, "accuracy": 0.91}, np.array([[1200, 10], [14, 10]]))
    other = Scores({"loss": 1.5, "accuracy": 2 / 3}, np.array([[1, 0], [1, 1]]))
    scores = {"validation": matched, "validation_mismatched": other}
    write_card(tmp_path / "README.md", SST2, scores, make_run())
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert table(card) == [
        ["split", "rows", "loss", "accuracy"],
        ["---", "---:", "---:", "---:"],
        ["validation", "1,234", "0.3125", "0.9100"],
        ["validation_mismatched", "3", "1.5000", "0.6667"],
    ]
    assert "metrics: [accuracy]\n" in card
    assert "# sst2: negative, positive\n" in card
    assert card.startswith("---\npipeline_tag: text-classification\n")
    head, _, rest = card.removeprefix("---\n").partition("\n---\n")
    assert "# sst2" in rest
    assert "#" not in head


def test_the_card_tells_how_it_was_made(tmp_path: Path) -> None:
    scores = {"validation": Scores({"loss": 0.5, "accuracy": 0.5}, np.eye(2, dtype=int))}
    write_card(tmp_path / "README.md", SST2, scores, make_run())
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    for part in (
        "classifier of `sentence`, fine-tuned from `distilbert-base-uncased`",
        "- 4 epochs of 2,806 steps, 24 rows each; AdamW, peak rate 3e-05, warm-up 0.06, "
        "weight decay 0.02, seed 77, at most 96 tokens.",
        "- 1521 s, 177.2 examples/s on CPU: x86_64 (2 replica(s), float32).",
        "- train: train.tsv, 67,349 rows, sha256 `ab12`\n",
        "- validation: dev-0.csv, dev-1.csv, 1,234 rows (1,017 left out), sha256 `cd34`\n",
        "- TensorFlow 2.21.9, Keras 3.15.8, distilbert-tf 0.7.6.",
        'classify("...")',
    ):
        assert part in card
    assert "together" not in card


def test_the_card_of_a_pair_task_among_others(tmp_path: Path) -> None:
    scores = {"validation": Scores({"loss": 0.5, "accuracy": 0.5}, np.eye(3, dtype=int))}
    files = {"files": ["train.tsv"], "sha256": "5678", "rows": 3, "skipped": 0}
    run = make_run(tasks=["sst2", "mnli"], data_files={"sst2": {}, "mnli": {"train": files}})
    write_card(tmp_path / "README.md", MNLI, scores, run)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "A DistilBERT classifier of `sentence1` and `sentence2`," in card
    assert "One encoder, trained for sst2, mnli together." in card
    assert 'classify({"text": "...", "text_pair": "..."})' in card
    assert "sha256 `5678`" in card
    assert "ab12" not in card
    assert table(card)[2] == ["validation", "3", "0.5000", "0.5000"]


def picture(path: Path) -> np.ndarray:
    """Opens a PNG file, and gives its pixels (height, width, 4) between 0 and 1."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = imread(path)
    assert pixels.max() <= 1.0
    assert pixels[..., :3].std() > 0.01  # something is drawn
    return pixels


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def remember(self: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures


def test_a_confusion_matrix_shows_counts_and_shares(tmp_path: Path, drawn: list[Figure]) -> None:
    counts = np.array([[1500, 300, 200], [0, 7, 1], [0, 0, 0]])
    path = tmp_path / "confusion.png"
    plot_confusion(path, counts, ("gloomy", "even", "merry"), "mood, validation")
    height, width, _ = picture(path).shape
    assert 400 < height < width < 1000
    (axes,) = drawn[0].axes
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {
        (0, 0): "1,500\n75.0%", (1, 0): "300\n15.0%", (2, 0): "200\n10.0%",
        (0, 1): "0\n0.0%", (1, 1): "7\n87.5%", (2, 1): "1\n12.5%",
        (0, 2): "0\n0.0%", (1, 2): "0\n0.0%", (2, 2): "0\n0.0%",
    }  # fmt: skip
    shares = [[0.75, 0.15, 0.1], [0, 0.875, 0.125], [0, 0, 0]]
    np.testing.assert_allclose(axes.images[0].get_array(), shares)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert axes.get_title() == "mood, validation"
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == ["gloomy", "even", "merry"]
    assert list(tmp_path.iterdir()) == [path]


def test_learning_curves_show_every_point(tmp_path: Path, drawn: list[Figure]) -> None:
    evaluations = [
        {"step": 10, "loss": 0.6, "accuracy": 0.7, "f1": 0.5},
        {"step": 20, "loss": 0.4, "accuracy": 0.8, "f1": 0.75},
    ]
    losses = [(5, 0.9), (10, 0.55), (20, 0.3)]
    path = tmp_path / "curves.png"
    plot_curves(path, losses, evaluations, ["accuracy", "f1"], best_step=20)
    height, width, _ = picture(path).shape
    assert (height, width) == (440, 1210)
    left, right = (
        {line.get_label(): np.transpose(line.get_data()).tolist() for line in axes.lines}
        for axes in drawn[0].axes
    )
    assert left.pop("kept") == right.pop("kept") == [[20, 0], [20, 1]]
    assert left == {
        "training": [list(point) for point in losses],
        "validation": [[10, 0.6], [20, 0.4]],
    }
    assert right == {"accuracy": [[10, 0.7], [20, 0.8]], "f1": [[10, 0.5], [20, 0.75]]}


def test_a_run_without_a_training_loss_can_be_drawn(tmp_path: Path) -> None:
    evaluations = [{"step": 0, "loss": 0.6, "accuracy": 0.7}]
    plot_curves(tmp_path / "curves.png", [], evaluations, ["accuracy"], best_step=0)
    picture(tmp_path / "curves.png")


def test_data_is_described_by_the_bytes_of_its_files(tmp_path: Path) -> None:
    own = Task("own", ("text",), ("label",), ("no", "yes"))
    train = "text\tlabel\nso be it\tyes\nnot now\tno\nhardly\tmaybe\n"
    dev = "text,label\nlet it be,yes\n"
    (tmp_path / "train.tsv").write_text(train)
    (tmp_path / "dev.csv").write_text(dev)
    found = {
        split: load_examples(own, tmp_path, split, bad_rows="skip")
        for split in ("train", "validation")
    }
    assert describe_data({"own": found}) == {
        "own": {
            "train": {
                "files": ["train.tsv"],
                "sha256": hashlib.sha256(train.encode()).hexdigest(),
                "rows": 2,
                "skipped": 1,
            },
            "validation": {
                "files": ["dev.csv"],
                "sha256": hashlib.sha256(dev.encode()).hexdigest(),
                "rows": 1,
                "skipped": 0,
            },
        }
    }


def test_the_digest_of_shards_is_that_of_all_their_bytes(tmp_path: Path) -> None:
    parts = [tmp_path / name for name in ("b.txt", "a.txt")]
    for part in parts:
        part.write_bytes(part.name.encode() * 9)
    examples = Examples((("x",),), np.zeros(1, "int32"), files=tuple(parts))
    expected = hashlib.sha256(b"b.txt" * 9 + b"a.txt" * 9).hexdigest()
    assert describe_data({"t": {"s": examples}})["t"]["s"]["sha256"] == expected


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    content = {"α": [1, 2.5, None, True], "deep": {"loss": 1e-12, "text": 'naïve "quote"\n'}}
    path = tmp_path / "new" / "record.json"
    write_json(path, content)
    assert json.loads(path.read_text(encoding="utf-8")) == content
    assert "naïve" in path.read_text(encoding="utf-8")
    with pytest.raises(TypeError):
        write_json(path, {"array": np.zeros(2)})
    assert json.loads(path.read_text(encoding="utf-8")) == content
    assert list(path.parent.iterdir()) == [path]


def test_a_process_is_described_in_json(tmp_path: Path) -> None:
    found = describe_process()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["tensorflow"] == tf.__version__
    assert found["versions"]["keras"] == keras.__version__
    assert any(device.startswith("CPU: ") for device in found["devices"])


def test_peak_memory_is_in_mib() -> None:
    now_mib = psutil.Process().memory_info().rss / 2**20
    assert now_mib * 0.9 < peak_memory_mib() < psutil.virtual_memory().total / 2**20
