"""The model card: what was measured and how, for people and for the hub."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from distilbert_tf.data.tasks import TASKS, Task
from distilbert_tf.training.evaluation import Scores
from distilbert_tf.training.model_card import write_card

SST2, MNLI = TASKS["sst2"], TASKS["mnli"]
TRAIN = {"files": ["train.tsv"], "sha256": "ab12", "rows": 67349, "skipped": 0}
DEV = {"files": ["dev-0.csv", "dev-1.csv"], "sha256": "cd34", "rows": 1234, "skipped": 1017}
MATCHED = Scores({"loss": 0.31249, "accuracy": 0.91}, np.array([[1200, 10], [14, 10]]))
THREE = Scores({"loss": 1.5, "accuracy": 0.75}, np.diag([2, 1, 0]) + np.eye(3, k=2, dtype=int))
OTHER = Scores({"loss": 1.5, "accuracy": 2 / 3}, np.array([[1, 0], [1, 1]]))


def card_of(
    path: Path,
    task: Task,
    scores: dict[str, Scores],
    settings: dict[str, Any] | None = None,
    **changes: Any,
) -> ModelCard:
    """Writes a card with as much of a run as it tells, and reads it as the hub does."""
    run = {
        "model": "distilbert-base-uncased",
        "teacher": None,
        "data": "glue",
        "tasks": [task.name],
        "options": {
            "epochs": 4, "batch_size": 24, "learning_rate": 3e-5, "warmup_ratio": 0.06,
            "weight_decay": 0.02, "seed": 77, "max_length": 96, "distill_alpha": 0.75,
            "distill_temperature": 4.0, **(settings or {}),
        },
        "steps_per_epoch": 2806,
        "train_time_s": 1520.6,
        "examples_per_s": 177.25,
        "devices": ["CPU: x86_64"],
        "replicas": 2,
        "dtype": "float32",
        "data_files": {task.name: {"train": TRAIN, **dict.fromkeys(scores, DEV)}},
        "versions": {"tensorflow": "2.21.9", "keras": "3.15.8", "distilbert_tf": "0.7.6"},
        **changes,
    }  # fmt: skip
    write_card(path / "README.md", task, scores, run)
    assert [file.name for file in path.iterdir()] == ["README.md"]
    return ModelCard.load(path / "README.md")


def test_people_read_what_was_measured_and_how(tmp_path: Path) -> None:
    scores = {"validation": MATCHED, "validation_mismatched": OTHER}
    text = card_of(tmp_path, SST2, scores).text
    for part in (
        "# sst2: negative, positive\n",
        "| split | rows | loss | accuracy |\n|---|---:|---:|---:|\n"
        "| validation | 1,234 | 0.3125 | 0.9100 |\n"
        "| validation_mismatched | 3 | 1.5000 | 0.6667 |\n",
        "classifier of `sentence`, fine-tuned from `distilbert-base-uncased`",
        "- 4 epochs of 2,806 steps, 24 rows each; AdamW, peak learning rate 3e-05, warmup ratio "
        "0.06, weight decay 0.02, seed 77, at most 96 tokens.",
        "- 1521 s, 177.2 examples/s on CPU: x86_64 (2 replica(s), float32).",
        "- train: train.tsv, 67,349 rows, sha256 `ab12`\n",
        "- validation: dev-0.csv, dev-1.csv, 1,234 rows (1,017 skipped), sha256 `cd34`\n",
        "- TensorFlow 2.21.9, Keras 3.15.8, distilbert-tf 0.7.6.",
        'classify("...")',
    ):
        assert part in text
    assert "together" not in text
    assert "agreement" not in text
    assert "Other settings" not in text


def test_scores_by_label_and_settings_that_are_not_the_usual_ones(tmp_path: Path) -> None:
    """Precisions 1200 / 1214 and 10 / 20, recalls 1200 / 1210 and 10 / 24."""
    run = card_of(tmp_path, SST2, {"validation": MATCHED, "test": OTHER}, settings={
        "lr_scheduler_type": "cosine", "frozen_layers": 2, "fresh_head": False,
    }).text  # fmt: skip
    for part in (
        "| validation: label | rows | precision | recall | F1 |\n|---|---:|---:|---:|---:|\n"
        "| negative | 1,210 | 0.9885 | 0.9917 | 0.9901 |\n"
        "| positive | 24 | 0.5000 | 0.4167 | 0.4545 |\n\n"
        "| test: label | rows |",
        "- Other settings: lr_scheduler_type=cosine, frozen_layers=2.\n",
    ):
        assert part in run


def test_a_pair_task_among_others(tmp_path: Path) -> None:
    text = card_of(tmp_path, MNLI, {"validation": THREE}, tasks=["sst2", "mnli"]).text
    assert "A DistilBERT classifier of `sentence1` and `sentence2`," in text
    assert "One encoder, trained for sst2, mnli together." in text
    assert 'classify({"text": "...", "text_pair": "..."})' in text


def test_a_teacher_is_named_with_its_digest(tmp_path: Path) -> None:
    teacher = {"checkpoint": "large", "sha256": {"sst2": "ef56", "mnli": "0789"}}
    scores = {"validation": MATCHED}
    text = card_of(tmp_path, SST2, scores, tasks=["sst2", "mnli"], teacher=teacher).text
    assert (
        "Learned from the logits of `large` (sha256 `ef56`), softened by a temperature of 4, with "
        "weight 0.75, and from the labels with weight 0.25." in text
    )


def test_the_hub_reads_scores_on_its_own_data(tmp_path: Path) -> None:
    matched, other = Scores({"accuracy": 0.91}, np.eye(3)), Scores({"accuracy": 2 / 3}, np.eye(3))
    scores = {"validation": matched, "validation_mismatched": other}
    data = card_of(tmp_path, MNLI, scores, data="hub").data
    assert (data.language, data.license, data.base_model) == (
        "en", "apache-2.0", "distilbert-base-uncased",
    )  # fmt: skip
    assert (data.pipeline_tag, data.library_name) == ("text-classification", "transformers")
    assert (data.datasets, data.metrics) == (["nyu-mll/glue"], ["accuracy"])
    assert data.tags == ["distilbert", "tensorflow"]
    assert data.model_name == "distilbert-mnli"
    on_matched, on_other = data.eval_results
    assert (on_matched.dataset_type, on_matched.dataset_config) == ("nyu-mll/glue", "mnli")
    assert (on_matched.dataset_split, on_other.dataset_split) == (
        "validation_matched", "validation_mismatched",
    )  # fmt: skip
    assert [(one.metric_type, one.metric_value) for one in data.eval_results] == [
        ("accuracy", 0.91), ("accuracy", 2 / 3),
    ]  # fmt: skip
    assert on_matched.dataset_args == {"files": DEV["files"], "sha256": "cd34", "rows": 1234}


def test_other_data_does_not_go_by_the_hubs_name(tmp_path: Path) -> None:
    own = Task("own", ("text",), ("label",), ("a", "b", "c"), metrics=("macro_f1", "accuracy"))
    scores = {"validation": Scores({"loss": 1.0, "macro_f1": 0.5, "accuracy": 0.75}, np.eye(3))}
    data = card_of(tmp_path, own, scores, model="demo", data="demo").data
    assert (data.datasets, data.language, data.license) == (None, None, "apache-2.0")
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    f1, accuracy = data.eval_results
    assert (f1.dataset_type, f1.dataset_config, f1.dataset_split) == ("own", None, "validation")
    assert f1.dataset_name == "own, demo data of distilbert-tf"
    assert (f1.metric_type, f1.metric_name, f1.metric_args) == (
        "f1", "macro_f1", {"average": "macro"},
    )  # fmt: skip
    assert (accuracy.metric_type, accuracy.metric_value) == ("accuracy", 0.75)


@pytest.mark.parametrize(
    ("text", "license"),
    [
        ("---\nlanguage: de\nlicense: mit\n---\n# Mine\n", "mit"),
        ("---\n{not: [yaml\n---\n", None),
        ("# No metadata\n", None),
        (None, None),
    ],
)
def test_a_directorys_own_card_tells_its_license(
    tmp_path: Path, text: str | None, license: str | None
) -> None:
    base, result = tmp_path / "base", tmp_path / "result"
    for directory in (base, result):
        directory.mkdir()
    if text is not None:
        (base / "README.md").write_text(text)
    own = Task("own", ("text",), ("label",), ("no", "yes"))
    data = card_of(result, own, {"validation": OTHER}, model=str(base)).data
    assert (data.license, data.language) == (license, "de" if license else None)
    assert data.base_model is None
