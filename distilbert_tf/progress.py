"""A line on standard error that says how far a long command has come."""

import sys
import time

_WIDTH = 24
_TERMINAL_PERIOD_S = 0.2
_LOG_PERIOD_S = 10.0  # where each state is a line of its own


class Progress:
    """Shows rows, rate and, if the end is known, share and time left.

    Args:
        is_shown: Whether it shows anything.
        unit: What the rows are called.
    """

    def __init__(self, is_shown: bool, unit: str) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._is_shown = is_shown
        self._unit = unit
        self._period_s = _TERMINAL_PERIOD_S if self._is_terminal else _LOG_PERIOD_S
        self._start_s = self._shown_s = time.monotonic()
        self._state: tuple[int, float | None] = (0, None)

    def update(self, count: int, share: float | None) -> None:
        """Notes how many rows are done, and which share of all work that is, if it is known."""
        self._state = (count, share)
        now_s = time.monotonic()
        if self._is_shown and now_s - self._shown_s >= self._period_s:
            self._shown_s = now_s
            self._show(now_s)

    def close(self) -> None:
        """Shows the last state, and leaves the line."""
        if self._is_shown:
            self._show(time.monotonic())
            if self._is_terminal:
                sys.stderr.write("\n")
            self._is_shown = False

    def _show(self, now_s: float) -> None:
        line = self._line(now_s - self._start_s)
        # Erase what a longer line before it has left.
        sys.stderr.write(f"\r{line}\x1b[K" if self._is_terminal else f"{line}\n")
        sys.stderr.flush()

    def _line(self, elapsed_s: float) -> str:
        count, share = self._state
        line = f"{count} {self._unit}, {count / max(elapsed_s, 1e-9):.1f}/s"
        if not share:
            return line
        filled = int(share * _WIDTH)
        left_s = round(elapsed_s * (1 - share) / share)
        left = f"{left_s // 3600}:{left_s // 60 % 60:02d}:{left_s % 60:02d}"
        return f"[{'#' * filled:.<{_WIDTH}}] {share:4.0%} {line}, {left} left"
