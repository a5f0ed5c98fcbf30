"""What the clients send: rows of texts or token ids, and TF Serving's requests made from them."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from distilbert_serving import signatures, tensors
from distilbert_serving.examples import to_input
from distilbert_serving.protos import (
    classification_pb2,
    inference_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

Text = str | bytes
Ids = Sequence[Any] | np.ndarray  # of rows, or of one row

_TEXT_NAMES = (signatures.TEXT, signatures.TEXT_PAIR)
_INT32 = np.iinfo(np.int32)
_MOST_SHOWN_BYTES, _MOST_SHOWN_IDS = 40, 6  # of a row, in an error


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows to ask about.

    Args:
        columns: Their values by input name, all of one length.
        is_single: Whether the caller gave one row alone, and so wants one answer.
        start: The number of the first row.
    """

    columns: Mapping[str, Sequence[Any]]
    is_single: bool = False
    start: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def batches(self, size: int) -> Iterator["Rows"]:
        """Splits into parts of at most `size` rows; no rows are a part, too."""
        for start in range(0, max(len(self), 1), size):
            columns = {name: values[start : start + size] for name, values in self.columns.items()}
            yield Rows(columns, start=start)

    def describe(self, index: int) -> str:
        """Names a row by its number, with the beginning of what was given."""
        given = [_shorten(values[index]) for values in self.columns.values()]
        return f"row {self.start + index} ({'; '.join(filter(None, given))})"


def text_rows(
    texts: Text | Iterable[Text], text_pairs: Text | Iterable[Text] | None = None
) -> Rows:
    """Makes rows of texts, or of pairs of texts; a ValueError says what is none."""
    is_single = isinstance(texts, Text)
    columns = {signatures.TEXT: _encode("texts", texts)}
    if text_pairs is not None:
        if is_single != isinstance(text_pairs, Text):
            raise ValueError("Give one text and one pair, or a list of each")
        columns[signatures.TEXT_PAIR] = _encode("text_pairs", text_pairs)
        count, pair_count = map(len, columns.values())
        if count != pair_count:
            raise ValueError(f"There are {count} texts, but {pair_count} text_pairs")
    return Rows(columns, is_single)


def id_rows(input_ids: Ids, attention_mask: Ids | None = None) -> Rows:
    """Makes rows of token ids, of any lengths; a ValueError says which are none."""
    is_single = len(input_ids) > 0 and np.ndim(input_ids[0]) == 0
    ids = [input_ids] if is_single else input_ids
    rows = [_read_integers(f"input_ids[{number}]", row) for number, row in enumerate(ids)]
    if attention_mask is not None:
        masks = [attention_mask] if is_single else attention_mask
        if len(masks) != len(rows):
            raise ValueError(f"There are {len(rows)} input_ids, but {len(masks)} rows of the mask")
        rows = [
            row[: _count_ones(f"attention_mask[{number}]", mask, len(row))]
            for number, (row, mask) in enumerate(zip(rows, masks, strict=True))
        ]
    counts = [len(row) for row in rows]
    return Rows({signatures.INPUT_IDS: rows, signatures.NUM_TOKENS: counts}, is_single)


def batch_stream(rows: Iterable[Text | tuple[Text, Text]], size: int) -> Iterator[Rows]:
    """Makes batches of texts, or of pairs of texts, and reads no further than it must."""
    iterator = iter(rows)
    start = 0
    sides: int | None = None  # of every row
    while batch := list(itertools.islice(iterator, size)):
        pairs = [row if isinstance(row, tuple) else (row,) for row in batch]
        sides = sides or len(pairs[0])
        for number, row in enumerate(pairs, start):
            if len(row) != sides or sides not in (1, 2):
                shown = f"{batch[number - start]!r:.60}"
                raise ValueError(
                    f"Row {number} is {shown}: all must be texts, or all pairs of texts"
                )
        columns = {
            name: _encode(f"{name} of row", column, start)
            for name, column in zip(_TEXT_NAMES, zip(*pairs, strict=True), strict=False)
        }
        yield Rows(columns, start=start)
        start += len(batch)


def predict_texts(spec: model_pb2.ModelSpec, rows: Rows) -> predict_pb2.PredictRequest:
    """Asks for a signature of texts."""
    return predict_arrays(spec, rows.columns)


