"""What an audit found, and as JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.audit.borders import Bar
from celebahq_builder.audit.duplicates import Copy
from celebahq_builder.audit.padding import Padding
from celebahq_builder.formats.contact_sheet import Tile


@dataclass(frozen=True)
class Limits:
    """From where two pictures count as nearly the same."""

    distance: int
    """Most bits of 255 in which their hashes differ."""
    likeness: float
    """Their least correlation."""


@dataclass(frozen=True)
class Findings:
    """What an audit found in a file."""

    file: str
    count: int
    resolution: int
    channels: int
    limits: Limits
    hashes_recorded: bool
    """Whether pictures were taken for the same by the SHA-256 that the file has of them, without being read."""
    same: list[list[int]]
    """Groups of pictures that are the same in every byte."""
    near: list[list[Copy]] | None
    """Groups of pictures that are nearly the same, the first of each of `same` among them; None: too small to say."""
    bars: dict[int, list[Bar]] | None
    """By the picture's number; None: too small to say."""
    one_colour: list[int]
    padding: Padding | None
    scores: NDArray[np.float64] | None
    """[N], NaN where there is none."""
    tiles: dict[int, Tile]
    """Names and scores of the pictures named here."""

    @property
    def known_scores(self) -> NDArray[np.float64]:
        """The scores that there are."""
        scores = np.empty(0) if self.scores is None else self.scores
        return scores[np.isfinite(scores)]

    @property
    def same_extra(self) -> int:
        """Pictures that could go without losing one: all but the first of each group."""
        return sum(len(group) - 1 for group in self.same)

    @property
    def near_extra(self) -> int:
        """As `same_extra`, of pictures that are nearly the same."""
        return sum(len(group) - 1 for group in self.near or ())

    def mapping(self) -> dict[str, Any]:
        """Return all of it as JSON has it; pictures are their numbers, with what the file calls them."""
        return {
            "file": self.file,
            "pictures": self.count,
            "resolution": self.resolution,
            "channels": self.channels,
            "limits": dataclasses.asdict(self.limits),
            "same": [[self._named(number) for number in group] for group in self.same],
            "same_by": "recorded SHA-256" if self.hashes_recorded else "pixels",
            "near": None
            if self.near is None
            else [[self._named(copy.number) | _without_number(copy) for copy in group] for group in self.near],
            "bars": None
            if self.bars is None
            else [
                self._named(number) | {"bars": list(map(dataclasses.asdict, bars))}
                for number, bars in self.bars.items()
            ],
            "one_colour": list(map(self._named, self.one_colour)),
            "padding": self._padding(),
            "scores": self._scores(),
        }

    def _named(self, number: int) -> dict[str, Any]:
        tile = self.tiles[number]
        return {"number": number, "name": tile.name, "score": tile.score}

    def _padding(self) -> dict[str, Any] | None:
        if self.padding is None:
            return None
        shares = [None if np.isnan(share) else round(share, 4) for share in self.padding.shares.tolist()]
        return {"exact": self.padding.exact, "shares": shares}

    def _scores(self) -> dict[str, float] | None:
        known = self.known_scores
        if not len(known):
            return None
        low, middle, high = np.percentile(known, [0, 50, 100]).tolist()
        return {"pictures": len(known), "least": low, "median": middle, "greatest": high}


def _without_number(copy: Copy) -> dict[str, Any]:
    return {"distance": copy.distance, "likeness": copy.likeness, "mirrored": copy.mirrored}
