"""Labels of pictures as other formats have them: one class number each where that tells all, else lists of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.pictures import Labels


def class_numbers(labels: Labels) -> NDArray[np.int64] | None:
    """Return the class of each row, int64 [N], or None where numbers would not tell all that the labels do.

    They do where each row is one-hot and the last class occurs: `one_hot` then gives the same labels back.
    """
    if not labels.size or labels.shape[1] < 2:
        return None
    numbers = labels.argmax(axis=1)
    return numbers.astype(np.int64) if np.array_equal(one_hot(numbers), labels) else None


def one_hot(numbers: NDArray[np.int64]) -> Labels:
    """Return float32 [N, classes] of class numbers int64 [N]; there are as many classes as the largest number says."""
    labels = np.zeros((len(numbers), int(numbers.max()) + 1), np.float32)
    labels[np.arange(len(numbers)), numbers] = 1
    return labels


def from_values(values: list[Any], where: Path) -> Labels:
    """Return the labels that JSON holds as one class number, or one list of numbers, per picture.

    Raises:
        FormatError: anything else, or lists of different lengths.
    """
    numbers = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    if values and len(numbers) == len(values) and min(numbers) >= 0 and max(numbers) < max(65536, len(values)):
        return one_hot(np.array(numbers, np.int64))
    try:
        with np.errstate(over="ignore"):  # what is too large is infinite, and refused below
            labels = np.array(values, np.float32)
    except (ValueError, TypeError, OverflowError):
        labels = np.zeros(0, np.float32)
    if labels.ndim != 2 or not labels.size or not np.isfinite(labels).all():
        raise FormatError(
            f"{where}: the labels are neither one class number (0, 1, ...) per picture nor one list of numbers of one "
            "length; mend or remove them"
        )
    return labels
