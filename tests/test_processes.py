"""Children of tests obey signals and keep to their time, however the tests were started."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from processes import deadline, finish
from waiting import wait_until

SLEEPS = [sys.executable, "-c", "print('asleep', flush=True); import time; time.sleep(60)"]


def start(command: list[str] = SLEEPS) -> "subprocess.Popen[str]":
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def is_over(process: psutil.Process) -> bool:
    """Whether a process has ended; in a container nobody may ever collect its exit code."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_child_that_takes_too_long_is_killed_with_its_own() -> None:
    nested = f"import subprocess; subprocess.run({SLEEPS!r})"
    process = start([sys.executable, "-c", nested])
    assert process.stdout.readline() == "asleep\n"
    (grandchild,) = psutil.Process(process.pid).children()
    with pytest.raises(AssertionError, match="took longer than 0.2 s"), deadline(process, 0.2):
        process.communicate()
    assert process.wait(10) == -signal.SIGKILL
    wait_until(lambda: is_over(grandchild))


def test_the_exit_code_is_compared() -> None:
    assert finish(start([sys.executable, "-c", "print(1)"])) == ("1\n", "")
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        finish(start([sys.executable, "-c", "1 / 0"]))
    finish(start([sys.executable, "-c", "raise SystemExit(7)"]), 7)


INTERRUPTS_A_CHILD = f"""
import signal, subprocess
def test_it():
    child = subprocess.Popen({SLEEPS!r}, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"asleep\\n"
    child.send_signal(signal.SIGNAL)
    child.wait(20)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_children_obey_signals_that_the_tests_ignore(
    number: signal.Signals, workers: str, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(INTERRUPTS_A_CHILD.replace("SIGNAL", number.name))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    ignoring = ["sh", "-c", f'trap "" {number.name.removeprefix("SIG")}; exec "$@"', "sh"]
    plugins = ["-p", "no:cacheprovider", "-p", "processes"]
    command = [*ignoring, sys.executable, "-m", "pytest", f"-n{workers}", *plugins, str(tmp_path)]
    here = Path(__file__).parent
    process = subprocess.Popen(
        command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    output, _ = finish(process)
    assert "1 passed" in output
