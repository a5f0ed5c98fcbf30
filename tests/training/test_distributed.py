"""`fit` on two devices equals `fit` on one; strategies, and what they need from the environment.

Runs in several processes are in test_interrupted_runs.py.
"""

from typing import Any

import keras
import pytest
import tensorflow as tf
import two_devices

from distilbert_tf.models.distributed import DistributedTraining
from distilbert_tf.training.strategy import is_chief, make_strategy

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of each case, all in one process."""
    return two_devices.run(tmp_path_factory.mktemp("two") / "results.json", *two_devices.CASES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["tasks", "tasks in parts", "distillation", "plain", "plain executions"]
)
def test_two_devices_equal_one(found: dict[str, Any], case: str) -> None:
    """Two tasks and uneven rows, whole, in parts with XLA and a teacher; a student; plain Keras."""
    assert "error" not in found[case], found[case]["error"]
    assert found[case]["weights"] < found[case]["bound"] < 1e-3
    assert found[case]["history"] < found[case]["bound"]
    assert found[case]["learnt"] > 0.01  # of a loss that does not move, all runs would be equal


@pytest.mark.slow
def test_bfloat16_and_dropout_work_on_two_devices(found: dict[str, Any]) -> None:
    """Rounding and masks differ there, so results are only alike."""
    assert "error" not in found["bfloat16"], found["bfloat16"]["error"]
    assert 0 < found["bfloat16"]["history"] < 0.5
    assert found["bfloat16"]["learnt"] > 0.01


@pytest.mark.slow
def test_xla_on_whole_steps_is_refused_under_a_strategy(found: dict[str, Any]) -> None:
    message = "compiles whole steps, which tf.distribute cannot"
    assert message in found["plain XLA"]["error"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["unclipped", "clipped by value", "clipped by norm", "clipped by global norm"]
)
def test_replicas_stay_in_step(found: dict[str, Any], case: str) -> None:
    assert found[case] is None, found[case]["error"]


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
