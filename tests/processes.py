"""The children that tests start: they obey signals, and nobody waits for them without end."""

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator

import psutil
import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Lets children obey SIGINT and SIGTERM even if the tests were started ignoring them.

    `nohup make test &` starts them so, and a child would inherit that: Python installs no handler
    for an ignored SIGINT, and a test that interrupts its child would wait for ever. What replaces
    ignoring is a handler that does nothing, which no child inherits. It is the workers that run
    tests who get it, if there are any; they inherit the ignoring from the process that starts them.
    """
    if config.getoption("dist", "no") != "no":
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def kill(process: "subprocess.Popen[str]") -> None:
    """Kills a child, and then all of its own children: it must not see them end."""
    children = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


@contextlib.contextmanager
def deadline(process: "subprocess.Popen[str]", timeout_s: float = 60.0) -> Iterator[None]:
    """Limits the time of what reads a child's output, or waits for it; then it is killed.

    Args:
        process: The child.
        timeout_s: Seconds that it may take.

    Raises:
        AssertionError: It took longer.
    """
    is_over = threading.Event()

    def end() -> None:
        is_over.set()
        kill(process)

    timer = threading.Timer(timeout_s, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        assert not is_over.is_set(), f"{process.args} took longer than {timeout_s} s: killed"


def finish(
    process: "subprocess.Popen[str]", code: int = 0, timeout_s: float = 60.0
) -> tuple[str, str]:
    """Waits for the end of a child, which must be with this exit code.

    Returns:
        What it has written to standard output and standard error, as far as these are pipes.
    """
    with deadline(process, timeout_s):
        output, errors = process.communicate()
    assert process.returncode == code, f"{output or ''}{errors or ''}"[-4000:]
    return output, errors
