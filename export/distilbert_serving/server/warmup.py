"""Sends a version the requests that came with it, before anybody else's.

The first run of an endpoint is slow, and what a model cannot do shows only when it runs: a version
that fails one of its own requests is not served.

Reference: saved_model_warmup.cc and saved_model_warmup_util.cc in
tensorflow_serving/servables/tensorflow.
"""

import pathlib
import time

from absl import logging

from distilbert_serving.server import inference, status
from distilbert_serving.server.loaded_version import LoadedVersion
from distilbert_serving.tf_serving.warmup import WARMUP_FILE, read_warmup

# What answers the request of each kind of log.
_CALLS = {
    "predict_log": inference.predict,
    "classify_log": inference.classify,
    "regress_log": inference.regress,
    "multi_inference_log": inference.multi_inference,
}


def run(version: LoadedVersion, path: pathlib.Path) -> None:
    """Sends a version its warm-up requests, if it has any.

    Args:
        version: What to warm up.
        path: Its directory.

    Raises:
        ValueError: the file is damaged or has too many records, or one of them is not answered.
    """
    file = path / WARMUP_FILE
    if not file.exists():
        return
    started_s = time.monotonic()
    logs = read_warmup(file)
    for number, log in enumerate(logs):
        kind = log.WhichOneof("log_type")
        try:
            _CALLS[kind](version, getattr(log, kind).request, lambda: True)
        except status.RequestError as error:
            raise ValueError(
                f"{file}: record {number} gets {error.code.name}: {error.message}"
            ) from error
    logging.info("Warmed up with %d requests in %.1f s", len(logs), time.monotonic() - started_s)
