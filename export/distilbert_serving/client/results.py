"""What the clients return: NumPy arrays and plain Python, as columns or row by row.

`to_dict` of a row and `to_list` of many make plain Python of it, ready for JSON. A row that the
server could not compute, which only clients that ask for such rows see, has NaN for numbers, "" for
strings, -1 for indices, and no tokens: `is_valid` tells.
"""

import abc
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

_Row = TypeVar("_Row", "Prediction", "Classification", "Embedding")


def is_valid(answer: Any) -> bool:
    """Says whether the server could compute a row.

    Args:
        answer: What any method of a client returns for one row.
    """
    if isinstance(answer, float):
        return not math.isnan(answer)
    if isinstance(answer, list):
        return all(map(is_valid, answer))
    if isinstance(answer, dict):
        return all(map(is_valid, answer.values()))
    return answer.is_valid


class _Columns(abc.ABC, Generic[_Row]):
    """Answers for B texts as columns, and row by row."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> _Row: ...

    def __iter__(self) -> Iterator[_Row]:
        return map(self.__getitem__, range(len(self)))

    def to_list(self) -> list[dict[str, Any]]:
        """Returns a dict of plain Python for each text."""
        return [row.to_dict() for row in self]


class Prediction(NamedTuple):
    """The answer for one text.

    Args:
        label: The most probable class.
        label_id: Its index among the classes.
        probabilities: Of each class, float32 (C,).
        logits: Unnormalised scores, float32 (C,).
    """

    label: str
    label_id: int
    probabilities: np.ndarray
    logits: np.ndarray

    @property
    def score(self) -> float:
        """The label's probability."""
        return float(self.probabilities.max())

    @property
    def is_valid(self) -> bool:
        """Whether the server could compute it."""
        return bool(_has_numbers(self.logits))

    def to_dict(self) -> dict[str, Any]:
        """Returns strings, numbers and lists by name."""
        return _plain(self._asdict())


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions(_Columns[Prediction]):
    """The answers for B texts: as columns, or one by one as `Prediction`.

    Args:
        labels: The most probable class of each text, B strings.
        label_ids: Their indices among the classes, int32 (B,).
        probabilities: Float32 (B, C).
        logits: Float32 (B, C).
    """

    labels: list[str]
    label_ids: np.ndarray
    probabilities: np.ndarray
    logits: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Prediction:
        return Prediction(
            self.labels[index],
            int(self.label_ids[index]),
            self.probabilities[index],
            self.logits[index],
        )

    @property
    def is_valid(self) -> np.ndarray:
        """Which rows the server could compute, bool (B,)."""
        return _has_numbers(self.logits)


class Classification(NamedTuple):
    """The answer of TF Serving's Classify for one text.

    Args:
        classes: The classes' names, C strings.
        scores: Of each class, float32 (C,).
    """

    classes: list[str]
    scores: np.ndarray

    @property
    def label(self) -> str:
        """The class with the highest score."""
        return self.classes[int(self.scores.argmax())]

    @property
    def score(self) -> float:
        """The highest score."""
        return float(self.scores.max())

    @property
    def is_valid(self) -> bool:
        """Whether the server could compute it."""
        return bool(_has_numbers(self.scores))

    def to_dict(self) -> dict[str, Any]:
        """Returns strings, numbers and lists by name."""
        return {"label": self.label, **_plain(self._asdict())}


@dataclasses.dataclass(frozen=True, eq=False)
class Classifications(_Columns[Classification]):
    """The answers of TF Serving's Classify for B texts.

    Args:
        classes: The classes' names, for each text C strings.
        scores: Float32 (B, C), in the order of `classes`.
    """

    classes: list[list[str]]
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> Classification:
        return Classification(self.classes[index], self.scores[index])

    @property
    def is_valid(self) -> np.ndarray:
        """Which rows the server could compute, bool (B,)."""
        return _has_numbers(self.scores)

    @property
    def labels(self) -> list[str]:
        """The class with the highest score, for each text."""
        return [row.label for row in self]


class Embedding(NamedTuple):
    """The vectors of one text.

    Args:
        cls: The last hidden state of [CLS], float32 (D,).
        mean: The mean of the last hidden states, float32 (D,).
    """

    cls: np.ndarray
    mean: np.ndarray

    @property
    def is_valid(self) -> bool:
        """Whether the server could compute it."""
        return bool(_has_numbers(self.mean))

    def to_dict(self) -> dict[str, Any]:
        """Returns lists by name."""
        return _plain(self._asdict())


@dataclasses.dataclass(frozen=True, eq=False)
class Embeddings(_Columns[Embedding]):
    """The vectors of B texts.

    Args:
        cls: The last hidden states of [CLS], float32 (B, D).
        mean: The means of the last hidden states, float32 (B, D).
    """

    cls: np.ndarray
    mean: np.ndarray

    def __len__(self) -> int:
        return len(self.cls)

    def __getitem__(self, index: int) -> Embedding:
        return Embedding(self.cls[index], self.mean[index])

    @property
    def is_valid(self) -> np.ndarray:
        """Which rows the server could compute, bool (B,)."""
        return _has_numbers(self.mean)


class TokenizedText(NamedTuple):
    """The tokens of one text, or pair of texts, without padding."""

    input_ids: list[int]
    attention_mask: list[int]
    tokens: list[str]

    @property
    def is_valid(self) -> bool:
        """Whether the server could compute it; if not, there are no tokens."""
        return bool(self.input_ids)

    def to_dict(self) -> dict[str, Any]:
        """Returns lists by name."""
        return self._asdict()


class MaskAnswer(NamedTuple):
    """A token that may stand where [MASK] is, and its probability."""

    token: str
    token_id: int
    score: float

    @property
    def is_valid(self) -> bool:
        """Whether the server could compute the text that it is for."""
        return not math.isnan(self.score)

    def to_dict(self) -> dict[str, Any]:
        """Returns string and numbers by name."""
        return self._asdict()


class TensorInfo(NamedTuple):
    """Type and shape of a signature's input or output.

    Args:
        dtype: TensorFlow's short name of the type, such as "string" or "float".
        shape: Sizes, None where any size will do; None for any shape at all.
    """

    dtype: str
    shape: tuple[int | None, ...] | None


@dataclasses.dataclass(frozen=True)
class SignatureInfo:
    """An endpoint's inputs and outputs by name."""

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]


@dataclasses.dataclass(frozen=True)
class ModelMetadata:
    """A model's name, the version that answered, and its endpoints by name."""

    name: str
    version: int
    signatures: Mapping[str, SignatureInfo]


class VersionStatus(NamedTuple):
    """The state of one version: "START", "LOADING", "AVAILABLE", "UNLOADING" or "END"."""

    version: int
    state: str
    error_message: str


def _has_numbers(array: np.ndarray) -> np.ndarray:
    """Says of each row, the last dimension, whether it is free of NaN."""
    return ~np.isnan(array).any(axis=-1)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in row.items()
    }
