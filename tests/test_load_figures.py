"""What the calls of a load come to, and how it is reported; the loading itself is no test."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import load_report
from benchmarks.load_figures import (
    SLOWER_SHARES,
    Records,
    fates,
    outage,
    over_rounds,
    per_second,
    spans,
    summarize,
)
from benchmarks.peers import LOAD


def records(
    *calls: tuple[float, float, str], timeouts_s: tuple[float, ...] = (), samples: Any = ()
) -> Records:
    """Makes records of calls: when they ended, how long they took, what came of them."""
    ends_s, latencies_s, outcomes = zip(*calls, strict=True)
    return Records(
        np.array(ends_s),
        np.array(latencies_s),
        np.array(outcomes),
        np.array(timeouts_s or [30.0] * len(calls)),
        np.array(samples, float).reshape(-1, 3),
    )


def test_a_turn_counts_right_answers_of_its_time_and_errors_of_all():
    calls = [(second / 10, 0.001 * (second + 1), "version 1") for second in range(100)]
    calls += [(-0.5, 9.0, "version 1"), (10.5, 9.0, "version 1"), (-0.5, 9.0, "UNAVAILABLE")]
    calls += [(3.0, 9.0, "wrong"), (4.0, 9.0, "UNAVAILABLE")]
    samples = [(0.0, 100.0, 7.0), (5.0, 180.0, 12.0), (10.0, 120.0, 22.0)]
    turn = summarize(records(*calls, samples=samples), 10.0, generator_cpu_s=2.0, hung=1)
    assert (turn["requests"], turn["requests_per_s"], turn["wrong"]) == (100, 10.0, 1)
    assert turn["errors"] == {"UNAVAILABLE": 2, "hung": 1}
    assert turn["p50_ms"] == pytest.approx(50.5)
    assert turn["p99_ms"] == pytest.approx(99.01)
    assert turn["max_ms"] == pytest.approx(100.0)
    # All calls are slower than the fastest, none than the slowest.
    assert (SLOWER_SHARES[0], turn["slower_ms"][0]) == (1.0, pytest.approx(1.0))
    assert turn["slower_ms"] == sorted(turn["slower_ms"])
    assert (turn["server_cores"], turn["generator_cores"]) == (1.5, 0.2)
    memory = [turn[f"rss_{when}_mib"] for when in ("start", "end", "peak")]
    assert memory == [100.0, 120.0, 180.0]


def test_a_turn_without_answers_has_no_latencies():
    turn = summarize(records((1.0, 0.1, "HTTP 500")), 10.0, 1.0, 0)
    assert (turn["requests"], turn["errors"]) == (0, {"HTTP 500": 1})
    assert "p50_ms" not in turn


def turn_of(rate: float, errors: dict[str, int], rss_mib: tuple[float, float]) -> dict[str, Any]:
    return {
        "requests": int(10 * rate), "requests_per_s": rate, "errors": errors, "wrong": 0,
        "p50_ms": 1000 / rate, "p99_ms": 2000 / rate, "p99_9_ms": 3000 / rate,
        "max_ms": 4000 / rate, "slower_ms": [1.0] * len(SLOWER_SHARES),
        "server_cores": 1.8, "generator_cores": 0.1, "examples": {},
        "rss_start_mib": rss_mib[0], "rss_end_mib": rss_mib[1], "rss_peak_mib": max(rss_mib),
        "rss_mib": [[0.0, rss_mib[0]], [10.0, rss_mib[1]]],
    }  # fmt: skip


def test_rounds_have_a_median_and_a_best_and_memory_over_all_of_them():
    turns = [
        turn_of(100, {}, (500, 540)),
        turn_of(400, {"UNAVAILABLE": 2}, (540, 530)),
        turn_of(200, {"UNAVAILABLE": 1}, (530, 520)),
    ]
    joined = over_rounds(turns)
    assert joined["median"]["requests_per_s"] == 200
    assert joined["best"]["requests_per_s"] == 400
    assert joined["median"]["p99_ms"] == pytest.approx(10.0)
    assert joined["best"]["p99_ms"] == pytest.approx(5.0)
    assert joined["max_ms"] == pytest.approx(40.0)
    assert joined["errors"] == {"UNAVAILABLE": 3}
    memory = [joined[f"rss_{when}_mib"] for when in ("start", "end", "peak")]
    assert memory == [500, 520, 540]


def results_of(**models: Any) -> dict[str, Any]:
    return {
        "started_at": "now", "machine": {}, "settings": {}, "models": models,
        "peers": {peer.name: peer.describe() for peer in LOAD},
    }  # fmt: skip


def test_the_table_compares_ours_with_each(tmp_path: Path):
    turns = {
        "ours": [turn_of(400, {}, (500, 520))],
        "torch": [turn_of(100, {"HTTP 500": 3}, (300, 310))],
        "onnxruntime": [],
    }
    part = {"rounds": 1, "versions": {}, "failures": {"onnxruntime": "ended"}, "turns": turns}
    load_report.write_load(results_of(load=part), tmp_path)
    written = (tmp_path / "load.md").read_text()
    assert "| FastAPI, pipeline | 4.00x | 4.00x | 4.00x | 4.00x |" in written
    assert "| 400.0 (400.0) | 2.5 (2.5) | 5.0 (5.0) | 7.5 (7.5) | 10 | 0 | 0 |" in written
    assert "| 500 | 520 | 520 | +20 | 1.80 | 0.10 | 4.5 |" in written
    assert "**onnxruntime failed**: ended" in written
    assert "**Errors of FastAPI, pipeline**: HTTP 500: 3" in written
    for name in ("load_latency.png", "load_memory.png"):
        assert (tmp_path / name).stat().st_size > 5000


def test_versions_have_the_times_of_their_first_and_last_answers(tmp_path: Path):
    calls = [(-1.0, 0.01, "version 1"), (1.5, 0.02, "version 1"), (2.4, 0.3, "version 2")]
    calls += [(2.6, 0.02, "version 1"), (3.9, 0.01, "version 2")]
    met = records(*calls, samples=[(0, 500, 0), (2, 700, 2), (4, 520, 4)])
    assert spans(met) == {
        "version 1": {"calls": 3, "first_s": -1.0, "last_s": 2.6},
        "version 2": {"calls": 2, "first_s": 2.4, "last_s": 3.9},
    }
    seconds = per_second(met, 4.0)
    assert [row["outcomes"] for row in seconds] == [
        {}, {"version 1": 1}, {"version 2": 1, "version 1": 1}, {"version 2": 1}
    ]  # fmt: skip
    assert seconds[2]["max_ms"] == pytest.approx(300.0)
    part = {
        "versions": {}, "turn": summarize(met, 4.0, 0.1, 0), "examples": {},
        "published": [{"version": 2, "at_s": 1.8}], "spans": spans(met), "seconds": seconds,
    }  # fmt: skip
    load_report.write_versions(results_of(versions=part), tmp_path)
    written = (tmp_path / "load_versions.md").read_text()
    assert "## 4 requests: 0 failed (none), 0 wrong" in written
    assert "| version 2 | 1.8 | 2.4 | 3.9 | 2 |" in written
    assert (tmp_path / "load_versions.png").stat().st_size > 5000


def test_a_kill_has_an_outage_and_its_calls_a_fate(tmp_path: Path):
    calls = [(1.0, 0.1, "version 1"), (5.2, 2.05, "UNAVAILABLE"), (9.5, 6.5, "version 1")]
    met = records(*calls, timeouts_s=(2.0, 2.0, 30.0))
    gap = outage(met, killed_s=3.0, restarted_s=6.0)
    assert (gap["last_answer_s"], gap["first_answer_s"], gap["without_answers_s"]) == (1, 9.5, 8.5)
    found = fates(met)
    assert found["2 s"] == {
        "timeout_s": 2.0, "calls": 2, "answered": 1, "errors": {"UNAVAILABLE": 1},
        "longest_error_s": 2.05, "longest_s": 2.05,
    }  # fmt: skip
    assert (found["30 s"]["answered"], found["30 s"]["longest_error_s"]) == (1, None)
    part = {
        "versions": {}, "fates": found, "outage": gap | {"ready_s": 9.0}, "hung": 0, "wrong": 0,
        "examples": {"UNAVAILABLE": "Model 'm' gave UNAVAILABLE"},
        "seconds": per_second(met, 10.0),
    }  # fmt: skip
    load_report.write_kill(results_of(kill=part), tmp_path)
    written = (tmp_path / "load_kill.md").read_text()
    assert "## Calls that hung: 0, wrong answers: 0" in written
    assert "| 2 s | 2 | 1 | UNAVAILABLE: 1 | 2.05 | 2.05 |" in written
    assert "| listening | 9.00 |" in written
    assert (tmp_path / "load_kill.png").stat().st_size > 5000


def test_nobody_gets_an_answer_any_more():
    gap = outage(records((1.0, 0.1, "version 1")), killed_s=3.0, restarted_s=6.0)
    assert (gap["first_answer_s"], gap["without_answers_s"]) == (None, None)
