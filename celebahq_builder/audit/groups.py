"""Pictures that belong together, and which of them does not yet belong to which."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Groups:
    """Numbers 0 to N - 1, each a group of its own until groups are joined.

    Args:
        count: N.
    """

    def __init__(self, count: int) -> None:
        self._of = np.arange(count)

    def apart(self, some: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return for each pair of numbers whether they are in different groups."""
        return np.asarray(self._of[some] != self._of[others])

    def join(self, one: int, other: int) -> None:
        """Make the groups of two numbers one."""
        low, high = sorted((self._of[one], self._of[other]))
        self._of[self._of == high] = low

    def several(self) -> list[list[int]]:
        """Return the groups of more than one, in the order of their first numbers, which come in order too."""
        order = np.argsort(self._of, kind="stable")
        ends = np.flatnonzero(np.diff(self._of[order])) + 1
        return [part.tolist() for part in np.split(order, ends) if len(part) > 1]
