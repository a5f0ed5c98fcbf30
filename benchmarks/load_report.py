"""Tables and plots of load.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.load_figures import SLOWER_SHARES, over_rounds
from benchmarks.peers import OURS_BFLOAT16
from benchmarks.report import plt, table

FIGURES = ("requests_per_s", "p50_ms", "p99_ms", "p99_9_ms")


def write_load(results: Mapping[str, Any], directory: Path) -> None:
    """Writes load.json, load.md and two plots: latencies, memory."""
    report.write_json(results, directory / "load.json")
    part = results["models"]["load"]
    joined = {name: over_rounds(turns) for name, turns in part["turns"].items() if turns}
    labels = {name: results["peers"][name]["label"] for name in joined}
    rates, memory = [], []
    for name, figures in joined.items():
        middle, best = figures["median"], figures["best"]
        cells = [f"{middle[key]:.1f} ({best[key]:.1f})" if middle else "-" for key in FIGURES]
        longest = f"{figures['max_ms']:.0f}" if middle else "-"
        errors = sum(figures["errors"].values())
        rates.append([labels[name], *cells, longest, f"{errors}", f"{figures['wrong']}"])
        grown = figures["rss_end_mib"] - figures["rss_start_mib"]
        cores = [
            f"{middle[f'{who}_cores']:.2f}" if middle else "-" for who in ("server", "generator")
        ]
        cpu_ms = "-"
        if middle:
            cpu_ms = f"{1000 * middle['server_cores'] / middle['requests_per_s']:.1f}"
        memory.append(
            [
                labels[name],
                *(f"{figures[f'rss_{when}_mib']:.0f}" for when in ("start", "end", "peak")),
                f"{grown:+.0f}",
                *cores,
                cpu_ms,
            ]
        )
    plot_latencies(part["turns"], labels, directory / "load_latency.png")
    plot_memory(part["turns"], labels, directory / "load_memory.png")
    requests = sum(figures["requests"] for figures in joined.values())
    parts = [
        "# Servers under load\n",
        report.describe(results),
        f"## After {part['rounds']} round(s), {requests} requests\n",
        *report.failures(part),
        "Medians over the rounds, the best round in brackets; the slowest call of all; errors and "
        "wrong answers of all, warming up included.\n",
        table(
            ["server", "requests/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "errors", "wrong"],
            rates,
        ),
        "### Ours against each of the same precision\n",
        _ratios(joined, labels, results["peers"]),
        "### Memory and processors\n",
        "Resident MiB at the beginning of the first turn, the end of the last, and at the most; "
        "cores kept busy by the server and, beside it, by the clients; the server's CPU time for a "
        "request.\n",
        table(
            [
                "server",
                "start",
                "end",
                "peak",
                "growth",
                "server's cores",
                "clients' cores",
                "CPU ms a request",
            ],
            memory,
        ),
        "![latencies](load_latency.png)\n",
        "![memory](load_memory.png)\n",
        *_errors(joined, labels),
    ]
    (directory / "load.md").write_text("\n".join(parts), encoding="utf-8")


def _ratios(joined: Mapping[str, Any], labels: Mapping[str, str], peers: Mapping[str, Any]) -> str:
    rows = []
    for name, figures in joined.items():
        own = report.OURS if peers[name]["precision"] == "float32" else OURS_BFLOAT16
        ours, theirs = joined.get(own, {}).get("median"), figures["median"]
        if name == own or not ours or not theirs:
            continue
        ratios = [ours["requests_per_s"] / theirs["requests_per_s"]]
        ratios += [theirs[key] / ours[key] for key in FIGURES[1:]]
        rows.append([labels[name], *(f"{ratio:.2f}x" for ratio in ratios)])
    return table(["against", "requests/s", "p50", "p99", "p99.9 (more is better for ours)"], rows)


def _errors(joined: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    return [
        f"**Errors of {labels[name]}**: {_counts(figures['errors'])}\n"
        for name, figures in joined.items()
        if figures["errors"]
    ]


def _counts(errors: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(errors.items())) or "none"


def plot_latencies(turns: Mapping[str, Any], labels: Mapping[str, str], path: Path) -> None:
    """Plots how slow the slowest calls are: latency over the share of calls that are slower."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, label in labels.items():
        rounds = [turn["slower_ms"] for turn in turns[name] if "slower_ms" in turn]
        if rounds:
            width = 2.5 if name == report.OURS else 1.3
            axes.plot(SLOWER_SHARES, np.median(rounds, axis=0), label=label, linewidth=width)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.invert_xaxis()
    axes.set_xticks([1, 0.1, 0.01, 0.001, 0.0001], ["all", "10 %", "1 %", "0.1 %", "0.01 %"])
    axes.set_xlabel("calls that are slower")
    axes.set_ylabel("latency, ms (median of the rounds)")
    _save(figure, axes, path)


