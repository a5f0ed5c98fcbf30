"""What the calls of a load come to. Pure: records in, figures out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

PERCENTILES = {"p50_ms": 50.0, "p99_ms": 99.0, "p99_9_ms": 99.9}
# Of calls slower than these shares of all: the points of a latency plot.
SLOWER_SHARES = np.logspace(0, -4, 81)
ANSWERED = "version "  # and the version's number; other outcomes are errors
WRONG = "wrong"


@dataclass(frozen=True)
class Records:
    """What the generator wrote down. Times are seconds since measuring began.

    Attributes:
        end_s: When each call ended, (calls,); below 0 while warming up.
        latency_s: How long it took.
        outcome: "version N", "wrong", or an error's name.
        timeout_s: Its deadline.
        samples: The server's usage, (samples, 3): time, resident MiB, CPU seconds.
    """

    end_s: np.ndarray
    latency_s: np.ndarray
    outcome: np.ndarray
    timeout_s: np.ndarray
    samples: np.ndarray

    @classmethod
    def read(cls, path: Path) -> "Records":
        """Reads the generator's file."""
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files})

    @property
    def is_answered(self) -> np.ndarray:
        """Whether each call got a right answer."""
        return np.char.startswith(self.outcome, ANSWERED)

    def is_within(self, seconds: float) -> np.ndarray:
        """Whether each call ended while it was measured."""
        return (self.end_s >= 0) & (self.end_s <= seconds)

    def errors(self) -> dict[str, int]:
        """Counts the calls that failed by name, those while warming up as well."""
        failed = self.outcome[~self.is_answered & (self.outcome != WRONG)]
        return dict(Counter(failed.tolist()))


def summarize(
    records: Records, seconds: float, generator_cpu_s: float, hung: int
) -> dict[str, Any]:
    """Sums up a turn.

    Args:
        records: Its calls.
        seconds: How long it measured.
        generator_cpu_s: CPU time of the generator.
        hung: Calls that never ended.

    Returns:
        Rate, latencies and slowest call of the right answers; errors and wrong answers, of the
        warm-up, too; CPU in cores; the server's memory in MiB at the start, the end and the peak.
    """
    latencies_ms = 1000 * records.latency_s[records.is_within(seconds) & records.is_answered]
    samples = records.samples
    figures: dict[str, Any] = {
        "requests": len(latencies_ms),
        "requests_per_s": len(latencies_ms) / seconds,
        "errors": records.errors() | ({"hung": hung} if hung else {}),
        "wrong": int((records.outcome == WRONG).sum()),
        "generator_cores": generator_cpu_s / seconds,
    }
    if len(latencies_ms):
        figures |= {
            name: float(np.percentile(latencies_ms, share)) for name, share in PERCENTILES.items()
        }
        figures["max_ms"] = float(latencies_ms.max())
        figures["slower_ms"] = np.quantile(latencies_ms, 1 - SLOWER_SHARES).tolist()
    if len(samples) > 1:
        figures |= {
            "server_cores": float(np.ptp(samples[:, 2]) / np.ptp(samples[:, 0])),
            "rss_start_mib": float(samples[0, 1]),
            "rss_end_mib": float(samples[-1, 1]),
            "rss_peak_mib": float(samples[:, 1].max()),
            "rss_mib": [[round(t, 1), round(mib, 1)] for t, mib in samples[:, :2].tolist()],
        }
    return figures


def over_rounds(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Joins a server's turns: medians, the best of each, sums of what must be 0.

    Returns:
        `median` and `best` by figure; `max_ms`, the slowest call of all; `requests`, `errors`,
        `wrong`, sums; memory at the first start and the last end, and the peak.
    """
    answered = [turn for turn in turns if turn["requests"]]
    errors: Counter[str] = Counter()
    for turn in turns:
        errors.update(turn["errors"])
    joined: dict[str, Any] = {
        "requests": sum(turn["requests"] for turn in turns),
        "errors": dict(errors),
        "wrong": sum(turn["wrong"] for turn in turns),
        "rss_start_mib": turns[0]["rss_start_mib"],
        "rss_end_mib": turns[-1]["rss_end_mib"],
        "rss_peak_mib": max(turn["rss_peak_mib"] for turn in turns),
        "median": {},
        "best": {},
    }
    if answered:
        joined["max_ms"] = max(turn["max_ms"] for turn in answered)
        for name in ("requests_per_s", *PERCENTILES, "server_cores", "generator_cores"):
            values = [turn[name] for turn in answered]
            joined["median"][name] = median(values)
            joined["best"][name] = max(values) if name == "requests_per_s" else min(values)
    return joined


def per_second(records: Records, seconds: float) -> list[dict[str, Any]]:
    """Returns rate and latencies of each second of the measuring, and which versions answered."""
    rows = []
    for second in range(int(seconds)):
        chosen = (records.end_s >= second) & (records.end_s < second + 1)
        latencies_ms = 1000 * records.latency_s[chosen & records.is_answered]
        row: dict[str, Any] = {
            "second": second,
            "outcomes": dict(Counter(records.outcome[chosen].tolist())),
        }
        if len(latencies_ms):
            row |= {
                "p50_ms": float(np.percentile(latencies_ms, 50)),
                "p99_ms": float(np.percentile(latencies_ms, 99)),
                "max_ms": float(latencies_ms.max()),
            }
        rows.append(row)
    return rows


def spans(records: Records) -> dict[str, dict[str, float]]:
    """Returns when each version answered: `calls`, and the seconds of the first and the last."""
    found = {}
    for outcome in sorted(set(records.outcome[records.is_answered].tolist())):
        ends_s = records.end_s[records.outcome == outcome]
        found[outcome] = {
            "calls": len(ends_s), "first_s": float(ends_s.min()), "last_s": float(ends_s.max())
        }  # fmt: skip
    return found


def fates(records: Records) -> dict[str, dict[str, Any]]:
    """Returns what became of the calls with each deadline.

    Returns:
        By deadline: `calls`, `answered`, `errors` by name, `longest_error_s` and `longest_s`, how
        long the slowest failed call and the slowest of all took.
    """
    found = {}
    for timeout_s in sorted(set(records.timeout_s.tolist())):
        chosen = records.timeout_s == timeout_s
        failed = chosen & ~records.is_answered
        found[f"{timeout_s:g} s"] = {
            "timeout_s": timeout_s,
            "calls": int(chosen.sum()),
            "answered": int((chosen & records.is_answered).sum()),
            "errors": dict(Counter(records.outcome[failed].tolist())),
            "longest_error_s": float(records.latency_s[failed].max()) if failed.any() else None,
            "longest_s": float(records.latency_s[chosen].max()),
        }
    return found


def outage(records: Records, killed_s: float, restarted_s: float) -> dict[str, float | None]:
    """Returns how long nobody got an answer: the last one before a kill, the first after it.

    Args:
        records: The calls.
        killed_s: When the server was killed.
        restarted_s: When it was started again; answers before are the killed one's last.
    """
    ends_s = records.end_s[records.is_answered]
    before, after = ends_s[ends_s < restarted_s], ends_s[ends_s >= restarted_s]
    last = float(before.max()) if len(before) else None
    first = float(after.min()) if len(after) else None
    return {
        "killed_s": killed_s,
        "restarted_s": restarted_s,
        "last_answer_s": last,
        "first_answer_s": first,
        "without_answers_s": None if last is None or first is None else first - last,
    }
