"""The benchmark that needs PyTorch in this environment; others are in test_benchmark_scripts.py."""

import json
import subprocess
import sys
from pathlib import Path

import comparing
import keras
import numpy as np
import processes
import pytest
import tensorflow as tf
from tiny_task import tiny_checkpoint, tiny_data
from transformers import DistilBertConfig

from distilbert_tf.distillation.student import make_student
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM

pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
pytestmark = pytest.mark.parity


def test_finetune_torch(tmp_path: Path) -> None:
    encoder, data = tiny_checkpoint(tmp_path / "encoder"), tiny_data(tmp_path / "data")
    flags = [f"--model={encoder}", f"--data={data}", "--epochs=6", "--learning_rate=1e-2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.finetune_torch", *flags, "--batch_size=8"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    result = json.loads(processes.finish(process, timeout_s=200.0)[0])
    assert result["accuracy"] >= 0.9
    assert result["examples_per_s"] > 0


@pytest.mark.parametrize("soft_targets_at", ["masked", "all"])
def test_both_sides_take_the_same_step_of_a_distillation(
    tmp_path: Path, soft_targets_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights so wide that every loss is far from 0, and without dropout."""
    from benchmarks.workers.ours_distillation import OursDistillation
    from benchmarks.workers.torch_distillation import TorchDistillation

    keras.utils.set_random_seed(1)
    config = DistilBertConfig(
        vocab_size=60, dim=16, n_layers=4, n_heads=2, hidden_dim=32, dropout=0.0,
        attention_dropout=0.0, max_position_embeddings=12, initializer_range=0.4,
    )  # fmt: skip
    teacher = TFDistilBertForMaskedLM(config)
    teacher.save_pretrained(tmp_path / "teacher")
    make_student(teacher).save_pretrained(tmp_path / "student")
    random = np.random.default_rng(1)
    mask = (np.arange(12) < random.integers(4, 13, (8, 1))).astype(np.int32)
    ids = random.integers(5, 60, mask.shape).astype(np.int32) * mask
    labels = np.where((random.random(mask.shape) < 0.3) & (mask == 1), ids, -1).astype(np.int32)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    found = []
    # TensorFlow's threads are fixed by now.
    monkeypatch.setattr(
        tf.config.threading, "set_intra_op_parallelism_threads", lambda threads: None
    )
    for worker in (OursDistillation(), TorchDistillation()):
        worker.load(str(tmp_path), "", threads=1, options={})
        losses = worker.start([batch], soft_targets_at)
        # The second step begins with the weights of the first.
        found.append({**losses, "first": worker.step(0), "second": worker.step(0)})
    ours, theirs = found
    assert ours == comparing.near(theirs, comparing.roundings(config, comparing.WITH_GRADIENTS))
    assert min(theirs.values()) > 0.1
    assert theirs["second"] < theirs["first"]