def plot_memory(turns: Mapping[str, Any], labels: Mapping[str, str], path: Path) -> None:
    """Plots each server's memory over its turns, put one after another."""
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for name, label in labels.items():
        times_s: list[float] = []
        mib: list[float] = []
        for turn in turns[name]:
            offset_s = times_s[-1] if times_s else 0.0
            times_s += [offset_s + time_s for time_s, _ in turn.get("rss_mib", ())]
            mib += [value for _, value in turn.get("rss_mib", ())]
        axes.plot(times_s, mib, label=label, linewidth=2.5 if name == report.OURS else 1.3)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds under load")
    axes.set_ylabel("resident MiB")
    _save(figure, axes, path)


def _save(figure: Any, axes: Any, path: Path) -> None:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write_versions(results: Mapping[str, Any], directory: Path) -> None:
    """Writes load_versions.json, .md and a plot."""
    report.write_json(results, directory / "load_versions.json")
    part = results["models"]["versions"]
    turn, published = part["turn"], {event["version"]: event for event in part["published"]}
    rows = []
    for outcome, span in part["spans"].items():
        version = int(outcome.rpartition(" ")[2])
        at_s = published.get(version, {"at_s": 0.0})["at_s"]
        after = [
            mib for time_s, mib in turn["rss_mib"] if span["first_s"] < time_s <= span["last_s"]
        ]
        rows.append(
            [
                outcome,
                f"{at_s:.1f}" if version in published else "at the start",
                f"{span['first_s']:.1f}" if version in published else "-",
                f"{span['last_s']:.1f}",
                f"{span['calls']}",
                f"{after[-1]:.0f}" if after else "-",
            ]
        )
    seconds = part["seconds"]
    swapping = [row for row in seconds if _is_swap(row, part)]
    steady = [row for row in seconds if not _is_swap(row, part)]
    latencies = [
        [title, *(_median_of(chosen, key) for key in ("p50_ms", "p99_ms")), _most(chosen)]
        for title, chosen in (("while a version is loaded", swapping), ("otherwise", steady))
    ]
    marks = {
        f"{event['at_s']:.1f} s: {v} published": event["at_s"] for v, event in published.items()
    }
    _plot_seconds(seconds, marks, directory / "load_versions.png", turn["rss_mib"])
    parts = [
        "# Versions 1, 2, 3 under load\n",
        report.describe(results),
        f"## {turn['requests']} requests: {sum(turn['errors'].values())} failed "
        f"({_counts(turn['errors'])}), {turn['wrong']} wrong\n",
        "Seconds since measuring began. Each answer is compared with what its version says.\n",
        table(
            ["", "published", "first answer", "last answer", "answers", "resident MiB at its end"],
            rows,
        ),
        table(["seconds", "p50 ms", "p99 ms", "max ms"], latencies),
        "![each second](load_versions.png)\n",
    ]
    (directory / "load_versions.md").write_text("\n".join(parts), encoding="utf-8")


