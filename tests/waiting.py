"""Waiting for what another thread or process does."""

import time


def wait_until(condition, timeout_s=60.0):
    """Waits for a condition to hold; it is called every few milliseconds."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"waited {timeout_s} s in vain"
        time.sleep(0.005)
