"""A histogram in lines of text, for terminals."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BARS = 20
"""At most; the limits are round numbers."""

WIDTH = 40
"""Characters of the longest bar."""


def histogram_lines(values: NDArray[np.float64]) -> Iterator[str]:
    """Yield a line per bin: its limits, how many values, and a bar; bins are 1, 2 or 5 times a power of ten wide.

    A value on a limit belongs to the bin above it. The bar of a bin that has any value has a character at least.

    Args:
        values: finite, at least one.
    """
    step, decimals = _step(float(values.max() - values.min()))
    bins = np.floor(np.round(values / step, 9)).astype(np.int64)  # 0.3 / 0.1 is less than 3
    first = int(bins.min())
    counts = np.bincount(bins - first)
    width = len(f"{(first + len(counts)) * step:.{decimals}f}")
    for i, count in enumerate(counts.tolist(), first):
        bar = "#" * max(round(WIDTH * count / int(counts.max())), min(count, 1))
        limits = f"{i * step:{width}.{decimals}f} to {(i + 1) * step:{width}.{decimals}f}"
        yield f"  {limits}  {count:{len(str(counts.max()))}}  {bar}".rstrip()


def _step(span: float) -> tuple[float, int]:
    """Return a round width so that `BARS` bins are enough, and the decimals its multiples need."""
    raw = max(span / (BARS - 1), 1e-6)
    power = math.floor(math.log10(raw))
    for factor in (1, 2, 5):
        if factor * 10.0**power >= raw * (1 - 1e-9):
            return factor * 10.0**power, max(-power, 0)
    return 10.0 ** (power + 1), max(-power - 1, 0)
