"""What the rounds' times come to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass
class Timing:
    """A peer's times of one case.

    Attributes:
        medians_s: Median of each round, seconds a call.
        minima_s: Shortest call of each round, seconds.
        calls: Calls of each round.
    """

    medians_s: list[float]
    minima_s: list[float]
    calls: list[int]

    @classmethod
    def empty(cls) -> "Timing":
        """Makes one without rounds."""
        return cls([], [], [])

    def add(self, times_s: list[float]) -> None:
        """Adds a round."""
        self.medians_s.append(median(times_s))
        self.minima_s.append(min(times_s))
        self.calls.append(len(times_s))

    @property
    def median_s(self) -> float:
        """Median of the rounds' medians."""
        return median(self.medians_s)

    @property
    def min_s(self) -> float:
        """Shortest call of all."""
        return min(self.minima_s)

    def as_dict(self) -> dict[str, Any]:
        """Describes it for JSON."""
        summary = {"median_s": self.median_s, "min_s": self.min_s} if self.calls else {}
        return {**summary, **asdict(self)}


def fastest(times: Mapping[str, float]) -> tuple[str, float] | None:
    """Finds the name with the smallest value; None if there is none."""
    return min(times.items(), key=lambda item: item[1]) if times else None
