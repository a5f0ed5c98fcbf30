"""Tables and a plot of training speeds."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.report import OURS, competitors, describe, failures, table, write_json


def write_training(results: Mapping[str, Any], directory: Path) -> None:
    """Writes training.json, training.md and training.png."""
    write_json(results, directory / "training.json")
    parts = [
        "# Training\n",
        "Forward, backward, clipping and AdamW, dropout on. Rows were tokenized before, but for "
        "KerasHub, whose preprocessor is part of every step. `finetune` is the whole "
        "command: metrics, learning curves and logs as it goes.\n",
        describe(results),
    ]
    for title, part in results["models"].items():
        parts.append(
            f"## {title}: {part['examples']} examples, {part['true_tokens_per_example']:.1f} "
            "tokens each\n"
        )
        parts += failures(part)
        parts.append(_table(results, part))
    if any(any(part["examples_per_s"].values()) for part in results["models"].values()):
        plot_speeds(results, directory / "training.png")
        parts.append("![examples per second](training.png)\n")
    (directory / "training.md").write_text("\n".join(parts), encoding="utf-8")


def _speeds(part: Mapping[str, Any]) -> dict[str, float]:
    return {name: median(found) for name, found in part["examples_per_s"].items() if found}


def _table(results: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    speeds = _speeds(part)
    rows = []
    for name, speed in speeds.items():
        rivals = competitors(results, speeds, results["peers"][name]["precision"])
        found = part["examples_per_s"][name]
        rows.append(
            [
                results["peers"][name]["label"],
                f"{speed:.1f}",
                f"{min(found):.1f}-{max(found):.1f}",
                f"{speed * part['true_tokens_per_example']:.0f}",
                f"{part['padded_tokens_per_example'][name]:.1f}",
                f"{speed / max(rivals.values()):.2f}" if rivals else "-",
                f"{part['mean_loss'][name]:.3f}",
                f"{part['peak_memory_mib'].get(name, float('nan')):.0f}",
            ]
        )
    header = [
        "",
        "examples/s, median",
        "range of the turns",
        "true tokens/s",
        "tokens per example with padding",
        "speed / that of the fastest peer in its precision",
        "mean loss",
        "peak memory, MiB",
    ]
    return table(header, rows)


def plot_speeds(results: Mapping[str, Any], path: Path) -> None:
    """Plots everybody's examples per second as a multiple of the fastest float32 peer's."""
    titles = list(results["models"])
    names = list(results["peers"])
    figure, axes = plt.subplots(
        figsize=(9, 1.2 + 0.25 * len(titles) * len(names)), layout="constrained"
    )
    height = 0.8 / len(names)
    for number, name in enumerate(names):
        for row, title in enumerate(titles):
            speeds = _speeds(results["models"][title])
            rivals = competitors(results, speeds)
            if name in speeds and rivals:
                axes.barh(
                    row + (number - (len(names) - 1) / 2) * height,
                    speeds[name] / max(rivals.values()),
                    height,
                    color="black" if name == OURS else f"C{number % 10}",
                    label=results["peers"][name]["label"],
                )
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.axvline(1.0, color="grey", linewidth=1)
    axes.set_yticks(range(len(titles)), titles)
    axes.invert_yaxis()
    axes.set_xlabel("examples per second, fastest float32 peer = 1 (right is faster)")
    figure.savefig(path, dpi=120)
    plt.close(figure)
