"""The subcommand `serving-config`."""

from collections.abc import Sequence
from typing import Any

from absl import flags

from distilbert_tf.commands.common_flags import (
    define_batching,
    define_flag,
    define_model_name,
    say,
)

# The flags that `write_server_files` takes as they are.
_OPTIONS = (
    "model_name", "served_path", "policy", "max_batch_size", "max_latency_ms", "max_request_rows",
    "threads", "docker", "kubernetes",
)  # fmt: skip


def define_serving_config(values: flags.FlagValues) -> None:
    text = "directory with numbered versions"
    define_flag(values, "model_base_path", None, text, kind=str)
    define_model_name(values)
    text = "where the server sees that directory (default: /models/<model_name>)"
    define_flag(values, "served_path", None, text, kind=str)
    text = (
        "versions to serve: latest, latest:N, all, or comma-separated numbers (default: those "
        "with labels, or else the latest)"
    )
    define_flag(values, "policy", None, text, kind=str)
    define_flag(values, "labels", [], "labels of versions, such as stable:1,canary:2")
    define_batching(values)
    text = "batches that run at once (default: as many as the server has processors)"
    define_flag(values, "threads", None, text, kind=int, minimum=1)
    define_flag(values, "docker", False, "write a Dockerfile and a compose file, too")
    text = "write manifests for Kubernetes and KServe, too"
    define_flag(values, "kubernetes", False, text)
    define_flag(values, "output", None, "directory for the files", kind=str)


def run_serving_config(values: flags.FlagValues, words: Sequence[str]) -> None:
    options: dict[str, Any] = {name: values[name].value for name in _OPTIONS}
    from distilbert_serving.tf_serving.serving_files import parse_labels, write_server_files

    labels = parse_labels(values.labels)
    for path in write_server_files(values.output, values.model_base_path, labels=labels, **options):
        say(f"wrote {path}")
