"""Runs that are killed, told to stop, or find their state damaged: real processes, real signals."""

import json
import os
import re
import signal
from pathlib import Path

import psutil
import pytest
from finetune_process import finish, start, wait_for_step
from tiny_task import tiny_checkpoint, tiny_data

from benchmarks.equality import DEVICES, kill_all, largest_difference, saved_steps

pytestmark = pytest.mark.slow

Paths = tuple[Path, Path]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    root = tmp_path_factory.mktemp("tiny")
    return tiny_checkpoint(root / "encoder"), tiny_data(root / "data")


@pytest.fixture(scope="module")
def whole(paths: Paths, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Uninterrupted runs, by devices."""
    root = tmp_path_factory.mktemp("whole")
    outputs = {devices: root / devices.replace(" ", "-") for devices in DEVICES}
    for devices, output in outputs.items():
        finish(start(devices, *paths, output))
    return outputs


def records(output: Path) -> tuple[list, list]:
    metrics = json.loads((output / "metrics.json").read_text())
    return metrics["epochs"], metrics["evaluations"]


def test_devices_agree(whole: dict[str, Path]) -> None:
    """Replicas draw their own dropout, so these equal each other, and one device only nearly."""
    assert largest_difference(whole["two devices"], whole["two processes"]) == 0
    assert records(whole["two devices"]) == records(whole["two processes"])
    assert largest_difference(whole["one device"], whole["two devices"]) > 0


@pytest.mark.parametrize(
    ("devices", "step"),
    [("one device", 5), ("one device", 31), ("two devices", 17), ("two processes", 17)],
)
def test_a_killed_run_ends_as_if_nothing_had_happened(
    paths: Paths, whole: dict[str, Path], tmp_path: Path, devices: str, step: int
) -> None:
    """Killed within an epoch; the state is of an even step, so some steps are taken again."""
    output = tmp_path / "out"
    process = start(devices, *paths, output)
    wait_for_step(output, step, process)
    kill_all(process)
    assert not (output / "metrics.json").exists()
    printed = finish(start(devices, *paths, output))
    assert "Resuming" in printed
    assert largest_difference(output, whole[devices]) == 0
    assert records(output)[1] == records(whole[devices])[1]
    assert saved_steps(output) == []


def test_a_killed_worker_takes_the_run_back_to_its_last_state(
    paths: Paths, whole: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    process = start("two processes", *paths, output)
    wait_for_step(output, 20, process)
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    workers[1].kill()
    printed = finish(process)
    assert "A worker was killed or lost (SIGKILL). All 2 are restarted" in printed
    assert "Resuming" in printed
    assert largest_difference(output, whole["two processes"]) == 0


@pytest.mark.parametrize(
    ("devices", "number"),
    [*((devices, signal.SIGTERM) for devices in DEVICES), ("one device", signal.SIGINT)],
)
def test_a_run_that_is_told_to_stop_saves_its_state(
    paths: Paths, whole: dict[str, Path], tmp_path: Path, devices: str, number: signal.Signals
) -> None:
    output = tmp_path / "out"
    process = start(devices, *paths, output, "--save_steps=1000")
    wait_for_step(output, 12, process)  # the first epoch's end
    os.kill(process.pid, number)
    printed = finish(process, 128 + number)
    told = re.search(rf"{number.name} stopped the run after step (\d+)", printed)
    assert told is not None
    assert saved_steps(output)[-1] == int(told[1])
    finish(start(devices, *paths, output, "--save_steps=1000"))
    assert largest_difference(output, whole[devices]) == 0


IGNORING_SIGINT = ("sh", "-c", """trap "" INT; exec "$@" """, "sh")  # as `nohup COMMAND &` does


@pytest.mark.parametrize("devices", ["one device", "two processes"])
def test_a_run_in_the_background_of_a_shell_stops_for_sigterm_alone(
    paths: Paths, tmp_path: Path, devices: str
) -> None:
    output = tmp_path / "out"
    process = start(devices, *paths, output, wrapper=IGNORING_SIGINT)
    wait_for_step(output, 4, process)
    os.kill(process.pid, signal.SIGINT)
    wait_for_step(output, 12, process)
    os.kill(process.pid, signal.SIGTERM)
    printed = finish(process, 128 + signal.SIGTERM)
    assert "SIGTERM stopped the run after step" in printed
    assert "SIGINT" not in printed
    assert saved_steps(output)[-1] >= 12


def test_a_damaged_state_gives_way_to_the_one_before(
    paths: Paths, whole: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    process = start("one device", *paths, output)
    wait_for_step(output, 16, process)
    kill_all(process)
    before, newest = saved_steps(output)
    path = output / "checkpoints" / f"step-{newest:08d}.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    printed = finish(start("one device", *paths, output))
    assert f"step-{newest:08d}.safetensors is damaged" in printed
    assert f"after step {before}." in printed
    assert largest_difference(output, whole["one device"]) == 0


def test_a_run_with_other_settings_does_not_go_on_from_it(paths: Paths, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = start("one device", *paths, output)
    wait_for_step(output, 2, process)
    kill_all(process)
    printed = finish(start("one device", *paths, output, "--seed=7"), 1)
    assert "holds the state of another run that was interrupted: seed=42, now 7" in printed
    assert saved_steps(output)
    finish(start("one device", *paths, output, "--seed=7", "--overwrite"))


def test_evaluations_within_epochs_are_resumed_too(paths: Paths, tmp_path: Path) -> None:
    outputs = [tmp_path / "whole", tmp_path / "killed"]
    flags = ["--eval_steps=5", "--steps_per_execution=3", "--gradient_accumulation_steps=2"]
    finish(start("one device", *paths, outputs[0], *flags))
    process = start("one device", *paths, outputs[1], *flags)
    wait_for_step(outputs[1], 27, process)
    kill_all(process)
    finish(start("one device", *paths, outputs[1], *flags))
    assert records(outputs[0]) == records(outputs[1])
    assert len(records(outputs[0])[1]) == 6 + 10  # steps 72 / 5, five of them within an execution
    assert largest_difference(*outputs) == 0
