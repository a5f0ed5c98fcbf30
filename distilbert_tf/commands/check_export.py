"""The subcommand `check-export`."""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from distilbert_tf.commands.common_flags import UsageError, define_flag, say


def define_check_export(values: flags.FlagValues) -> None:
    define_flag(values, "server", "2.12", "TF Serving release that is to serve it")
    define_flag(values, "json", False, "print the report as one JSON object")
    text = (
        "also load it twice in a fresh process, as TensorFlow 2 and as TF Serving do, run every "
        "signature on made-up inputs, and compare"
    )
    define_flag(values, "run", False, text)


def run_check_export(values: flags.FlagValues, words: Sequence[str]) -> None:
    if len(words) != 1:
        raise UsageError(f"name one directory, a version's; got {len(words)}")
    from distilbert_serving.inspection.inspection import inspect_export
    from distilbert_serving.inspection.loader_comparison import compare_export
    from distilbert_serving.inspection.report_text import describe_report, format_report

    directory = Path(words[0])
    report = inspect_export(directory, values.server)
    comparison = compare_export(directory) if values.run else None
    if values.json:
        say(json.dumps(describe_report(report, comparison), ensure_ascii=False))
    else:
        say(format_report(report, comparison))
    if not report.is_servable or (comparison and comparison.error):
        raise SystemExit(1)
