"""Requests that a server runs while it loads a version, before anybody's request can meet it.

The first runs of a graph are slow: functions are instantiated, kernels chosen, weights packed. The
server reads `assets.extra/tf_serving_warmup_requests` and does all that while the old version still
answers. A request that fails makes the load fail.

Of a record's `model_spec` the server looks at the signature's name alone: the model is the one that
is being loaded, under whatever name.

Reference: tensorflow_serving/servables/tensorflow/saved_model_warmup_util.cc.

Shapes: B rows, T tokens of the longest row.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from distilbert_serving import tensors
from distilbert_serving.examples import to_input
from distilbert_serving.protos import meta_graph_pb2, prediction_log_pb2
from distilbert_serving.sample_sentences import LONG, SHORT
from distilbert_serving.signatures import (
    CLASSIFY,
    EXAMPLES,
    INPUT_IDS,
    NUM_TOKENS,
    OUTPUTS,
    REGRESS,
    TEXT,
    TEXT_PAIR,
    TOKEN_IDS,
    kind_of_inputs,
)
from distilbert_serving.tf_serving.tfrecord import CorruptFileError, read_records, write_records

EXTRA_ASSETS = "assets.extra"  # a server reads its warm-up requests there, and nothing else
WARMUP_FILE = Path(EXTRA_ASSETS, "tf_serving_warmup_requests")
MAX_RECORDS = 1000  # the server's own limit; with more, it refuses to load the version
KINDS = ("predict_log", "classify_log", "regress_log", "multi_inference_log")  # of requests

_MASK = "[MASK]"

# The ids of [PAD] and of four more tokens, which every vocabulary of this family has.
_PAD_ID = 0
_IDS = (1, 2, 3, 4)
_SHORT_ROW = 8
_LONG_ROW = 128

SignatureDefs = Mapping[str, meta_graph_pb2.SignatureDef]


def make_warmup(
    signature_defs: SignatureDefs,
    warmup: Iterable[str],
    batch_sizes: Sequence[int],
    *,
    model_name: str = "distilbert",
    max_length: int = 16,
) -> list[Any]:
    """Makes requests for signatures: for each batch size one, of short and long rows in turn.

    A lone row gets a second request, since the graph treats few tokens and many differently.

    Args:
        signature_defs: The SavedModel's signatures by name.
        warmup: What clients will use: a signature's name, or, for clients that filter its outputs,
            the name and the outputs, as in "classify_text:label" or "encode:cls_embedding". To the
            server each filter is a graph of its own, whose first run takes seconds. Each costs load
            time, and memory where weights are packed.
        batch_sizes: How many rows.
        model_name: A name for `model_spec`; any will do.
        max_length: The longest row of token ids that the model takes; texts are cut by the graph.

    Returns:
        `PredictionLog` messages.

    Raises:
        ValueError: There is no such signature or output, the inputs are none that can be made up,
            or there are more than 1000 requests.
    """
    logs = []
    for use in dict.fromkeys(warmup):
        name, outputs = _read_use(use, signature_defs)
        for size in batch_sizes:
            for first in (0, 1) if size == 1 else (0,):
                log = _make_log(name, signature_defs[name], first, size, max_length)
                _request(log).model_spec.name = model_name
                _request(log).model_spec.signature_name = name
                if outputs:
                    _request(log).output_filter.extend(outputs)
                logs.append(log)
    _check_count(len(logs), "would be")
    return logs


def _read_use(use: str, signature_defs: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Splits "signature:output+output" into the signature and the outputs."""
    name, _, filtered = use.partition(":")
    if name not in signature_defs:
        raise ValueError(
            f"There is no signature {name!r} to warm up, but {', '.join(sorted(signature_defs))}."
        )
    outputs = filtered.split("+") if filtered else []
    known = signature_defs[name].outputs
    if outputs and (EXAMPLES in signature_defs[name].inputs or set(outputs) - set(known)):
        raise ValueError(
            f"{use!r} cannot be warmed up: {name} has the outputs {', '.join(sorted(known))}, and "
            "only calls of Predict filter them (write signature:output+output)."
        )
    return name, outputs


def write_warmup(version_directory: str | os.PathLike[str], logs: Sequence[Any]) -> Path:
    """Writes requests to where a server looks for them.

    Args:
        version_directory: Where `saved_model.pb` is.
        logs: `PredictionLog` messages.

    Returns:
        The file.

    Raises:
        ValueError: There are more than 1000.
    """
    _check_count(len(logs), "are")
    path = Path(version_directory) / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    write_records(path, (log.SerializeToString(deterministic=True) for log in logs))
    return path


