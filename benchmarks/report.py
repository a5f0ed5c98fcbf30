"""Writes results as JSON, Markdown tables and plots."""

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

from benchmarks.harness import say
from benchmarks.machine import describe_machine, processor_name
from benchmarks.peers import Peer
from benchmarks.timing import Timing, fastest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results" / processor_name()
OURS = "ours"
MODE_TITLES = {"ids": "from token ids", "text": "end to end, from strings"}
MARKERS = "oosDv^<>PXph8"


def start(peers: Iterable[Peer], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Begins the results of a run: when, where, how and who; `models` is still empty."""
    return {
        "started_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "settings": dict(settings),
        "peers": {peer.name: peer.describe() for peer in peers},
        "models": {},
    }


def write_json(results: Mapping[str, Any], path: Path) -> None:
    """Writes results whole: an interruption leaves the earlier file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    text = json.dumps(results, indent=1, default=Timing.as_dict) + "\n"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Makes a Markdown table, numbers to the right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows)) + "\n"


def describe(results: Mapping[str, Any]) -> str:
    """Describes machine, settings and versions as Markdown lists."""
    lines = [f"Started {results['started_at']}.", "", "Machine:", ""]
    lines += [f"- {name}: {value}" for name, value in results["machine"].items()]
    lines += ["", "Settings:", ""]
    lines += [f"- {name}: {value}" for name, value in results["settings"].items()]
    versions: dict[str, dict[str, str]] = {}
    for part in results["models"].values():
        versions |= part["versions"]
    lines += ["", "Versions and environments:", ""]
    for name, peer in results["peers"].items():
        packages = ", ".join(f"{k} {v}" for k, v in versions.get(name, {}).items())
        env = " ".join(f"{k}={v}" for k, v in peer["env"].items())
        lines.append(f"- {peer['label']}: {packages}{'; ' + env if env else ''}")
    return "\n".join(lines) + "\n"


def competitors(
    results: Mapping[str, Any], times: Mapping[str, float], precision: str = "float32"
) -> dict[str, float]:
    """Keeps the times, or speeds, of the peers of a precision, without ours and the yardsticks."""
    return {
        name: figure
        for name, figure in times.items()
        if results["peers"][name]["competes"] and results["peers"][name]["precision"] == precision
    }


def ours_by_precision(results: Mapping[str, Any]) -> dict[str, str]:
    """Returns the row of ours that counts in each precision: the first."""
    found: dict[str, str] = {}
    for name, peer in results["peers"].items():
        if peer["is_ours"]:
            found.setdefault(peer["precision"], name)
    return found


def medians(case: Mapping[str, Any]) -> dict[str, float]:
    """Returns a case's medians in seconds, of the peers that have been timed."""
    return {name: t.median_s for name, t in case["times"].items() if t.medians_s}


def write_inference(results: Mapping[str, Any], directory: Path) -> None:
    """Writes inference.json, inference.md and a plot for each model and mode."""
    write_json(results, directory / "inference.json")
    parts = ["# Inference\n", describe(results)]
    for model, part in results["models"].items():
        parts.append(f"## {model}, after {part['rounds']} round(s)\n")
        parts += failures(part)
        for mode, title in MODE_TITLES.items():
            cases = [case for case in part["cases"].values() if case["mode"] == mode]
            if not cases:
                continue
            parts.append(f"### {model}, {title}: medians in ms\n")
            parts.append(_times_table(results, cases, "median"))
            parts.append(f"### {model}, {title}: minima in ms\n")
            parts.append(_times_table(results, cases, "min"))
            parts.append(f"### {model}, {title}: largest difference of a logit from ours\n")
            parts.append(_difference_table(results, cases))
            plot_ratios(
                results, cases, f"{model}, {title}", directory / f"inference_{model}_{mode}.png"
            )
            parts.append(f"![ratios](inference_{model}_{mode}.png)\n")
        parts.append(_yardstick_table(model, part))
    (directory / "inference.md").write_text("\n".join(parts), encoding="utf-8")


def failures(part: Mapping[str, Any]) -> list[str]:
    """Says which peers failed, and why."""
    return [f"**{n} failed**: {_one_line(why)}\n" for n, why in part["failures"].items()]


def finish(results: Mapping[str, Any], directory: str) -> int:
    """Says where the results are, and what of ours failed.

    Args:
        results: What was written.
        directory: Where.

    Returns:
        The exit code of the run: peers may fail, ours may not.
    """
    say(f"Written to {directory}.")
    failed = [
        f"{title}: {name} failed: {_one_line(reason)}"
        for title, part in results["models"].items()
        for name, reason in _reasons(part)
        if results["peers"][name]["is_ours"]
    ]
    for line in failed:
        say(line)
    return 1 if failed else 0