def predict_ids(spec: model_pb2.ModelSpec, rows: Rows) -> predict_pb2.PredictRequest:
    """Asks for a signature of token ids, padded with zeros to the longest row."""
    ids, counts = rows.columns[signatures.INPUT_IDS], rows.columns[signatures.NUM_TOKENS]
    # TF Serving cannot merge ids without columns with others.
    padded = np.zeros((len(rows), max(1, *counts)), np.int32)
    for padded_row, row in zip(padded, ids, strict=True):
        padded_row[: len(row)] = row
    columns = {signatures.INPUT_IDS: padded, signatures.NUM_TOKENS: np.array(counts, np.int32)}
    return predict_arrays(spec, columns)


def predict_arrays(
    spec: model_pb2.ModelSpec, inputs: Mapping[str, Any], outputs: Sequence[str] = ()
) -> predict_pb2.PredictRequest:
    """Asks for any signature, with arrays or what `np.asarray` makes them from."""
    request = predict_pb2.PredictRequest(model_spec=spec, output_filter=outputs)
    for name, value in inputs.items():
        try:
            request.inputs[name].CopyFrom(tensors.to_proto(value))
        except ValueError as error:
            raise ValueError(f"Input {name!r}: {error}") from error
    return request


def classify(spec: model_pb2.ModelSpec, rows: Rows) -> classification_pb2.ClassificationRequest:
    """Asks for TF Serving's Classify."""
    return classification_pb2.ClassificationRequest(model_spec=spec, input=to_input(rows.columns))


def regress(spec: model_pb2.ModelSpec, rows: Rows) -> regression_pb2.RegressionRequest:
    """Asks for TF Serving's Regress."""
    return regression_pb2.RegressionRequest(model_spec=spec, input=to_input(rows.columns))


def multi_inference(
    spec: model_pb2.ModelSpec, rows: Rows, tasks: Iterable[tuple[str, str]]
) -> inference_pb2.MultiInferenceRequest:
    """Asks for several signatures at once, each a task with its name and MultiInference method."""
    request = inference_pb2.MultiInferenceRequest(input=to_input(rows.columns))
    for signature_name, method_name in tasks:
        task = request.tasks.add(model_spec=spec, method_name=method_name)
        task.model_spec.signature_name = signature_name
    return request


def _shorten(value: Any) -> str:
    """Shows the beginning of a text or of token ids; nothing of a number."""
    if isinstance(value, bytes):
        shown = repr(value[:_MOST_SHOWN_BYTES].decode("utf-8", "ignore"))
        return shown if len(value) <= _MOST_SHOWN_BYTES else f"{shown}..., {len(value)} bytes"
    if isinstance(value, np.ndarray):
        shown = ", ".join(map(str, value[:_MOST_SHOWN_IDS].tolist()))
        return (
            f"[{shown}]" if len(value) <= _MOST_SHOWN_IDS else f"[{shown}, ...], {len(value)} ids"
        )
    return ""


def _read_integers(name: str, row: Any) -> np.ndarray:
    """Reads a row of token ids, int32 (T,); what is out of int32's range stays out of any other."""
    array = np.asarray(row)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise ValueError(f"{name} must be a list of integers, not {row!r:.60}")
    return array.astype(np.int64).clip(_INT32.min, _INT32.max).astype(np.int32)


def _count_ones(name: str, mask: Any, size: int) -> int:
    """Counts the ones at the beginning of a mask; what follows must be zeros."""
    array = np.asarray(mask)
    if array.shape != (size,):
        raise ValueError(f"{name} must have a value for each of the {size} ids")
    count = int(np.count_nonzero(array))
    if not (array[:count] == 1).all():
        raise ValueError(
            f"{name} must be ones followed by zeros: a server takes the number of ids that count, "
            "and none of them can be left out"
        )
    return count


def _encode(name: str, texts: Text | Iterable[Any], start: int = 0) -> list[bytes]:
    """Encodes texts as UTF-8; errors count from `start`."""
    encoded = []
    for number, text in enumerate([texts] if isinstance(texts, Text) else texts, start):
        if isinstance(text, str):
            try:
                text = text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{name}[{number}] is not Unicode: it holds half of a surrogate pair at "
                    f"position {error.start}"
                ) from error
        elif not isinstance(text, bytes):
            raise ValueError(f"{name}[{number}] must be str or bytes, not {type(text).__name__}")
        encoded.append(text)
    return encoded
