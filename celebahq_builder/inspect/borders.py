"""Bars along the edges of images, images of one colour, and padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.hdf5.reader import PyramidFile, read_numbers
from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.geometry import share_inside

# --- Bars and images of one colour ------------------------------------------------------------------------------

SIDE_PX = 256
"""Resolution of the level that is searched: the outermost line of a bar of 4 px at 1024 px fills one line here."""

SIDE_PX_MIN = 32
"""Resolution of the smallest images in which a bar can be distinguished from the image content."""

SPREAD_MAX = 4.0
"""Largest standard deviation along a line of a bar, and of its colour between lines; JPEG leaves 1 to 3."""

STEP_MIN = 24
"""Smallest difference between a bar and a pixel beyond it, in grey levels."""

SHARE_MIN = 0.5
"""Share of the line beyond a bar that must differ; from an even background to a head the share rises slowly."""

PURE_SHARE_MIN = {"black": 0.2, "white": 0.4}
"""`SHARE_MIN` for bars that are entirely black or white. Backgrounds hardly ever are, and dark clothes and hair differ
little from a black bar beside them. These values find 30 more bars in 1,000 photos; one of them looks doubtful."""

PURE_DIFFERENCE_MAX = 2
"""Largest mean difference of such a bar from black or white, in grey levels; JPEG leaves no more."""

PURE_LINES_MIN = 2
"""Smallest number of lines of such a bar."""

DARK, LIGHT = 24, 231
"""A bar is black if all channels are at most `DARK`, and white if all are at least `LIGHT`."""

ONE_COLOUR_RANGE_MAX = 8
"""Largest difference between the pixels of an image of one colour."""

EDGES = ("top", "bottom", "left", "right")


@dataclass(frozen=True)
class BorderBar:
    """A bar along an edge of an image."""

    edge: str
    """One of `EDGES`."""
    width: float
    """Width as a share of the side length of the image, a multiple of one line of the searched level."""
    colour: str
    """``black``, ``white`` or ``plain``."""


def suspects(pixels: Pixels) -> NDArray[np.bool_]:
    """Return for each image of [n, C, r, r] whether the outermost line at one of its edges is plain."""
    plain = np.zeros(len(pixels), bool)
    for edge in EDGES:
        line = _from_edge(pixels, edge)[:, :, 0].astype(np.float32)
        plain |= (line.std(axis=-1) <= SPREAD_MAX).all(axis=1)
    return plain


def bars(image: Pixels) -> list[BorderBar]:
    """Return the bars of an image [C, r, r]; an image that is plain from edge to edge has none."""
    found = []
    for edge in EDGES:
        lines = _from_edge(image[None], edge)[0].astype(np.float32)
        colours = lines.mean(axis=-1)
        plain = (lines.std(axis=-1) <= SPREAD_MAX) & (np.abs(colours - colours[:, :1]) <= SPREAD_MAX)
        ends = np.flatnonzero(~plain.all(axis=0))
        width = int(ends[0]) if len(ends) else 0
        if width and width + 1 < lines.shape[1]:
            beyond = lines[:, width + 1]  # not the next line, which may belong to the bar by half
            differs = (np.abs(beyond - colours[:, :1]) > STEP_MIN).any(axis=0)
            if differs.mean() >= _least_share(colours[:, :width]):
                first = colours[:, 0]
                colour = "black" if first.max() <= DARK else "white" if first.min() >= LIGHT else "plain"
                found.append(BorderBar(edge, width / lines.shape[1], colour))
    return found


def one_colour(image: Pixels) -> bool:
    """Return whether an image [C, r, r] has one colour, apart from traces of lossy compression."""
    flat = image.reshape(len(image), -1)
    return bool((flat.max(axis=1).astype(int) - flat.min(axis=1) <= ONE_COLOUR_RANGE_MAX).all())


def _from_edge(pixels: Pixels, edge: str) -> Pixels:
    """Return a view [n, C, lines, r] of images, with the lines parallel to an edge, the outermost line first."""
    lines = pixels if edge in ("top", "bottom") else pixels.swapaxes(2, 3)
    return lines if edge in ("top", "left") else lines[:, :, ::-1]


def _least_share(colours: NDArray[np.float32]) -> float:
    """Return the share of the line beyond a bar of colours [C, lines] that must differ."""
    if colours.shape[1] >= PURE_LINES_MIN:
        for colour, level in (("black", 0), ("white", 255)):
            if np.abs(colours - level).mean() <= PURE_DIFFERENCE_MAX:
                return PURE_SHARE_MIN[colour]
    return SHARE_MIN


# --- Padding ----------------------------------------------------------------------------------------------------

WORST = 24
"""Number of images with most padding that are named."""

BEYOND_PX = 1 << 30
"""Width and height of a photo of unknown size: larger than any."""


@dataclass(frozen=True)
class PaddingShare:
    """The share of each image, in [0, 1], that is padding."""

    shares: NDArray[np.float64]
    """[N], NaN if unknown."""
    exact: bool
    """False if the shares are lower bounds."""

    @property
    def known(self) -> NDArray[np.float64]:
        """The shares that are known."""
        return self.shares[np.isfinite(self.shares)]

    def worst(self) -> list[int]:
        """Return the numbers of at most `WORST` images with padding, most padding first."""
        shares = np.nan_to_num(self.shares)
        return [int(number) for number in np.argsort(-shares, kind="stable")[:WORST] if shares[number] > 0]


def read_padding(pyramid: PyramidFile) -> PaddingShare | None:
    """Return the padding of all images, or None without data about it.

    The column ``photos/inside`` has the share of the crop inside the photo. A file with only ``photos/quad``, the
    corners of the crop, gives a lower bound: the size of the photo is unknown, so only the area left of and above the
    photo is counted.

    Raises:
        FormatError: a column does not have one row per image.
    """
    inside = read_numbers(pyramid, "inside")
    if inside is not None and inside.ndim == 1:
        return PaddingShare(1 - inside, exact=True)
    quads = read_numbers(pyramid, "quad")
    if quads is None or quads.shape[1:] != (4, 2):
        return None
    shares = np.where(np.isfinite(quads).all(axis=(1, 2)), 0, np.nan)
    for number in np.flatnonzero((quads < 0).any(axis=(1, 2)) & np.isfinite(shares)):
        shares[number] = 1 - share_inside(quads[number], BEYOND_PX, BEYOND_PX)
    return PaddingShare(shares, exact=False)