def _is_swap(row: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    """Whether a version was published by then, but had not answered before."""
    return any(
        event["at_s"] - 1
        <= row["second"]
        <= part["spans"].get(f"version {event['version']}", {"first_s": np.inf})["first_s"]
        for event in part["published"]
    )


def _median_of(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [row[key] for row in rows if key in row]
    return f"{np.median(values):.1f}" if values else "-"


def _most(rows: Sequence[Mapping[str, Any]]) -> str:
    values = [row["max_ms"] for row in rows if "max_ms" in row]
    return f"{max(values):.0f}" if values else "-"


def write_kill(results: Mapping[str, Any], directory: Path) -> None:
    """Writes load_kill.json, .md and a plot."""
    report.write_json(results, directory / "load_kill.json")
    part = results["models"]["kill"]
    outage = part["outage"]
    events = [
        ("killed", "killed_s"),
        ("last answer", "last_answer_s"),
        ("started again", "restarted_s"),
        ("listening", "ready_s"),
        ("first answer", "first_answer_s"),
    ]
    rows = [
        [
            timeout,
            f"{fate['calls']}",
            f"{fate['answered']}",
            _counts(fate["errors"]),
            "-" if fate["longest_error_s"] is None else f"{fate['longest_error_s']:.2f}",
            f"{fate['longest_s']:.2f}",
        ]
        for timeout, fate in part["fates"].items()
    ]
    marks = {
        f"{outage[key]:.1f} s: {name}": outage[key] for name, key in events[::2] if outage[key]
    }
    _plot_seconds(part["seconds"], marks, directory / "load_kill.png", [])
    parts = [
        "# kill -9 under load\n",
        report.describe(results),
        f"## Calls that hung: {part['hung']}, wrong answers: {part['wrong']}\n",
        table(
            ["event", "second"],
            [[name, "-" if outage[key] is None else f"{outage[key]:.2f}"] for name, key in events],
        ),
        "Every other client has a deadline shorter than the outage, the rest a longer one. All use "
        "`AsyncPredictClient`, which sends again what is UNAVAILABLE.\n",
        table(
            [
                "deadline",
                "calls",
                "answered",
                "errors",
                "slowest error, s",
                "slowest call, s",
            ],
            rows,
        ),
        *(f"- {name}: {text}\n" for name, text in part["examples"].items()),
        "![each second](load_kill.png)\n",
    ]
    (directory / "load_kill.md").write_text("\n".join(parts), encoding="utf-8")


def _plot_seconds(
    seconds: Sequence[Mapping[str, Any]],
    marks: Mapping[str, float],
    path: Path,
    rss_mib: Sequence[Sequence[float]],
) -> None:
    """Plots each second's answers by version, its errors and latencies, and the memory."""
    figure, panels = plt.subplots(
        3 if rss_mib else 2, 1, figsize=(8, 7 if rss_mib else 5), sharex=True, layout="constrained"
    )
    times_s = [row["second"] + 0.5 for row in seconds]
    for outcome in sorted({outcome for row in seconds for outcome in row["outcomes"]}):
        counts = [row["outcomes"].get(outcome, 0) for row in seconds]
        panels[0].plot(times_s, counts, marker=".", label=outcome)
    panels[0].set_ylabel("calls per second")
    panels[0].legend(fontsize=8)
    for key, label in (("p50_ms", "p50"), ("p99_ms", "p99"), ("max_ms", "max")):
        panels[1].plot(times_s, [row.get(key, np.nan) for row in seconds], label=label)
    panels[1].set_yscale("log")
    panels[1].set_ylabel("latency, ms")
    panels[1].legend(fontsize=8)
    if rss_mib:
        panels[2].plot(*zip(*rss_mib, strict=True))
        panels[2].set_ylim(bottom=0)
        panels[2].set_ylabel("resident MiB")
    for panel in panels:
        panel.grid(alpha=0.3)
        for at_s in marks.values():
            panel.axvline(at_s, color="grey", linestyle="--", linewidth=1)
    panels[-1].set_xlabel("; ".join(["seconds", *marks]))
    figure.savefig(path, dpi=120)
    plt.close(figure)
