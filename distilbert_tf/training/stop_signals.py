"""The signals that tell a process to stop."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def handling_stop_signals(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Handles SIGTERM, and SIGINT unless the process was started ignoring it.

    A shell lets what runs in its background ignore SIGINT, since Control-C is meant for what runs
    in the foreground; both get it. To be called in the main thread.

    Args:
        handle: Gets the signal's number, and the handler that was there before.
    """
    before: dict[int, Any] = {signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    if (handler := signal.getsignal(signal.SIGINT)) is not signal.SIG_IGN:
        before[signal.SIGINT] = handler
    for number in before:
        signal.signal(number, lambda number, _: handle(number, before[number]))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