def read_warmup(path: str | os.PathLike[str]) -> list[Any]:
    """Reads a file of warm-up requests, with the server's checks.

    Args:
        path: The file.

    Returns:
        `PredictionLog` messages.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptFileError: It is damaged, or a record is no `PredictionLog` with a request that a
            server runs, or there are more than 1000.
    """
    logs = []
    for number, record in enumerate(read_records(path)):
        where = f"{os.fspath(path)}: record {number}"
        log = prediction_log_pb2.PredictionLog()
        try:
            log.ParseFromString(record)
        except DecodeError as error:
            raise CorruptFileError(f"{where} is no PredictionLog: {error}") from error
        kind = log.WhichOneof("log_type")
        if kind not in KINDS:
            raise CorruptFileError(
                f"{where} is no request that a server can run: its log_type is {kind}, not one of "
                f"{', '.join(KINDS)}."
            )
        logs.append(log)
    if len(logs) > MAX_RECORDS:
        raise CorruptFileError(
            f"{os.fspath(path)} has {len(logs)} records; a server refuses more than {MAX_RECORDS}."
        )
    return logs


def _check_count(count: int, verb: str) -> None:
    if count > MAX_RECORDS:
        raise ValueError(
            f"There {verb} {count} warm-up requests; a server refuses a version with more than "
            f"{MAX_RECORDS}: warm up fewer signatures."
        )


def _make_log(
    name: str, signature: meta_graph_pb2.SignatureDef, first: int, size: int, max_length: int
) -> Any:
    """Makes a request of the kind that a signature answers."""
    log = prediction_log_pb2.PredictionLog()
    kind = kind_of_inputs(signature.inputs)
    if kind == "examples":
        outputs = set(signature.outputs)
        # Both texts, for a graph leaves alone the features that it does not want.
        examples = to_input(_make_texts(first, size))
        if outputs == OUTPUTS[REGRESS].keys():
            log.regress_log.request.input.CopyFrom(examples)
        elif outputs and outputs <= OUTPUTS[CLASSIFY].keys():
            log.classify_log.request.input.CopyFrom(examples)
        else:
            raise ValueError(
                f"Signature {name!r} takes tf.Examples, but is neither one for Classify (outputs "
                f"{[*OUTPUTS[CLASSIFY]]}) nor for Regress ({[*OUTPUTS[REGRESS]]}): "
                f"{sorted(outputs)}."
            )
        return log
    if kind is None:
        raise ValueError(
            f"No warm-up request can be made up for signature {name!r}, which takes "
            f"{sorted(signature.inputs)}."
        )
    arrays: Mapping[str, Any]
    if kind == "ids":
        arrays = _make_ids(first, size, max_length)
    else:
        arrays = _make_texts(first, size, masked=TOKEN_IDS in signature.outputs)
    for input_name, info in signature.inputs.items():
        array = np.asarray(
            arrays[input_name], tensors.NUMPY_TYPES[tensors.data_type_name(info.dtype)]
        )
        log.predict_log.request.inputs[input_name].CopyFrom(tensors.to_proto(array))
    return log


def _request(log: Any) -> Any:
    return getattr(log, log.WhichOneof("log_type")).request


def _is_long(row: int) -> bool:
    return row % 2 == 1


def _make_texts(first: int, size: int, masked: bool = False) -> dict[str, list[str]]:
    """Makes texts, short and long in turn, and pairs in which short meets long."""
    rows = range(first, first + size)
    texts = [_text(row) for row in rows]
    if masked:
        texts = [f"{_MASK} {text.split(maxsplit=1)[1]}" for text in texts]
    return {TEXT: texts, TEXT_PAIR: [_text(row + 1) for row in rows]}


def _text(row: int) -> str:
    texts = LONG if _is_long(row) else SHORT
    return texts[row // 2 % len(texts)]


def _make_ids(first: int, size: int, max_length: int) -> dict[str, np.ndarray]:
    """Makes rows of token ids, int64 (B, T), and how many of each count, int64 (B,)."""
    long, short = min(_LONG_ROW, max_length), min(_SHORT_ROW, max_length)
    counts = np.array([long if _is_long(row) else short for row in range(first, first + size)])
    positions = np.arange(counts.max())
    ids = np.where(positions < counts[:, None], np.take(_IDS, positions % len(_IDS)), _PAD_ID)
    return {INPUT_IDS: ids, NUM_TOKENS: counts}
