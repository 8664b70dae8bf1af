"""Contact sheets of images, as an image file or as an HTML page."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.hdf5.reader import read_numbers, read_text
from celebahq_builder.html import render_page
from celebahq_builder.html.thumbnails import Thumbnail, of_pixels
from celebahq_builder.image_set import ImagePyramid, Pixels
from celebahq_builder.imaging.image_grid import image_grid
from celebahq_builder.progress import image_progress
from celebahq_builder.storage import check_free, new_files

TILE_PX = 192
"""The default level is the one nearest to this resolution."""

MANY, SMALL_TILE_PX = 200, 96
"""With more than `MANY` images, the default level is the one nearest to `SMALL_TILE_PX`."""

IMAGES_MAX = 1000
"""Images that a sheet holds unless its grid is given."""

SHEET_PIXELS_MAX = 200_000_000
"""Largest sheet; it takes up to 12 bytes of memory per pixel."""

JPEG_QUALITY = 90


# --- Images with captions ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """An image of the file and its caption."""

    number: int
    name: str
    """Id or source file; empty if the file has neither."""
    score: float | None

    @property
    def caption(self) -> str:
        """Number, score and name, as far as the file has them."""
        return "  ".join(filter(None, (str(self.number), self.score_text, self.name)))

    @property
    def score_text(self) -> str:
        """The score with three decimals, or an empty text."""
        return "" if self.score is None else f"{self.score:.3f}"


@dataclass(frozen=True)
class PageImage:
    """An image on a page, with its caption."""

    tile: Tile
    thumbnail: Thumbnail
    words: str = ""
    """A remark about the image."""


def tiles(pyramid: ImagePyramid, numbers: Sequence[int]) -> list[Tile]:
    """Return names and scores of some images."""
    names = read_text(pyramid, "id") or read_text(pyramid, "file")
    scores = read_numbers(pyramid, "score")
    made = []
    for number in numbers:
        score = None if scores is None or not math.isfinite(scores[number]) else float(scores[number])
        made.append(Tile(number, printable(names[number]) if names else "", score))
    return made


def default_level(pyramid: ImagePyramid, shown: int) -> int:
    """Return the resolution of the level that is shown by default, for a number of images."""
    return level_for(pyramid, TILE_PX if shown <= MANY else SMALL_TILE_PX)


def level_for(pyramid: ImagePyramid, side_px: int) -> int:
    """Return the resolution of the level that is nearest to `side_px` by ratio; the larger one of two."""
    return min(pyramid.resolutions, key=lambda r: (abs(math.log2(r / side_px)), -r))


def _images(pyramid: ImagePyramid, shown: Sequence[Tile], resolution: int) -> Iterator[Pixels]:
    """Yield the images of some tiles, uint8 [C, r, r], and report the progress."""
    with image_progress("view", len(shown)) as progress:
        for tile in shown:
            yield pyramid.images(resolution)[tile.number]
            progress.advance(1)


# --- Image file -------------------------------------------------------------------------------------------------

CAPTION_TILE_PX = 96
"""With captions, smaller images are enlarged by a whole number to at least this side length."""

GAP_PX, MARGIN_PX, CAPTION_PX, FONT_PX = 4, 8, 20, 14

INK = (40, 40, 40)

SIDE_PX_MAX = 65_500
"""Largest width and height of a JPEG file."""

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def write_contact_sheet(
    path: Path, pyramid: ImagePyramid, shown: Sequence[Tile], columns: int, resolution: int, captions: bool = True
) -> tuple[int, int]:
    """Write an image file with some images in rows from the top left.

    Args:
        path: ends in .png or .jpg (quality 90); must not exist.
        columns: images in a row.
        captions: whether to write number, score and name below each image.

    Returns:
        Width and height of the sheet, px.

    Raises:
        FormatError: `path` exists or cannot be written, the sheet would be too large, or an image cannot be read.
        DiskFull: no space left.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise FormatError(f"`out` {path}: expected a name that ends in {', '.join(FORMATS)} or .html")
    check_free(path)
    pyramid.check_resolution(resolution)
    sheet = _draw_sheet(pyramid, shown, min(columns, len(shown)), resolution, captions)
    buffer = io.BytesIO()
    sheet.save(
        buffer, kind, **({"quality": JPEG_QUALITY, "subsampling": 0} if kind == "JPEG" else {"compress_level": 6})
    )
    with new_files() as files:
        files.write(path, buffer.getvalue())
    return sheet.size


