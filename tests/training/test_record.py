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
from distilbert_tf.data.tasks import Task
from distilbert_tf.training.report import (
    describe_data,
    describe_process,
    peak_memory_mib,
    plot_confusion,
    plot_curves,
    write_json,
)


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
