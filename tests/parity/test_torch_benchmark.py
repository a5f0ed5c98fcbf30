"""The benchmark that needs PyTorch in this environment; others are in test_benchmark_scripts.py."""

import json
import subprocess
import sys
from pathlib import Path

import processes
import pytest
from tiny_task import tiny_checkpoint, tiny_data

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
