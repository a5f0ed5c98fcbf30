"""`fit` on two devices equals `fit` on one; strategies, and what they need from the environment.

Runs in several processes are in test_interrupted_runs.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from distilbert_tf.models.distributed import DistributedTraining
from distilbert_tf.training.strategy import is_chief, make_strategy

SCRIPT = Path(__file__).parents[1] / "two_devices.py"


def train_on_one_and_two(kind: str, options: dict) -> dict[str, float]:
    result = subprocess.run(
        [sys.executable, str(SCRIPT), kind, json.dumps(options)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout.splitlines()[-1])


def check_equal(found: dict[str, float]) -> None:
    assert found["weights"] < found["bound"] < 1e-3
    assert found["history"] < found["bound"]
    assert found["learnt"] > 0.01  # of a loss that does not move, all runs would be equal


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps_per_execution": 2, "gradient_accumulation_steps": 2, "jit_compile": True},
    ],
    ids=lambda options: ", ".join(options) or "plain",
)
def test_two_devices_equal_one(options: dict) -> None:
    """56 steps of AdamW whose gradients are clipped at each, two tasks, uneven rows."""
    check_equal(train_on_one_and_two("tasks", options))


@pytest.mark.slow
def test_bfloat16_and_dropout_work_on_two_devices() -> None:
    """Rounding and masks differ there, so results are only alike."""
    options = {
        "dtype": "mixed_bfloat16",
        "dropout": 0.1,
        "jit_compile": True,
        "gradient_accumulation_steps": 4,
    }
    found = train_on_one_and_two("tasks", options)
    assert 0 < found["history"] < 0.5
    assert found["learnt"] > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 4}])
def test_plain_keras_code_is_right_on_two_devices(options: dict) -> None:
    check_equal(train_on_one_and_two("plain", options))


@pytest.mark.slow
def test_xla_on_whole_steps_is_refused_under_a_strategy() -> None:
    with pytest.raises(AssertionError, match="compiles whole steps, which tf.distribute cannot"):
        train_on_one_and_two("plain", {"jit_compile": True})


def test_keras_still_has_the_methods_that_are_overridden() -> None:
    for name in ("_maybe_symbolic_build", "_make_function"):
        assert callable(getattr(keras.Model, name))
        assert name in vars(DistributedTraining)


def test_one_device_is_tensorflows_default() -> None:
    assert make_strategy("none") is tf.distribute.get_strategy()
    assert make_strategy("auto") is tf.distribute.get_strategy()
    assert is_chief(make_strategy("none"))


def test_unknown_strategies_are_refused() -> None:
    with pytest.raises(ValueError, match="strategy must be one of auto, none, .*; got 'both'"):
        make_strategy("both")


@pytest.mark.parametrize("text", ["", "{}", '{"cluster": {"ps": ["a:1"]}}'])
def test_several_workers_need_a_cluster(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="needs the environment variable TF_CONFIG"):
        make_strategy("multi_worker")


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_broken_cluster_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="TF_CONFIG is not a JSON object with a cluster"):
        make_strategy("auto")


def test_a_missing_tpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(RuntimeError, match="No TPU can be reached"):
        make_strategy("tpu")
