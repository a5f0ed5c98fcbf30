"""Tables and a plot of fine-tuning on GPUs."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.report import failures, table, write_json


def write_gpu(results: Mapping[str, Any], directory: Path) -> None:
    """Writes gpu.json, gpu.md and gpu.png."""
    write_json(results, directory / "gpu.json")
    parts = [
        "# Fine-tuning on GPUs\n",
        "Forward, backward, clipping and AdamW, dropout on, tokenized before, batches of rows of "
        "about one length; `true tokens` leaves padding out, the others pad every row to the "
        "maximum. Every run is a process of its own. How operations are counted is said in "
        "`benchmarks/flops.py`; those of true tokens are what the task needs, those computed "
        "include padding.\n",
        _describe(results),
    ]
    for model, part in results["models"].items():
        parts.append(f"## {model}, SST-2\n")
        parts += failures(part)
        parts.append(_table(results, part))
        parts += _scaling(part)
        if any(variant["runs"] for variant in part["variants"].values()):
            plot_variants(results, part, directory / "gpu.png")
            parts.append("![examples per second](gpu.png)\n")
    (directory / "gpu.md").write_text("\n".join(parts), encoding="utf-8")


def _describe(results: Mapping[str, Any]) -> str:
    groups = {name.capitalize(): results[name] for name in ("device", "machine", "settings")}
    groups["Peak of one device, dense TFLOP/s"] = results["peak_tflops"] or {
        "none": "the device is not in the table of benchmarks/flops.py, and --peak_tflops not given"
    }
    groups["Versions"] = {
        name: version
        for part in results["models"].values()
        for found in part["versions"].values()
        for name, version in found.items()
    }
    lines = [f"Started {results['started_at']}."]
    for title, found in groups.items():
        lines += ["", f"{title}:", ""]
        lines += [f"- {name}: {_listed(value)}" for name, value in found.items()]
    return "\n".join(lines) + "\n"


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def speed(variant: Mapping[str, Any]) -> float:
    """Returns a variant's examples per second, the median of its runs."""
    return median(run["examples_per_s"] for run in variant["runs"])


def share(results: Mapping[str, Any], variant: Mapping[str, Any], flops: str) -> float | None:
    """Returns the share of its devices' peak that a variant reached.

    Args:
        results: With `peak_tflops`, by number type.
        variant: With its runs.
        flops: Which operations: `"true_flops"` or `"computed_flops"`.

    Returns:
        The median of the runs' shares; None if the peak is not known.
    """
    peak = results["peak_tflops"].get(variant["dtype"])
    if peak is None:
        return None
    return median(
        run[flops] / run["time_s"] / (peak * 1e12 * run["replicas"]) for run in variant["runs"]
    )


def _table(results: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    rows = []
    for variant in part["variants"].values():
        runs = variant["runs"]
        if not runs:
            continue
        examples = [run["examples_per_s"] * run["time_s"] for run in runs]  # of the timed steps
        peaks_mib = [run["peak_device_mib"] for run in runs if run["peak_device_mib"] is not None]
        teraflops = median(run["true_flops"] / run["time_s"] / 1e12 for run in runs)
        rows.append(
            [
                variant["label"],
                f"{speed(variant):.1f}",
                f"{max(run['examples_per_s'] for run in runs):.1f}",
                f"{runs[0]['true_tokens'] / examples[0]:.1f}",
                f"{runs[0]['computed_tokens'] / examples[0]:.1f}",
                f"{teraflops:.3g}",
                *(_percent(share(results, variant, f)) for f in ("true_flops", "computed_flops")),
                f"{max(peaks_mib):.0f}" if peaks_mib else "-",
                f"{median(run['first_step_s'] for run in runs):.1f}",
                f"{runs[0]['mean_loss']:.3f}",
            ]
        )
    header = [
        "rows are those of each device",
        "examples/s, median",
        "best",
        "true tokens an example",
        "computed",
        "TFLOP/s, true tokens",
        "of the peak, true tokens",
        "of the peak, computed",
        "peak device memory, MiB",
        "first step, s",
        "mean loss",
    ]
    return table(header, rows)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _scaling(part: Mapping[str, Any]) -> list[str]:
    """Compares all devices with one, at the same number of rows for each device."""
    rows = []
    for key, variant in part["variants"].items():
        alone = part["variants"].get(key.rsplit("-", 1)[0] + "-none")
        if variant["strategy"] == "none" or not alone or not alone["runs"] or not variant["runs"]:
            continue
        replicas = variant["runs"][0]["replicas"]
        gain = speed(variant) / speed(alone)
        rows.append(
            [
                variant["label"],
                str(replicas),
                f"{speed(alone):.1f}",
                f"{speed(variant):.1f}",
                f"{gain:.2f}x",
                f"{gain / replicas:.0%}",
            ]
        )
    header = ["", "devices", "one, examples/s", "all, examples/s", "gain", "of the ideal"]
    return ["### All devices and one\n", table(header, rows)] if rows else []


def plot_variants(results: Mapping[str, Any], part: Mapping[str, Any], path: Path) -> None:
    """Plots examples per second, median and best, and the share of the peak beside them."""
    variants = [variant for variant in part["variants"].values() if variant["runs"]]
    figure, axes = plt.subplots(figsize=(10, 1.4 + 0.4 * len(variants)), layout="constrained")
    dtypes = list(dict.fromkeys(variant["dtype"] for variant in variants))
    for row, variant in enumerate(variants):
        median_speed = speed(variant)
        best = max(run["examples_per_s"] for run in variant["runs"])
        axes.barh(row, median_speed, color=f"C{dtypes.index(variant['dtype'])}", alpha=0.85)
        axes.plot([best], [row], "k|", markersize=12)
        found = share(results, variant, "true_flops")
        text = f"{median_speed:,.0f}" + ("" if found is None else f" ({found:.0%} of the peak)")
        axes.annotate(text, (best, row), (6, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(variants)), [variant["label"] for variant in variants])
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("examples per second, median of the runs (line: best)")
    axes.set_title("Fine-tuning: " + (", ".join(results["device"]["gpus"]) or "CPU"))
    figure.savefig(path, dpi=120)
    plt.close(figure)
