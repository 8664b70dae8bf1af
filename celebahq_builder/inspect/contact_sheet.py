"""Contact sheets of an HDF5 file, as an image or as an HTML page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.hdf5.metadata import read_numbers, read_text
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.html.page import render_page
from celebahq_builder.html.thumbnails import Thumbnail
from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.image_io import encode_jpeg
from celebahq_builder.progress import MOMENT_S, Progress
from celebahq_builder.storage import check_free, new_files

TILE_PX = 192
"""Side that images of a level chosen for them come next to."""

CAPTION_TILE_PX = 96
"""Smaller tiles are enlarged by a whole number to this, so that a caption fits under them."""

GAP_PX, MARGIN_PX = 4, 8

FONT_PX = 14

CAPTION_PX = 20
"""Height of the line under a tile."""

PAPER, INK = (255, 255, 255), (40, 40, 40)

SHEET_PIXELS_MAX = 200_000_000
"""A sheet takes three bytes of memory for each."""

SIDE_PX_MAX = 65_500
"""Of JPEG."""

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


@dataclass(frozen=True)
class Tile:
    """An image and what is said of it."""

    number: int
    name: str
    """Id or source file; empty where the file knows none."""
    score: float | None

    @property
    def caption(self) -> str:
        """Number, score and name, as far as the file knows them."""
        return "  ".join(filter(None, (str(self.number), self.score_text, self.name)))

    @property
    def score_text(self) -> str:
        """The score with three decimals, or nothing."""
        return "" if self.score is None else f"{self.score:.3f}"


def tiles(pyramid: PyramidFile, numbers: Sequence[int]) -> list[Tile]:
    """Return what a file knows of some images."""
    names = read_text(pyramid, "id") or read_text(pyramid, "file")
    scores = read_numbers(pyramid, "score")
    made = []
    for number in numbers:
        score = None if scores is None or not math.isfinite(scores[number]) else float(scores[number])
        made.append(Tile(number, printable(names[number]) if names else "", score))
    return made


def shown_images(pyramid: PyramidFile, shown: Sequence[Tile], resolution: int) -> Iterator[Pixels]:
    """Yield the images of some tiles, uint8 [C, r, r], and tell how far it is where they take more than moments."""
    progress = Progress("view", len(shown), unit="image", judged=False, silent_s=MOMENT_S)
    try:
        for tile in shown:
            yield pyramid.image(tile.number, resolution)
            progress.advance(1)
    finally:
        progress.close()


def level_for(pyramid: PyramidFile, side_px: int = TILE_PX) -> int:
    """Return the resolution of the level that is nearest to a side, by ratio; the larger of two."""
    return min(pyramid.resolutions, key=lambda r: (abs(math.log2(r / side_px)), -r))


def write_contact_sheet(
    path: Path, pyramid: PyramidFile, shown: Sequence[Tile], columns: int, resolution: int, captions: bool = True
) -> tuple[int, int]:
    """Write a sheet of some images, as they are at a level, in rows from the top left.

    Images of less than 96 px are enlarged by a whole number, pixel by pixel, where they have captions.

    Args:
        path: ends in .png, or .jpg (quality 90); must not exist.
        columns: images in a row.
        resolution: of the level.
        captions: whether each has a line under it: its number in the file, score and name.

    Returns:
        Width and height of the sheet, px.

    Raises:
        FormatError: the file is there already or cannot be written, the sheet would be too large, or an image
            cannot be read.
        DiskFull: no space left.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise FormatError(f"--out {path}: expected a name that ends in {', '.join(FORMATS)} or .html")
    check_free(path)
    pyramid.check_resolution(resolution)
    zoom = -(-CAPTION_TILE_PX // resolution) if captions else 1
    sheet = _Sheet(min(columns, len(shown)), -(-len(shown) // columns), resolution * zoom, CAPTION_PX * captions)
    buffer = io.BytesIO()
    drawn = sheet.drawn(pyramid, shown, resolution)
    drawn.save(buffer, kind, **({"quality": 90, "subsampling": 0} if kind == "JPEG" else {"compress_level": 6}))
    write_new(path, buffer.getvalue())
    return drawn.size


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet; of it and the folders made for it nothing is left after an error.

    Raises:
        FormatError: it cannot be written.
        DiskFull: no space left.
    """
    with new_files() as files:
        files.write(path, data)


@dataclass(frozen=True)
class _Sheet:
    """Where everything goes."""

    columns: int
    rows: int
    tile_px: int
    caption_px: int

    def _size(self) -> tuple[int, int]:
        width = 2 * MARGIN_PX + self.columns * (self.tile_px + GAP_PX) - GAP_PX
        height = 2 * MARGIN_PX + self.rows * (self.tile_px + self.caption_px + GAP_PX) - GAP_PX
        if max(width, height) > SIDE_PX_MAX or width * height > SHEET_PIXELS_MAX:
            raise FormatError(
                f"a sheet of {self.columns} x {self.rows} images of {self.tile_px} px would have {width} x {height} "
                f"px, more than {SHEET_PIXELS_MAX:,} in all or {SIDE_PX_MAX:,} a side; take a smaller --grid or "
                "--resolution"
            )
        return width, height

    def _places(self) -> Iterator[tuple[int, int]]:
        for row in range(self.rows):
            for column in range(self.columns):
                yield (
                    MARGIN_PX + column * (self.tile_px + GAP_PX),
                    MARGIN_PX + row * (self.tile_px + self.caption_px + GAP_PX),
                )

    def drawn(self, pyramid: PyramidFile, shown: Sequence[Tile], resolution: int) -> Image.Image:
        sheet = Image.new("RGB", self._size(), PAPER)
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
        images = shown_images(pyramid, shown, resolution)
        for pixels, tile, (left, top) in zip(images, shown, self._places(), strict=False):
            image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
            side = (self.tile_px, self.tile_px)
            sheet.paste(image if image.size == side else image.resize(side, Image.Resampling.NEAREST), (left, top))
            if self.caption_px:
                text = _fitting(draw, font, tile.caption, self.tile_px)
                draw.text((left + 1, top + self.tile_px + 1), text, INK, font)
        return sheet


def _fitting(
    draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, text: str, width_px: int
) -> str:
    """Return a text, its end left away where it would not fit."""
    if draw.textlength(text, font) <= width_px:
        return text
    while text and draw.textlength(text + "...", font) > width_px:
        text = text[:-1]
    return text + "..."


QUALITY = 90
"""Of JPEG."""


@dataclass(frozen=True)
class CaptionedImage:
    """An image and what is said of it."""

    number: int
    name: str
    score: str
    thumbnail: Thumbnail
    words: str = ""


def write_contact_page(
    path: Path,
    pyramid: PyramidFile,
    shown: Sequence[Tile],
    resolution: int,
    columns: int | None = None,
    captions: bool = True,
) -> None:
    """Write a page of some images, as they are at a level; equal contents make equal pages.

    Args:
        path: must not exist.
        resolution: of the level.
        columns: images in a row, which get smaller where the window is; None for as many as fit, 8 at most.
        captions: whether each has a line under it: its number in the file, name and score.

    Raises:
        FormatError: the file is there already or cannot be written, the images are too many for a page, or one
            cannot be read.
        DiskFull: no space left.
    """
    check_free(path)
    pyramid.check_resolution(resolution)
    if len(shown) * resolution**2 > SHEET_PIXELS_MAX:
        raise FormatError(
            f"{len(shown)} images of {resolution}x{resolution} are more than the {SHEET_PIXELS_MAX:,} px of a page; "
            "take a smaller --grid or --resolution"
        )
    images = [
        _imaged(tile, pixels) for tile, pixels in zip(shown, shown_images(pyramid, shown, resolution), strict=True)
    ]
    contents = {
        "file": printable(pyramid.path.name),
        "count": pyramid.count,
        "top": pyramid.resolution,
        "colour": "grey" if pyramid.channels == 1 else "RGB",
        "level": resolution,
        "images": images,
        "columns": columns,
        "column_px": max(resolution, CAPTION_TILE_PX),
        "captions": captions,
    }
    write_new(path, render_page("contact.html.j2", contents))


def _imaged(tile: Tile, pixels: Pixels) -> CaptionedImage:
    resolution = pixels.shape[-1]
    rgb = np.broadcast_to(pixels, (3, resolution, resolution))
    data = base64.b64encode(encode_jpeg(rgb, QUALITY)).decode("ascii")
    thumbnail = Thumbnail(f"data:image/jpeg;base64,{data}", resolution, resolution)
    return CaptionedImage(tile.number, tile.name, tile.score_text, thumbnail)
