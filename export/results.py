"""What `PredictClient` gives back: plain Python and NumPy."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np


class Prediction(NamedTuple):
    """The answer for one text.

    Args:
        label: The most probable class.
        probabilities: Of each class, float32 (C,).
        logits: Unnormalised scores, float32 (C,).
    """

    label: str
    probabilities: np.ndarray
    logits: np.ndarray

    @property
    def score(self) -> float:
        """The label's probability."""
        return float(self.probabilities.max())


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """The answers for B texts: as columns, or one by one as `Prediction`.

    Args:
        labels: The most probable class of each text, B strings.
        probabilities: Float32 (B, C).
        logits: Float32 (B, C).
    """

    labels: list[str]
    probabilities: np.ndarray
    logits: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Prediction:
        return Prediction(self.labels[index], self.probabilities[index], self.logits[index])

    def __iter__(self) -> Iterator[Prediction]:
        return map(Prediction, self.labels, self.probabilities, self.logits)


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
