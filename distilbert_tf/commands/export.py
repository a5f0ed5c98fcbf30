"""The subcommand `export`."""

from collections.abc import Sequence
from typing import Any, Literal

from absl import flags

from distilbert_tf.commands.common_flags import (
    UsageError,
    define_batching,
    define_flag,
    define_max_length,
    say,
)
from distilbert_tf.tensorflow_import import import_tensorflow

# The flags that `export_pretrained` takes as they are.
_OPTIONS = (
    "version", "max_length", "pair", "regress_label", "top_k", "max_masks", "max_text_bytes",
    "weights", "compute", "evaluate_on", "max_changed_labels", "max_score_loss", "max_batch_size",
    "max_latency_ms", "max_request_rows", "warmup",
)  # fmt: skip


def define_export(values: flags.FlagValues) -> None:
    text = (
        "checkpoint: a directory or a hub repository; for several tasks on one encoder, a "
        "comma-separated list, or the directory that holds theirs"
    )
    define_flag(values, "model", None, text, kind=str)
    text = "base path; the model goes to <output>/<version>/"
    define_flag(values, "output", None, text, kind=str)
    text = "number of the version (default: the next free one)"
    define_flag(values, "version", None, text, kind=int, minimum=1)
    define_max_length(values)
    text = "whether every task takes two texts (default: what each checkpoint says)"
    define_flag(values, "pair", None, text, kind=bool)
    text = "how weights are stored; once loaded they are as --compute says"
    define_flag(values, "weights", "fp32", text, choices=["fp32", "fp16", "int8"])
    text = (
        "what weights are held and multiplied in; bfloat16 is for processors that have it "
        "(default: float32)"
    )
    define_flag(values, "compute", None, text, choices=["float32", "bfloat16"])
    text = (
        "labelled data of the tasks, to say on how many labels and scores change by --weights and "
        "--compute: a directory, a file, 'hub' or 'demo'"
    )
    define_flag(values, "evaluate_on", None, text, kind=str)
    text = "share of the labels that may change on these data; more, and nothing is exported"
    define_flag(values, "max_changed_labels", None, text, kind=float, minimum=0, maximum=1)
    text = "by how much the tasks' first metrics may be lower on these data, likewise"
    define_flag(values, "max_score_loss", None, text, kind=float, minimum=0)
    define_batching(values)
    text = (
        "sizes that a batch may have, or 'all' up to max_batch_size, for GPUs and XLA (default: "
        "any)"
    )
    define_flag(values, "allowed_batch_sizes", None, text, kind=list)
    text = (
        "what clients will call, and a server runs when it loads the model: signatures, or "
        "signature:output+output where clients filter outputs"
    )
    define_flag(values, "warmup", ["serving_default"], text)
    text = (
        "label whose probability `regress` returns (default: the second of two, the first of more)"
    )
    define_flag(values, "regress_label", None, text, kind=str)
    define_flag(values, "top_k", 5, "words that `fill_mask` returns for each mask", minimum=1)
    text = "largest number of masks in a text for `fill_mask`"
    define_flag(values, "max_masks", 16, text, minimum=1)
    text = "longest text that is computed, in bytes"
    define_flag(values, "max_text_bytes", 2**20, text, minimum=1)


def run_export(values: flags.FlagValues, words: Sequence[str]) -> None:
    models = [name for name in values.model.split(",") if name]
    sizes = _read_sizes(values.allowed_batch_sizes)
    options: dict[str, Any] = {name: values[name].value for name in _OPTIONS}
    import_tensorflow()
    from distilbert_serving.saved_model.exporter import export_pretrained

    model = models[0] if len(models) == 1 else models
    path = export_pretrained(model, values.output, allowed_batch_sizes=sizes, **options)
    say(f"exported and verified: {path}")


def _read_sizes(words: list[str] | None) -> list[int] | Literal["all"] | None:
    if not words:
        return None
    if words == ["all"]:
        return "all"
    if not all(word.isascii() and word.isdigit() for word in words):
        raise UsageError(
            "--allowed_batch_sizes expects comma-separated numbers, or 'all'; got "
            f"{','.join(words)!r}"
        )
    return [int(word) for word in words]
