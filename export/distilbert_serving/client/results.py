"""What the clients return: NumPy arrays and plain Python, as columns or row by row.

`to_dict` of a row and `to_list` of many make plain Python of it, ready for JSON. A row that the
server could not compute, which only clients that ask for such rows see, has NaN for numbers, "" for
strings, -1 for indices, and no tokens: `is_valid` tells.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from distilbert_serving.signatures import SignatureInfo, TensorInfo
from distilbert_serving.version_status import VersionStatus

__all__ = [
    "Classification",
    "Classifications",
    "Embedding",
    "Embeddings",
    "MaskAnswer",
    "ModelMetadata",
    "Prediction",
    "Predictions",
    "SignatureInfo",
    "TensorInfo",
    "TokenizedText",
    "VersionStatus",
    "is_valid",
]

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


class _Columns(Generic[_Row]):
    """Answers for B texts as columns, and row by row; the last column is of numbers."""

    _row: ClassVar[Callable[..., Any]]

    @property
    def _columns(self) -> list[Any]:
        return list(vars(self).values())

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, index: int) -> _Row:
        values = [column[index] for column in self._columns]
        return self._row(*(int(v) if isinstance(v, np.integer) else v for v in values))

    def __iter__(self) -> Iterator[_Row]:
        return map(self.__getitem__, range(len(self)))

    @property
    def is_valid(self) -> np.ndarray:
        """Which rows the server could compute, bool (B,)."""
        return ~np.isnan(self._columns[-1]).any(axis=-1)

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
        return not np.isnan(self.logits).any()

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

    _row = Prediction

    labels: list[str]
    label_ids: np.ndarray
    probabilities: np.ndarray
    logits: np.ndarray


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
        return not np.isnan(self.scores).any()

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

    _row = Classification

    classes: list[list[str]]
    scores: np.ndarray

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
        return not np.isnan(self.mean).any()

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

    _row = Embedding

    cls: np.ndarray
    mean: np.ndarray


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


@dataclasses.dataclass(frozen=True)
class ModelMetadata:
    """A model's name, the version that answered, and its endpoints by name."""

    name: str
    version: int
    signatures: Mapping[str, SignatureInfo]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in row.items()
    }