def _reasons(part: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields what failed altogether, and what computed something else than it should."""
    yield from part.get("failures", {}).items()
    for case in part.get("cases", {}).values():
        yield from case.get("errors", {}).items()


def _one_line(reason: str) -> str:
    lines = [line.strip() for line in reason.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"


def _shown(results: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lists the peers that have a time in any of the cases, in the table's order."""
    return [n for n in results["peers"] if any(n in case["times"] for case in cases)]


def _times_table(results: Mapping[str, Any], cases: Sequence[Mapping[str, Any]], kind: str) -> str:
    names = _shown(results, cases)
    labels = [results["peers"][name]["label"] for name in names]
    contests = ours_by_precision(results)
    rows = []
    for case in cases:
        times = {
            name: t.median_s if kind == "median" else t.min_s
            for name, t in case["times"].items()
            if t.medians_s
        }
        winners, ratios = set(), []
        for precision, ours in contests.items():
            rivals = competitors(results, times, precision)
            best = fastest(rivals)
            winner = fastest(rivals | ({ours: times[ours]} if ours in times else {}))
            winners |= {winner[0]} if winner else set()
            ratios.append(f"{best[1] / times[ours]:.2f}x" if ours in times and best else "-")
        row = [f"{case['label']} ({case['true_tokens']} of {case['padded_tokens']} tokens)"]
        for name in names:
            if name in case["errors"]:
                row.append("WRONG")
            elif name not in times:
                row.append("-")
            else:
                text = _milliseconds(times[name])
                row.append(f"**{text}**" if name in winners else text)
        rows.append(row + ratios)
    compared = [f"our speed / fastest {precision} peer's" for precision in contests]
    return table(["case", *labels, *compared], rows)


def _milliseconds(time_s: float) -> str:
    return f"{1000 * time_s:.2f}" if time_s < 0.1 else f"{1000 * time_s:.0f}"


def _difference_table(results: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]) -> str:
    names = [n for n in results["peers"] if any(n in c["max_abs_difference"] for c in cases)]
    rows = []
    for case in cases:
        found = case["max_abs_difference"]
        row = [case["label"], f"{case['logit_spread']:.2f}"]
        for name in names:
            text = f"{found[name]:.1e}" if name in found else "-"
            row.append(f"**WRONG** {text}" if name in case["errors"] else text)
        rows.append(row)
    labels = [results["peers"][name]["label"] for name in names]
    return table(["case", "spread of the logits", *labels], rows)


def _yardstick_table(model: str, part: Mapping[str, Any]) -> str:
    """Compares ours with the bare products and with the machine's sgemm."""
    if not part["sgemm_gflops"]:
        return ""
    sgemm = median(part["sgemm_gflops"])
    rows = []
    for case in part["cases"].values():
        times = medians(case)
        if OURS not in times:
            continue
        for name, flops in case["flops"].items():
            if name in times:
                what = "for [CLS]" if name.endswith("cls") else "all layers complete"
                rows.append(
                    [
                        case["label"],
                        what,
                        f"{flops / 1e9:.2f}",
                        _milliseconds(times[name]),
                        f"{flops / times[name] / 1e9:.0f}",
                        f"{times[name] / times[OURS]:.0%}",
                        f"{flops / times[OURS] / 1e9 / sgemm:.0%}",
                    ]
                )
    header = [
        "case",
        "products of the true tokens",
        "GFLOP",
        "bare products, ms",
        "their GFLOP/s",
        "bare / ours",
        "ours, of sgemm's speed",
    ]
    return (
        f"### {model}: yardsticks\n\nsgemm on this machine: {sgemm:.0f} GFLOP/s (median of the "
        "rounds' best). A classifier needs only [CLS] of the last layer, and ours computes no "
        "more, so measured by the complete layers it can pass 100 %.\n\n" + table(header, rows)
    )


def plot_ratios(
    results: Mapping[str, Any], cases: Sequence[Mapping[str, Any]], title: str, path: Path
) -> None:
    """Plots everybody's median as a multiple of the fastest float32 peer's, a row a case."""
    figure, axes = plt.subplots(figsize=(9, 1.6 + 0.45 * len(cases)), layout="constrained")
    for number, name in enumerate(_shown(results, cases)):
        points = []
        for row, case in enumerate(cases):
            times = medians(case)
            best = fastest(competitors(results, times))
            if best and name in times:
                points.append((times[name] / best[1], row))
        if points:
            ours = name == OURS
            axes.scatter(
                *zip(*points, strict=True),
                label=results["peers"][name]["label"],
                marker=MARKERS[number % len(MARKERS)],
                s=110 if ours else 45,
                color="black" if ours else f"C{number % 10}",
                alpha=1.0 if ours else 0.75,
                zorder=3 if ours else 2,
            )
    axes.axvline(1.0, color="grey", linewidth=1)
    axes.set_xscale("log")
    ticks = [0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(cases)), [case["label"] for case in cases])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("time, fastest float32 peer = 1 (left is faster)")
    axes.set_title(title)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
