"""Runs that crash, are killed, told to stop, or find their state damaged, and are resumed.

They have a teacher, which none but the first of a run's processes may ask: the logits are kept.
"""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import two_devices
from comparing import FEW, near
from interruptions import RECIPE, CrashError, CrashOnce, StopOnce, finish, start, wait_for_step
from tiny_task import tiny_checkpoint, tiny_classifier, tiny_data

from benchmarks.equality import kill_all, largest_difference, saved_steps
from distilbert_tf.training.finetuning import finetune
from distilbert_tf.training.interruption import InterruptedRunError
from distilbert_tf.training.state import list_states, read_state, save_state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Paths = tuple[Path, Path, Path]
Tune = Callable[..., Any]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """An encoder, data, and a teacher."""
    root = tmp_path_factory.mktemp("tiny")
    larger = tiny_checkpoint(root / "larger", n_layers=2, dim=24)
    teacher = tiny_classifier(root / "teacher", larger, {0: "positive", 1: "negative"})
    return tiny_checkpoint(root / "encoder"), tiny_data(root / "data"), teacher


@pytest.fixture(scope="module")
def tune(paths: Paths) -> Tune:
    """Fine-tunes on one device, in this process."""
    encoder, data, teacher = paths

    def run(output: Path, *callbacks: Any, **options: Any) -> None:
        options = {"teacher": teacher, "callbacks": callbacks} | RECIPE | options
        finetune("sst2", encoder, data, output, **options)

    return run


