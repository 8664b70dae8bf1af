"""The HTML page of a contact sheet: pictures of an HDF5 file, without scripts or links to elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.contact_sheet import CAPTION_TILE_PX, SHEET_PIXELS_MAX, Tile, shown_pictures, write_new
from celebahq_builder.formats.hdf5 import PyramidFile
from celebahq_builder.formats.pictures import Pixels
from celebahq_builder.formats.printable import printable
from celebahq_builder.formats.staging import check_free
from celebahq_builder.imaging.codec import encode_jpeg
from celebahq_builder.report import template
from celebahq_builder.report.template import render
from celebahq_builder.report.thumbnails import Thumbnail

QUALITY = 90
"""Of JPEG."""


@dataclass(frozen=True)
class Pictured:
    """A picture and what is said of it."""

    number: int
    name: str
    score: str
    thumbnail: Thumbnail


def write(
    path: Path,
    pyramid: PyramidFile,
    shown: Sequence[Tile],
    resolution: int,
    columns: int | None = None,
    captions: bool = True,
) -> None:
    """Write a page of some pictures, as they are at a level; equal contents make equal pages.

    Args:
        path: must not exist.
        resolution: of the level.
        columns: pictures in a row, which get smaller where the window is; None for as many as fit, 8 at most.
        captions: whether each has a line under it: its number in the file, name and score.

    Raises:
        FormatError: the file is there already or cannot be written, the pictures are too many for a page, or one
            cannot be read.
        DiskFull: no space left.
    """
    check_free(path)
    pyramid.check_resolution(resolution)
    if len(shown) * resolution**2 > SHEET_PIXELS_MAX:
        raise FormatError(
            f"{len(shown)} pictures of {resolution}x{resolution} are more than the {SHEET_PIXELS_MAX:,} px of a page; "
            "take a smaller --grid or --resolution"
        )
    pictures = [
        _pictured(tile, pixels) for tile, pixels in zip(shown, shown_pictures(pyramid, shown, resolution), strict=True)
    ]
    contents = {
        "file": printable(pyramid.path.name),
        "count": pyramid.count,
        "top": pyramid.resolution,
        "colour": "grey" if pyramid.channels == 1 else "RGB",
        "level": resolution,
        "pictures": pictures,
        "columns": columns,
        "column_px": max(resolution, CAPTION_TILE_PX),
        "captions": captions,
    }
    write_new(path, render(template.HOUSE, "contact.html.j2", contents))


def _pictured(tile: Tile, pixels: Pixels) -> Pictured:
    resolution = pixels.shape[-1]
    rgb = np.broadcast_to(pixels, (3, resolution, resolution))
    data = base64.b64encode(encode_jpeg(rgb, QUALITY)).decode("ascii")
    thumbnail = Thumbnail(f"data:image/jpeg;base64,{data}", resolution, resolution)
    return Pictured(tile.number, tile.name, tile.score_text, thumbnail)
