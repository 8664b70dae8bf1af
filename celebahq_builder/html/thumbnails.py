"""Thumbnails for HTML pages: small JPEG images as data URIs."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from celebahq_builder.image_set import Pixels, photo_path
from celebahq_builder.imaging.geometry import centred_square
from celebahq_builder.imaging.image_io import crop_image, encode_jpeg, open_rgb, pil_to_array
from celebahq_builder.outcome import Rejection

PHOTO_PIXELS_MAX = 50_000_000
"""Photos of more pixels get no thumbnail, because each would take seconds."""

PHOTO_BYTES_MAX = 100_000_000
"""Files of more bytes are not opened."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge, as shares of the width or height of the image."""


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG image inside a page."""

    uri: str
    """A data URI."""
    width_px: int
    height_px: int


def of_pixels(pixels: Pixels, quality: int) -> Thumbnail:
    """Return an image as it is, uint8 [C, H, W] of 3 channels or 1, as JPEG of some quality, 1 to 100."""
    rgb = np.broadcast_to(pixels, (3, *pixels.shape[1:]))
    data = base64.b64encode(encode_jpeg(rgb, quality)).decode("ascii")
    return Thumbnail(f"data:image/jpeg;base64,{data}", rgb.shape[2], rgb.shape[1])


def of_spectrum(path: Path, side_px: int) -> Thumbnail | None:
    """Return the power spectrum of an image file as an image; None if it cannot be read."""
    import torch  # takes seconds, and most pages show no spectrum

    from celebahq_builder.imaging.quality_score import spectrum_image

    image = _open(path)
    if image is None:
        return None
    return of_pixels(spectrum_image(torch.from_numpy(pil_to_array(image)), side_px)[None], quality=82)


def of_photo(folder: Path, file: str, side_px: int) -> Thumbnail | None:
    """Return a thumbnail of a source photo, at most `side_px` wide and high.

    None if the photo is missing or cannot be decoded, and for a name that leads out of the folder.
    """
    image = _open_photo(folder, file)
    return _reduced(image, side_px) if image else None


def of_origin(
    folder: Path, file: str, quad: NDArray[np.floating], side_px: int, crop_max_px: int
) -> tuple[Thumbnail, Thumbnail, int] | None:
    """Return a thumbnail of a source photo, upright, and the crop of a face in it; None as `of_photo`.

    The crop is turned as the result is, but has no more pixels than in the photo, and is black outside of it.

    Args:
        quad: corners [4, 2] of the crop in pixel-edge coordinates of the photo as stored.
        side_px: largest width and height of the thumbnail.
        crop_max_px: largest side length of the crop.

    Returns:
        The two images, and the EXIF orientation of the photo, 1 to 8.
    """
    image = _open_photo(folder, file)
    if image is None:
        return None
    crop_px = float(np.hypot(*(quad[3] - quad[0])))
    side = min(max(round(crop_px), 1), crop_max_px)
    times = max(math.ceil(crop_px / side - 0.5), 1)  # a multiple of the side, then reduced: no aliasing
    crop = image.transform(
        (side * times, side * times), Image.Transform.QUAD, quad.ravel().tolist(), Image.Resampling.BILINEAR
    ).reduce(times)
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    upright = ImageOps.exif_transpose(image)
    return _reduced(upright, side_px), of_pixels(pil_to_array(crop), quality=85), orientation


def _open_photo(folder: Path, file: str) -> Image.Image | None:
    name = PurePosixPath(file)
    if name.is_absolute() or ".." in name.parts:
        return None
    try:
        return _open(photo_path(folder, file))
    except (OSError, ValueError):  # a name that the file system refuses
        return None


def of_image(path: Path, side_px: int) -> Thumbnail | None:
    """Return a thumbnail of an image file, at most `side_px` wide and high; None if it cannot be read."""
    image = _open(path)
    return _reduced(image, side_px) if image else None


def of_centre(path: Path, side_px: int) -> Thumbnail | None:
    """Return a thumbnail of the centred square of an image file, upright; None if it cannot be read."""
    image = _open(path)
    if image is None:
        return None
    left, top, side = centred_square(image.width, image.height)
    square = crop_image(image, (left, top, left + side, top + side))
    square.info = image.info  # has the EXIF data with the orientation
    return _reduced(ImageOps.exif_transpose(square), side_px)


def of_example(path: Path, side_px: int, detail: Box) -> tuple[Thumbnail, Thumbnail] | None:
    """Return a thumbnail of an image file, and a detail of it in full resolution; None if it cannot be read."""
    image = _open(path)
    if image is None:
        return None
    sides = (image.width, image.height, image.width, image.height)
    left, top, right, bottom = (round(share * side) for share, side in zip(detail, sides, strict=True))
    return _reduced(image, side_px), of_pixels(pil_to_array(crop_image(image, (left, top, right, bottom))), quality=90)


def _open(path: Path) -> Image.Image | None:
    try:
        if not path.is_file() or path.stat().st_size > PHOTO_BYTES_MAX:
            return None
        return open_rgb(path.read_bytes(), PHOTO_PIXELS_MAX)[0]
    except (OSError, ValueError, Rejection):
        return None


def _reduced(image: Image.Image, side_px: int) -> Thumbnail:
    small = image.copy()
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return of_pixels(pil_to_array(small), quality=82)