@pytest.fixture(scope="module")
def whole(tune: Tune, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run on one device."""
    output = tmp_path_factory.mktemp("whole") / "out"
    tune(output)
    return output


@pytest.fixture(scope="module")
def on_two_devices(paths: Paths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs `whole`, `crashed` and `stopped` on two devices."""
    root = tmp_path_factory.mktemp("two")
    two_devices.run(root / "results.json", "interrupt", *map(str, (*paths, root)))
    return root


def records(output: Path) -> tuple[list, list]:
    metrics = json.loads((output / "metrics.json").read_text())
    return metrics["epochs"], metrics["evaluations"]


def assert_same_run(output: Path, expected: Path, roundings: int = 0) -> None:
    """Compares weights and evaluations exactly, and the mean losses of an epoch as asked."""
    assert largest_difference(output, expected) == 0
    (epochs, evaluations), (other_epochs, others) = records(output), records(expected)
    assert evaluations == others
    for epoch, other in zip(epochs, other_epochs, strict=True):
        assert epoch == near(other, roundings)
    assert saved_steps(output) == []
    assert not (output / "teacher_logits").exists()


@pytest.mark.parametrize("step", [5, 31])
def test_a_crashed_run_ends_as_if_nothing_had_happened(
    tune: Tune, whole: Path, tmp_path: Path, step: int
) -> None:
    """Crashed within an epoch; the state is of an even step, so a step is taken again."""
    with pytest.raises(CrashError):
        tune(tmp_path, CrashOnce(step))
    assert saved_steps(tmp_path)[-1] == step - 1
    assert not (tmp_path / "metrics.json").exists()
    tune(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["resumed_at_step"] == step - 1
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_saves_its_state(
    tune: Tune, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(InterruptedRunError, match=f"{number.name} stopped .* after step 15;") as e:
        tune(tmp_path, StopOnce(15, number), save_steps=1000)
    assert e.value.signal_number == number
    assert signal.getsignal(number) is before
    assert saved_steps(tmp_path) == [12, 15]  # an epoch's end, and when it was told
    tune(tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_damaged_state_gives_way_to_the_one_before(
    tune: Tune, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(CrashError):
        tune(tmp_path, CrashOnce(17))
    path, _ = list_states(tmp_path / "checkpoints")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with caplog.at_level("INFO", logger="absl"):
        tune(tmp_path)
    assert f"{path} is damaged" in caplog.text
    assert f"Resuming {tmp_path} after step 14." in caplog.text
    assert_same_run(tmp_path, whole)


def test_another_run_does_not_resume(tune: Tune, tmp_path: Path) -> None:
    with pytest.raises(CrashError):
        tune(tmp_path, CrashOnce(3))
    with pytest.raises(FileExistsError, match=r"another run that was interrupted: seed=42, now 7"):
        tune(tmp_path, seed=7)
    with pytest.raises(FileExistsError, match=r"teacher was \{'checkpoint': .*\}, now None"):
        tune(tmp_path, teacher=None)
    (path,) = list_states(tmp_path / "checkpoints")
    tensors, record = read_state(path)
    record["run"]["options"]["micro_batches"] = 1  # as in the last release
    del record["run"]["options"]["gradient_accumulation_steps"]
    save_state(path.parent, 2, tensors, {"run": record["run"], "step": 2, "seconds": 1.0}, keep=1)
    with pytest.raises(FileExistsError, match=r"another release, .* gradient_accumulation_steps"):
        tune(tmp_path)
    with pytest.raises(CrashError):
        tune(tmp_path, CrashOnce(3), overwrite=True)
    assert read_state(path).record["progress"]["step"] == 2


def test_evaluations_within_epochs_are_resumed_too(tune: Tune, tmp_path: Path) -> None:
    options = {"eval_steps": 5, "steps_per_execution": 3, "gradient_accumulation_steps": 2}
    tune(tmp_path / "whole", **options)
    with pytest.raises(CrashError):
        tune(tmp_path / "crashed", CrashOnce(29), **options)
    tune(tmp_path / "crashed", **options)
    assert_same_run(tmp_path / "crashed", tmp_path / "whole")
    _, evaluations = records(tmp_path / "whole")
    assert len(evaluations) == 6 + 10  # steps 72 / 5, five of them within an execution


@pytest.mark.parametrize("name", ["crashed", "stopped"])
def test_two_devices_resume_too(on_two_devices: Path, whole: Path, name: str) -> None:
    # Of an epoch that is resumed, each gets half of the sum over both: it rounds in another order.
    assert_same_run(on_two_devices / name, on_two_devices / "whole", FEW)
    # Replicas draw their own dropout.
    assert largest_difference(on_two_devices / "whole", whole) > 0


ASKING = "Computing the teacher's logits"
IGNORING_SIGINT = ("sh", "-c", """trap "" INT; exec "$@" """, "sh")  # as `nohup COMMAND &` does


def stop_in_the_background(process: "subprocess.Popen[str]", output: Path) -> str:
    """Signals a run that a shell has started as a background job: it stops for SIGTERM alone."""
    os.kill(process.pid, signal.SIGINT)
    wait_for_step(output, saved_steps(output)[-1] + 4, process)
    os.kill(process.pid, signal.SIGTERM)
    printed = finish(process, 128 + signal.SIGTERM)
    told = re.search(r"SIGTERM stopped the run after step (\d+)", printed)
    assert told is not None
    assert "SIGINT" not in printed
    assert saved_steps(output)[-1] == int(told[1])
    return printed


def test_a_process_is_killed_and_stopped(
    paths: Paths, tune: Tune, whole: Path, tmp_path: Path
) -> None:
    process = start("one device", *paths, tmp_path)
    wait_for_step(tmp_path, 5, process)
    kill_all(process)
    last = saved_steps(tmp_path)[-1]
    process = start("one device", *paths, tmp_path, wrapper=IGNORING_SIGINT)
    wait_for_step(tmp_path, last + 2, process)
    assert ASKING not in stop_in_the_background(process, tmp_path)
    tune(tmp_path)
    assert_same_run(tmp_path, whole)


def test_workers_are_killed_and_stopped(paths: Paths, on_two_devices: Path, tmp_path: Path) -> None:
    """Two processes end with the numbers of two devices, whatever befalls them."""
    process = start("two processes", *paths, tmp_path, wrapper=IGNORING_SIGINT)
    wait_for_step(tmp_path, 4, process)
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    workers[1].kill()
    wait_for_step(tmp_path, saved_steps(tmp_path)[-1] + 4, process)
    printed = stop_in_the_background(process, tmp_path)
    first, restarted, second = printed.partition(
        "A worker was killed or lost (SIGKILL). All 2 are restarted from the last"
    )
    assert restarted
    assert (ASKING in first, ASKING in second) == (True, False)
    assert f"Resuming {tmp_path} after step" in second
    finish(start("two processes", *paths, tmp_path))
    assert_same_run(tmp_path, on_two_devices / "whole", FEW)
