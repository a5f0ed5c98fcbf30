"""What the clients send: rows of texts or token ids, and TF Serving's requests made from them."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from export import signatures, tensors
from export.configuration.examples import to_input
from export.protos import (
    classification_pb2,
    inference_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

Text = str | bytes
Ids = Sequence[Any] | np.ndarray  # of rows, or of one row


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows to ask about.

    Args:
        columns: Their values by input name, all of one length.
        is_single: Whether the caller gave one row alone, and so wants one answer.
    """

    columns: Mapping[str, Sequence[Any]]
    is_single: bool = False

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def batches(self, size: int) -> Iterator["Rows"]:
        """Splits into parts of at most `size` rows."""
        for start in range(0, len(self), size):
            yield Rows(
                {name: values[start : start + size] for name, values in self.columns.items()}
            )


def text_rows(
    texts: Text | Iterable[Text], text_pairs: Text | Iterable[Text] | None = None
) -> Rows:
    """Makes rows of texts, or of pairs of texts.

    Raises:
        ValueError: there are not as many pairs as texts, or a text is not text.
    """
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
    """Makes rows of token ids, of any lengths; by default no id is padding.

    Raises:
        ValueError: the mask has another shape than the ids.
    """
    is_single = len(input_ids) > 0 and np.ndim(input_ids[0]) == 0
    ids = [input_ids] if is_single else list(input_ids)
    if attention_mask is None:
        mask: list[Any] = [[1] * len(row) for row in ids]
    else:
        mask = [attention_mask] if is_single else list(attention_mask)
    if [len(row) for row in ids] != [len(row) for row in mask]:
        raise ValueError("attention_mask must have a value for each of input_ids, row by row")
    return Rows({signatures.INPUT_IDS: ids, signatures.ATTENTION_MASK: mask}, is_single)


def batch_stream(rows: Iterable[Text | tuple[Text, Text]], size: int) -> Iterator[Rows]:
    """Makes batches of texts, or of pairs of texts, and reads no further than it must.

    Raises:
        ValueError: a row is not text, or texts and pairs are mixed.
    """
    iterator = iter(rows)
    start = 0
    is_pair: bool | None = None
    while batch := list(itertools.islice(iterator, size)):
        if is_pair is None:
            is_pair = isinstance(batch[0], tuple)
        for number, row in enumerate(batch, start):
            if isinstance(row, tuple) != is_pair or (is_pair and len(row) != 2):
                raise ValueError(
                    f"Row {number} is {row!r:.60}: all must be texts, or all pairs of texts"
                )
        columns: Iterable[Iterable[Any]] = zip(*batch, strict=True) if is_pair else [batch]
        yield Rows(
            {
                name: _encode(f"{name} of row", column, start)
                for name, column in zip(
                    (signatures.TEXT, signatures.TEXT_PAIR), columns, strict=False
                )
            }
        )
        start += len(batch)


def predict_texts(spec: model_pb2.ModelSpec, rows: Rows) -> predict_pb2.PredictRequest:
    """Asks for a signature of texts."""
    return predict_arrays(spec, rows.columns)


def predict_ids(spec: model_pb2.ModelSpec, rows: Rows) -> predict_pb2.PredictRequest:
    """Asks for a signature of token ids, padded with zeros to the longest row."""
    length = max(map(len, rows.columns[signatures.INPUT_IDS]))
    padded = {name: np.zeros((len(rows), length), np.int32) for name in rows.columns}
    for name, values in rows.columns.items():
        for padded_row, row in zip(padded[name], values, strict=True):
            padded_row[: len(row)] = row
    return predict_arrays(spec, padded)


def predict_arrays(
    spec: model_pb2.ModelSpec, inputs: Mapping[str, Any], outputs: Sequence[str] = ()
) -> predict_pb2.PredictRequest:
    """Asks for any signature, with arrays or what `np.asarray` makes them from.

    Raises:
        ValueError: an input's type cannot be sent.
    """
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
    """Asks for several classifying and regressing signatures in one request.

    Args:
        spec: The model; its signature does not count.
        rows: The texts.
        tasks: Signature's name and method, `signatures.CLASSIFY_METHOD` or
            `REGRESS_METHOD`.
    """
    request = inference_pb2.MultiInferenceRequest(input=to_input(rows.columns))
    for signature_name, method_name in tasks:
        task = request.tasks.add(model_spec=spec, method_name=method_name)
        task.model_spec.signature_name = signature_name
    return request


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
