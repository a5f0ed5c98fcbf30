"""Writes a report on a SavedModel for people, and for programs."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from distilbert_serving.inspection.endpoint_contracts import show_tensors
from distilbert_serving.inspection.inspection import ExportReport
from distilbert_serving.inspection.loader_comparison import Comparison

_LISTED = 20  # of the findings of one severity


def describe_report(report: ExportReport, comparison: Comparison | None = None) -> dict[str, Any]:
    """Returns a report as what JSON can hold."""
    described = dataclasses.asdict(report)
    described["findings"] = [finding._asdict() for finding in report.findings]
    for signature in described["signatures"]:
        for side in ("inputs", "outputs"):
            signature[side] = {
                name: {"data_type": info.dtype, "shape": info.shape}
                for name, info in signature[side].items()
            }
    described["servable"] = report.is_servable
    described["run"] = comparison._asdict() if comparison else None
    return described


def format_report(report: ExportReport, comparison: Comparison | None = None) -> str:
    """Returns a report as lines of text."""
    return "\n".join([*_format_contents(report), *_format_run(comparison), *_format_end(report)])


def _format_contents(report: ExportReport) -> Iterator[str]:
    yield f"{report.directory}: {_megabytes(report.num_bytes)}"
    yield (
        f"  written by TensorFlow {report.tensorflow or 'unknown'}, GraphDef version "
        f"{report.graph_version}, for {report.min_consumer} or newer"
    )
    custom = ", ".join(report.custom_ops) or "none"
    yield f"  {len(report.ops)} ops, {report.num_functions} functions; custom ops: {custom}"
    sizes = ", ".join(f"{name} {_megabytes(size)}" for name, size in report.variable_bytes.items())
    yield f"  {report.num_variables} variables{': ' if sizes else ''}{sizes}"
    yield f"  assets: {', '.join(report.assets) or 'none'}"
    batching = "its own" if report.batching is not None else "none of its own"
    yield f"  warm-up requests: {report.num_warmup_requests}; batching parameters: {batching}"
    for signature in report.signatures:
        merged = "cannot be batched" if signature.unbatched else "batched"
        yield f"  signature {signature.name} ({', '.join(signature.calls) or 'no call'}; {merged})"
        yield f"    {show_tensors(signature.inputs)} -> {show_tensors(signature.outputs)}"


def _format_run(comparison: Comparison | None) -> Iterator[str]:
    if comparison is None:
        return
    for loader, seconds in comparison.load_s.items():
        yield f"  the {loader} loader took {seconds:.1f} s"
    for signature, difference in comparison.differences.items():
        yield f"  signature {signature} ran; the loaders differ by {difference:.1e} at most"
    if comparison.error:
        yield f"error: it was run, and {comparison.error}"


def _format_end(report: ExportReport) -> Iterator[str]:
    for severity in ("error", "warning", "note"):
        found = [finding for finding in report.findings if finding.severity == severity]
        yield from (f"{severity}: {finding.text}" for finding in found[:_LISTED])
        if len(found) > _LISTED:
            yield f"{severity}: and {len(found) - _LISTED} more"
    verdict = "can" if report.is_servable else "cannot"
    first = report.first_server or "none that is known"
    yield f"TF Serving {report.server} {verdict} serve it; the first release that can: {first}"


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"
