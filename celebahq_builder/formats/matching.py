"""Which pictures of two files belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.hdf5 import PyramidFile
from celebahq_builder.formats.metadata import read_text

By = Literal["id", "file", "position"]


@dataclass(frozen=True)
class Match:
    """Pairs of pictures, in the order of the first file, and those that have no partner."""

    by: By
    a: NDArray[np.int64]
    """Numbers in the first file."""
    b: NDArray[np.int64]
    """Numbers of their partners in the second."""
    only_a: tuple[str, ...]
    """Names, or numbers, of those that only the first file has."""
    only_b: tuple[str, ...]
    names: Sequence[str] | None
    """Of all pictures of the first file, where they are matched by them."""

    @property
    def moved(self) -> int:
        """How many pairs are at different places."""
        return int((self.a != self.b).sum())


def match(a: PyramidFile, b: PyramidFile, by: By | None = None) -> Match:
    """Pair the pictures of two files.

    Args:
        by: ``id`` or ``file``, the source file, or ``position``; default the first of these that both files have,
            with a different one for each picture, and some in common: other formats give pictures other names.

    Raises:
        FormatError: one of the files does not have what is asked for.
    """
    for column in ("id", "file"):
        if by in (None, column):
            names = read_text(a, column), read_text(b, column)
            common = not set(names[0] or []).isdisjoint(names[1] or [])
            if _usable(names[0]) and _usable(names[1]) and (common or by is not None):
                return _by_name("id" if column == "id" else "file", names[0] or [], names[1] or [])
            if by is not None:
                raise FormatError(
                    f"{a.path} and {b.path} cannot be matched by {column}: in "
                    f"{b.path if _usable(names[0]) else a.path} not every picture has its own; take --by position"
                )
    both = np.arange(min(a.count, b.count))
    only_a, only_b = range(len(both), a.count), range(len(both), b.count)
    return Match("position", both, both, tuple(map(str, only_a)), tuple(map(str, only_b)), None)


def _usable(names: list[str] | None) -> bool:
    return names is not None and len(set(names)) == len(names)


def _by_name(by: By, a: list[str], b: list[str]) -> Match:
    places = {name: number for number, name in enumerate(b)}
    pairs = [(number, places[name]) for number, name in enumerate(a) if name in places]
    found = np.array(pairs, np.int64).reshape(-1, 2)
    known = set(a)
    only_a = tuple(name for name in a if name not in places)
    only_b = tuple(name for name in b if name not in known)
    return Match(by, found[:, 0], found[:, 1], only_a, only_b, a)
