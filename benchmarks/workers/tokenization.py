"""The worker's side of tokenization.py: passes over many texts, and one text at a time."""

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.workers.protocol import Channel, serve, time_calls, versions


class TokenizationWorker:
    """What tokenization.py asks of a peer. A subclass implements the first four methods."""

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Loads the tokenizer; see `InferenceWorker.load`."""
        raise NotImplementedError

    def make_batches(
        self, columns: list[list[str]], batch_size: int, max_length: int
    ) -> Callable[[], Iterable[Any]]:
        """Makes what gives an epoch of batches, ids and masks, each time that it is called."""
        raise NotImplementedError

    def make_single(self, max_length: int) -> Callable[[list[str]], Any]:
        """Makes what tokenizes one text, or one pair."""
        raise NotImplementedError

    def encode(self, texts: list[list[str]], max_length: int) -> list[list[int]]:
        """Returns the ids of texts, or pairs, without padding."""
        raise NotImplementedError

    def handle_load(self, **arguments: Any) -> dict[str, str]:
        """Answers `load` with the versions at work."""
        self.load(**arguments)
        return versions()

    def handle_start(self, path: str, batch_size: int, max_length: int) -> list[list[int]]:
        """Reads the texts, `columns` in a JSON file, and gives the ids of the first hundreds."""
        with open(path, encoding="utf-8") as file:
            self._columns = json.load(file)["columns"]
        self._batch_size, self._max_length = batch_size, max_length
        self._single = self.make_single(max_length)
        first = [list(row) for row in zip(*(c[:500] for c in self._columns), strict=True)]
        self._first = first[: 1 + len(first) // 10]
        for text in self._first:
            self._single(text)
        return self.encode(first, max_length)

    def handle_epochs(self, count: int) -> list[float]:
        """Times epochs of a new pipeline, the first one with the making: seconds of each."""
        times_s = []
        start_s = time.perf_counter()
        batches = self.make_batches(self._columns, self._batch_size, self._max_length)
        for _ in range(count):
            for _ in batches():
                pass
            times_s.append(time.perf_counter() - start_s)
            start_s = time.perf_counter()
        return times_s

    def handle_single(self, min_time_s: float) -> list[float]:
        """Times one text at a time, in seconds a text."""

        def call() -> None:
            for text in self._first:
                self._single(text)

        return [time_s / len(self._first) for time_s in time_calls(call, min_time_s)]

    def serve(self) -> None:
        """Answers the parent's requests."""
        serve(
            {
                "load": self.handle_load,
                "start": self.handle_start,
                "epochs": self.handle_epochs,
                "single": self.handle_single,
            },
            Channel(),
        )
