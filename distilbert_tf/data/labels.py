"""Labels as they are written in files, and which ones a column holds."""

import math
import re
from collections.abc import Iterable
from typing import SupportsIndex

from distilbert_tf.checkpoints.problem_types import MULTI_LABEL, REGRESSION

INTEGER = re.compile("-?[0-9]+")
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")  # how an integer is written once a column has become floats


def spellings(value: object) -> tuple[str, ...]:
    """Returns how a value may be written in `labels`, the likeliest first."""
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value)
        return (value, whole[1]) if whole else (value,)
    if isinstance(value, bool):
        return (str(value),)  # not 1
    if isinstance(value, SupportsIndex):  # as JSON and Parquet have
        return (str(value.__index__()),)
    if isinstance(value, float) and math.isfinite(value):
        return spellings(str(value))
    return ()


def read_number(value: object) -> float:
    """Reads a number, such as the label of a regression.

    Raises:
        ValueError: It is none, or not finite.
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no number")
    return number


def choose_labels(values: Iterable[tuple[object, object]]) -> tuple[str, ...]:
    """Finds the label names in a column.

    Args:
        values: Where each value stands, and the value; empty ones are no labels.

    Returns:
        The labels: numbers by size, others in the order of their characters.

    Raises:
        ValueError: There are fewer than two labels, or as good as one for each row; a row has
            several; or two of them differ in capitals or blanks alone.
    """
    places: dict[str, object] = {}
    rows = 0
    for place, value in values:
        if isinstance(value, Iterable) and not isinstance(value, str | bytes):
            raise ValueError(
                f"has several labels in a row (first in {place}), which is the problem_type "
                f"{MULTI_LABEL!r} (--problem_type)"
            )
        if written := spellings(value) if value != "" else ():
            places.setdefault(written[0], place)
            rows += 1
    numbers = {match[1] if (match := _WHOLE.fullmatch(label)) else label for label in places}
    if all(INTEGER.fullmatch(number) and str(int(number)) == number for number in numbers):
        return _checked(tuple(sorted(numbers, key=int)), rows)
    for label, place in places.items():
        parts = [part.strip() for part in label.split(";")]
        if len(parts) > 1 and places.keys() >= set(parts):
            raise ValueError(
                f"has the labels {label!r} together (first in {place}): several labels in a row "
                f"are the problem_type {MULTI_LABEL!r} (--problem_type)"
            )
    alike: dict[str, str] = {}
    for label, place in places.items():
        other = alike.setdefault(label.strip().casefold(), label)
        if other != label:
            raise ValueError(
                f"has the labels {other!r} (first in {places[other]}) and {label!r} (first in "
                f"{place}): write them alike, or list all labels (labels, --labels)"
            )
        if label != label.strip():
            raise ValueError(
                f"has blanks around the label {label!r} (first in {place}): did you mean "
                f"{label.strip()!r}? Take them out, or list all labels (labels, --labels)"
            )
    return _checked(tuple(sorted(places)), rows)


def _checked(labels: tuple[str, ...], rows: int) -> tuple[str, ...]:
    if len(labels) < 2:
        raise ValueError(f"has {labels[0]!r} as its only label" if labels else "has no labels")
    if len(labels) > max(20, rows // 5):
        raise ValueError(
            f"has {len(labels):,} different values in {rows:,} rows, such as "
            f"{labels[0][:60]!r} and {labels[1][:60]!r}: is that the column of the labels? If so, "
            "list them (labels, --labels). Numbers to predict are the problem_type "
            f"{REGRESSION!r} (--problem_type)"
        )
    return labels