def _draw_sheet(
    pyramid: ImagePyramid, shown: Sequence[Tile], columns: int, resolution: int, captions: bool
) -> Image.Image:
    side = resolution * (-(-CAPTION_TILE_PX // resolution) if captions else 1)
    rows = -(-len(shown) // columns)
    step_x, step_y = side + GAP_PX, side + CAPTION_PX * captions + GAP_PX
    width, height = 2 * MARGIN_PX + columns * step_x - GAP_PX, 2 * MARGIN_PX + rows * step_y - GAP_PX
    if max(width, height) > SIDE_PX_MAX or width * height > SHEET_PIXELS_MAX:
        raise FormatError(
            f"a sheet of {columns} x {rows} images of {side} px would have {width} x {height} px, more than "
            f"{SHEET_PIXELS_MAX:,} in all or {SIDE_PX_MAX:,} a side; take a smaller `grid` or `resolution`"
        )
    cells = (_cell(pixels, side, captions) for pixels in _images(pyramid, shown, resolution))
    grid = image_grid(cells, columns, rows, GAP_PX).transpose(1, 2, 0)
    sheet = Image.new("RGB", (width, height), "white")
    sheet.paste(Image.fromarray(grid[..., 0] if pyramid.channels == 1 else grid), (MARGIN_PX, MARGIN_PX))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    for place, tile in enumerate(shown if captions else ()):
        left, top = MARGIN_PX + place % columns * step_x, MARGIN_PX + place // columns * step_y
        text, cut = tile.caption, ""
        while text and draw.textlength(text + cut, font) > side:
            text, cut = text[:-1], "..."
        draw.text((left + 1, top + side + 1), text + cut, INK, font)
    return sheet


def _cell(pixels: Pixels, side: int, caption: bool) -> Pixels:
    """Return an image [C, r, r], enlarged to a multiple of r, above a white strip for its caption."""
    zoom = side // pixels.shape[1]
    large = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    return np.pad(large, ((0, 0), (0, CAPTION_PX * caption), (0, 0)), constant_values=255)


# --- HTML page --------------------------------------------------------------------------------------------------


def write_contact_page(
    path: Path,
    pyramid: ImagePyramid,
    shown: Sequence[Tile],
    resolution: int,
    columns: int | None = None,
    captions: bool = True,
) -> None:
    """Write an HTML page with some images inside; equal contents give equal bytes.

    Args:
        path: must not exist.
        columns: images in a row, scaled down in a narrow window. None: as many as fit into the window, at most 8.
        captions: whether to show number, name and score below each image.

    Raises:
        FormatError: `path` exists or cannot be written, there are too many pixels, or an image cannot be read.
        DiskFull: no space left.
    """
    check_free(path)
    pyramid.check_resolution(resolution)
    if len(shown) * resolution**2 > SHEET_PIXELS_MAX:
        raise FormatError(
            f"{len(shown)} images of {resolution}x{resolution} are more than the {SHEET_PIXELS_MAX:,} px of a page; "
            "take a smaller `grid` or `resolution`"
        )
    page = render_page(
        "contact.html.j2",
        {
            "file": printable("/".join(pyramid.path.resolve().parts[-2:])),
            "count": pyramid.count,
            "top": pyramid.resolution,
            "colour": "grey" if pyramid.channels == 1 else "RGB",
            "level": resolution,
            "images": [
                PageImage(tile, of_pixels(pixels, JPEG_QUALITY))
                for tile, pixels in zip(shown, _images(pyramid, shown, resolution), strict=True)
            ],
            "columns": columns,
            "column_px": max(resolution, CAPTION_TILE_PX),
            "captions": captions,
        },
    )
    with new_files() as files:
        files.write(path, page)
