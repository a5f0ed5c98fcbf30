"""Imports TensorFlow without the lines that it writes to standard error while it starts.

Its libraries log before they read `TF_CPP_MIN_LOG_LEVEL` (tensorflow/tensorflow#100442), straight
to file descriptor 2, and on a machine without CUDA's driver even an error. So until it has started,
the descriptor leads to a process that passes on all lines but these. A process, since what dies
while it starts still gets its last words out: they are in the pipe, whoever wrote them.

That process runs this file alone, hence nothing but the standard library is imported here.
"""

import contextlib
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
WARNING_LEVEL = 2  # leaves out TensorFlow's information and warnings

_NOISE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR\s*$"
    rb"|[IW]\d{4} [\d:.]+ +\d+ \S+:\d+\] "
    # 303: there is no driver. A driver that fails has another number.
    rb"|E\d{4} [\d:.]+ +\d+ cuda_\w+\.cc:\d+\] failed call to cuInit: .*\(303\)\s*$"
)
_TIMEOUT_S = 5.0


def import_tensorflow() -> None:
    """Imports TensorFlow and lets it look for devices; quietly, unless the environment asks."""
    if "tensorflow" not in sys.modules:
        with filtering_stderr():
            importlib.import_module("tensorflow").config.list_physical_devices()


@contextlib.contextmanager
def filtering_stderr(*, for_children: bool = False) -> Iterator[None]:
    """Leads descriptor 2 through the other process, if `TF_CPP_MIN_LOG_LEVEL` wants no noise.

    Args:
        for_children: Whether what is started meanwhile keeps that descriptor. Otherwise the other
            process has passed on everything when this ends.
    """
    try:
        stderr = os.dup(2) if os.environ.get(LOG_LEVEL, "0") >= str(WARNING_LEVEL) else None
    except OSError:  # closed
        stderr = None
    if stderr is None:
        yield
        return
    # In a session of its own, so that Ctrl-C does not reach it.
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        if not for_children:
            # A child that the import started could hold the pipe open.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_TIMEOUT_S)


def filter_lines(source: int, target: int) -> None:
    """Copies lines from one descriptor to another, without TensorFlow's starting noise."""
    rest = b""
    while block := os.read(source, 2**16):
        *lines, rest = (rest + block).split(b"\n")
        _write(target, b"".join(line + b"\n" for line in lines if not _NOISE.match(line)))
    if not _NOISE.match(rest):
        _write(target, rest)


def _write(target: int, content: bytes) -> None:
    while content:
        content = content[os.write(target, content) :]


if __name__ == "__main__":
    filter_lines(0, 2)
