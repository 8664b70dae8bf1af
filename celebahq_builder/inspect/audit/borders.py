"""Bars along the edges of images, such as those of a film in a frame of another shape, and images of one colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.image_set import Pixels

SIDE_PX = 256
"""Of the level that is searched: a bar of 1/256 of the side, 4 px of 1024, fills its outermost line."""

SIDE_PX_MIN = 32
"""Of the smallest images in which a bar is told from what is shown."""

SPREAD = 4.0
"""Largest standard deviation along a line of a bar, and of its colour from line to line; JPEG leaves 1 to 3."""

STEP = 24
"""Levels in which what lies beyond a bar differs from it."""

SHARE = 0.5
"""Of a line beyond the bar that must differ: an even background gives way to a head little by little."""

SURE_SHARE = {"black": 0.2, "white": 0.4}
"""As `SHARE`, where a bar is as dark or as light as can be from end to end, which hardly any background is: beside dark
clothes and hair little differs. In 1,000 photos 30 more bars are found so; looked at, one of them is in doubt."""

SURE = 2
"""Levels up to which the lines of such a bar are from black or white, on average; JPEG leaves no more."""

SURE_LINES = 2
"""Fewest of them."""

DARK, LIGHT = 24, 231
"""Levels up to which a bar counts as black, and from which as white."""

SAME = 8
"""Largest difference between pixels of an image of one colour."""

EDGES = ("top", "bottom", "left", "right")


@dataclass(frozen=True)
class BorderBar:
    """A bar along an edge of an image."""

    edge: str
    """One of `EDGES`."""
    width: float
    """Share of the image's side, a multiple of one line of the level that was searched."""
    colour: str
    """``black``, ``white`` or ``plain``."""


def suspects(pixels: Pixels) -> NDArray[np.bool_]:
    """Return for each of some images [n, C, r, r] whether a line at one of its edges is plain."""
    plain = np.zeros(len(pixels), bool)
    for edge in EDGES:
        line = _from_edge(pixels, edge)[:, :, 0].astype(np.float32)
        plain |= (line.std(axis=-1) <= SPREAD).all(axis=1)
    return plain


def bars(image: Pixels) -> list[BorderBar]:
    """Return the bars of an image [C, r, r]; none of an image that is plain from edge to edge."""
    found = []
    for edge in EDGES:
        lines = _from_edge(image[None], edge)[0].astype(np.float32)
        colours = lines.mean(axis=-1)
        plain = (lines.std(axis=-1) <= SPREAD) & (np.abs(colours - colours[:, :1]) <= SPREAD)
        ends = np.flatnonzero(~plain.all(axis=0))
        width = int(ends[0]) if len(ends) else 0
        if width and width + 1 < lines.shape[1]:
            beyond = lines[:, width + 1]  # the line between may be half of the bar
            differs = (np.abs(beyond - colours[:, :1]) > STEP).any(axis=0)
            if differs.mean() >= _least_share(colours[:, :width]):
                found.append(BorderBar(edge, width / lines.shape[1], _colour(colours[:, 0])))
    return found


def _least_share(lines: NDArray[np.float32]) -> float:
    """Return the share of the line beyond a bar that must differ, by the levels [C, lines] of the bar."""
    if lines.shape[1] >= SURE_LINES:
        for colour, level in (("black", 0), ("white", 255)):
            if np.abs(lines - level).mean() <= SURE:
                return SURE_SHARE[colour]
    return SHARE


def one_colour(image: Pixels) -> bool:
    """Return whether an image [C, r, r] is of one colour, but for what a lossy coding makes of that."""
    flat = image.reshape(len(image), -1)
    return bool((flat.max(axis=1).astype(int) - flat.min(axis=1) <= SAME).all())


def _from_edge(pixels: Pixels, edge: str) -> Pixels:
    """Return a view [n, C, lines, r] of images: lines along an edge, the outermost first."""
    lines = pixels if edge in ("top", "bottom") else pixels.swapaxes(2, 3)
    return lines if edge in ("top", "left") else lines[:, :, ::-1]


def _colour(levels: NDArray[np.float32]) -> str:
    if levels.max() <= DARK:
        return "black"
    return "white" if levels.min() >= LIGHT else "plain"
