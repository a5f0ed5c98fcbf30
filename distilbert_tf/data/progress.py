"""Progress of long work: a bar on a terminal, and lines now and then in a log file."""

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

import tqdm
from absl import logging

_INTERVAL_S = 10.0  # between two lines of a log file, or two looks at how many files are done


class Progress(contextlib.AbstractContextManager["Progress"]):
    """Shows how much is done, how fast, and, if asked to, how many files are.

    Args:
        title: What is done.
        unit: What is counted.
        files_done: Returns how many files are done, of how many.
        total: How much there is to do, if that is known.
        initial: What was done before.
    """

    def __init__(
        self,
        title: str,
        unit: str,
        files_done: Callable[[], str] | None = None,
        *,
        total: int | None = None,
        initial: int = 0,
    ) -> None:
        self._files_done = files_done
        self._is_terminal = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            desc=title,
            unit=f" {unit}",
            unit_scale=True,
            total=total,
            initial=initial,
            delay=0 if self._is_terminal else float("inf"),  # never shown: `_show` logs instead
        )
        self._added, self._shown_s = 0, time.monotonic()

    def add(self, count: int) -> None:
        """Counts what is done."""
        self._added += count
        self._bar.update(count)
        if time.monotonic() - self._shown_s > _INTERVAL_S:
            self._show()

    def add_up_to(self, total: int) -> None:
        """Counts what is done, given how much that is altogether, what was before aside."""
        self.add(total - self._added)

    def _show(self) -> None:
        self._shown_s = time.monotonic()
        if self._files_done is not None:
            self._bar.set_postfix(files=self._files_done(), refresh=self._is_terminal)
        if not self._is_terminal:
            logging.info("%s", self._bar)

    def __exit__(self, *error: Any) -> None:
        self._show()
        self._bar.close()
