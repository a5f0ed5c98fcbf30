"""The model card: what was measured and how, readable by people and by the hub."""

from pathlib import Path
from typing import Any

import numpy as np

from distilbert_tf.data.tasks import TASKS
from distilbert_tf.training.evaluation import Scores
from distilbert_tf.training.model_card import write_card

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
