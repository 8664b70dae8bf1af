"""Small images for a page: JPEG files as data URIs, of results, of source photos, and of examples."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image, ImageOps

from celebahq_builder.image_set import photo_path
from celebahq_builder.imaging.geometry import centred_square
from celebahq_builder.imaging.image_io import decode_png, encode_jpeg, open_rgb, pil_to_array
from celebahq_builder.outcome import Rejection

PHOTO_PIXELS_MAX = 50_000_000
"""Photos of more pixels get no thumbnail: they would hold a page up for seconds each."""

PHOTO_BYTES_MAX = 100_000_000
"""Files of more bytes are not even opened for one."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in sides of the image."""


@dataclass(frozen=True)
class Thumbnail:
    """A small image that travels inside the page."""

    uri: str
    width_px: int
    height_px: int


def of_result(path: Path, side_px: int) -> Thumbnail | None:
    """Return a thumbnail of a PNG in the run directory, fitted into `side_px`; None if it cannot be read."""
    try:
        pixels = decode_png(path.read_bytes())
    except (OSError, ValueError):
        return None
    return _fitted(Image.fromarray(pixels.transpose(1, 2, 0)), side_px)


def of_spectrum(path: Path, side_px: int) -> Thumbnail | None:
    """Return the power spectrum of a PNG in the run directory as an image; None if it cannot be read."""
    import torch  # seconds, for pages that may show no spectrum

    from celebahq_builder.imaging.quality_score import spectrum_image

    try:
        pixels = decode_png(path.read_bytes())
    except (OSError, ValueError):
        return None
    grey = Image.fromarray(spectrum_image(torch.from_numpy(pixels), side_px))
    return _coded(grey.convert("RGB"), quality=82)


def of_photo(folder: Path, file: str, side_px: int) -> Thumbnail | None:
    """Return a thumbnail of a source photo, fitted into `side_px`; None if it is gone or cannot be decoded.

    Names that lead out of the folder are not followed.
    """
    name = PurePosixPath(file)
    if name.is_absolute() or ".." in name.parts:
        return None
    try:
        image = _opened(photo_path(folder, file))
    except OSError:  # a name that the file system refuses
        return None
    return _fitted(image, side_px) if image else None


def of_image(path: Path, side_px: int) -> Thumbnail | None:
    """Return a thumbnail of any image, fitted into `side_px`; None if it is gone or cannot be decoded."""
    image = _opened(path)
    return _fitted(image, side_px) if image else None


def of_centre(path: Path, side_px: int) -> Thumbnail | None:
    """Return a thumbnail of the centred square of any image, upright; None if it is gone or cannot be decoded."""
    image = _opened(path)
    if image is None:
        return None
    left, top, side = centred_square(image.width, image.height)
    square = image.crop((left, top, left + side, top + side))
    square.info = image.info  # with its EXIF data, where the orientation is
    return _fitted(ImageOps.exif_transpose(square), side_px)


def of_example(path: Path, side_px: int, detail: Box) -> tuple[Thumbnail, Thumbnail] | None:
    """Return an example image fitted into `side_px`, and a detail of it pixel by pixel; None if it cannot be read."""
    image = _opened(path)
    if image is None:
        return None
    sides = (image.width, image.height, image.width, image.height)
    left, top, right, bottom = (round(share * side) for share, side in zip(detail, sides, strict=True))
    return _fitted(image, side_px), _coded(image.crop((left, top, right, bottom)), quality=90)


def _opened(path: Path) -> Image.Image | None:
    try:
        if not path.is_file() or path.stat().st_size > PHOTO_BYTES_MAX:
            return None
        return open_rgb(path.read_bytes(), PHOTO_PIXELS_MAX)[0]
    except (OSError, ValueError, Rejection):
        return None


def _fitted(image: Image.Image, side_px: int) -> Thumbnail:
    small = image.copy()
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return _coded(small, quality=82)


def _coded(image: Image.Image, quality: int) -> Thumbnail:
    data = base64.b64encode(encode_jpeg(pil_to_array(image), quality)).decode("ascii")
    return Thumbnail(f"data:image/jpeg;base64,{data}", image.width, image.height)
