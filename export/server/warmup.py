"""Sends a version the requests that came with it, before anybody else's.

The first run of an endpoint is slow, and what a model cannot do shows only when it runs: a version
that fails one of its own requests is not served.

Reference: saved_model_warmup.cc and saved_model_warmup_util.cc in
tensorflow_serving/servables/tensorflow.
"""

import pathlib
import time

import tensorflow as tf
from absl import logging
from google.protobuf import message

from export.protos import prediction_log_pb2
from export.server import inference, status
from export.server.loaded_version import LoadedVersion

WARMUP_FILE = pathlib.Path("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000

_FRAME_BYTES = 16  # a record's length and checksums

# What answers the request of each kind of log.
_CALLS = {
    "predict_log": inference.predict,
    "classify_log": inference.classify,
    "regress_log": inference.regress,
    "multi_inference_log": inference.multi_inference,
}


def run(version: LoadedVersion, path: pathlib.Path) -> int:
    """Sends a version its warm-up requests, if it has any.

    Args:
        version: What to warm up.
        path: Its directory.

    Returns:
        How many they were.

    Raises:
        ValueError: the file is damaged or has too many records, or one of them is not answered.
    """
    file = path / WARMUP_FILE
    if not file.exists():
        return 0
    started_s = time.monotonic()
    count = size = 0
    try:
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            count += 1
            size += len(record) + _FRAME_BYTES
            if count > MAX_RECORDS:
                raise ValueError(f"Number of warmup records exceeds the maximum ({MAX_RECORDS})")
            _run_record(version, record)
        if size != file.stat().st_size:
            # TensorFlow takes a few left-over bytes for the end.
            raise tf.errors.DataLossError(None, None, f"truncated record at {size}")
    except tf.errors.DataLossError as error:
        raise ValueError(
            f"Record {count + 1} of {file} is damaged: {error.message}. Please verify your warmup "
            "data is in TFRecord format."
        ) from error
    except status.RequestError as error:
        raise ValueError(
            f"Record {count} of {file} gets {error.code.name}: {error.message}"
        ) from error
    except ValueError as error:
        raise ValueError(f"Record {count} of {file}: {error}") from error
    logging.info("Warmed up with %d requests in %.1f s", count, time.monotonic() - started_s)
    return count


def _run_record(version: LoadedVersion, record: bytes) -> None:
    try:
        log = prediction_log_pb2.PredictionLog.FromString(record)
    except message.DecodeError as error:
        raise ValueError(f"not a PredictionLog: {error}") from error
    kind = log.WhichOneof("log_type")
    if kind not in _CALLS:
        raise ValueError(f"Unsupported log_type for warmup: {kind}; there are {', '.join(_CALLS)}")
    _CALLS[kind](version, getattr(log, kind).request, lambda: True)
