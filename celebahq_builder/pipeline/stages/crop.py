"""Plan the crop and cut the photo to what the crop needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from celebahq_builder.errors import SourceError
from celebahq_builder.image_set import photo_path
from celebahq_builder.imaging.geometry import Crop, bounding_box, crop_from_landmarks, share_inside
from celebahq_builder.imaging.image_io import open_rgb, pil_to_array
from celebahq_builder.outcome import Reason, Rejection
from celebahq_builder.pipeline.face import Face
from celebahq_builder.sources.photo import Photo
from celebahq_builder.storage import sha256

VERSION = 1

GRID_PX = 16
"""Cuts start on multiples of this, JPEG's largest block, so that the denoiser meets blocks where it expects them."""


@dataclass(frozen=True)
class CropSettings:
    """Which photos are good enough, and how much around the crop is taken along."""

    crop_min_px: int = 64
    """Smallest side of the crop, in photo px."""
    inside_min: float = 0.4
    """Smallest share of the crop that must lie inside the photo."""
    landmarks_outside_max: float = 0.0
    """How far landmarks may lie outside the photo, in sides of the crop."""
    pixels_max: int = 100_000_000
    """Photos of more pixels are not decoded; CelebA's largest has 60.5 million."""
    context_px: int = 48
    """Pixels around the crop and its border that the networks may look at."""

    def __post_init__(self) -> None:
        if not 0 <= self.inside_min <= 1:
            raise ValueError(f"region.inside_min = {self.inside_min} must be a share, 0 to 1")
        if self.crop_min_px < 1 or self.pixels_max < 1 or self.context_px < 0 or self.landmarks_outside_max < 0:
            raise ValueError("region: crop_min_px and pixels_max must be at least 1, the others at least 0")


@dataclass(frozen=True)
class Opened:
    """A photo that is good enough, and where its crop lies."""

    image: Image.Image
    """RGB."""
    crop: Crop
    record: dict[str, Any]


def cut(photo: Photo, folder: Path, settings: CropSettings, resolution: int, device: torch.device) -> Face:
    """Read a photo and return the region around its face.

    Records what `open_photo` does, but for ``shrink``: the integer factor by which the photo was reduced.
    """
    opened = open_photo(photo, folder, settings, resolution)
    image, crop = opened.image, opened.crop
    width, height = image.size
    shrink = max(1, int(0.5 / crop.zoom(resolution)))
    quad = crop.quad / shrink
    border = max(round(0.1 * crop.side / shrink), 3)
    size = np.array([width // shrink, height // shrink] * 2)
    inner = np.clip(bounding_box(quad, border), 0, size)
    outer = np.clip(bounding_box(quad, border + settings.context_px), 0, size)
    outer[:2] -= outer[:2] % GRID_PX
    region = torch.from_numpy(pil_to_array(image.crop(tuple((outer * shrink).tolist())))).to(device)
    if shrink > 1:
        region = F.avg_pool2d(region[None].float(), shrink)[0].round_().to(torch.uint8)
    margin = tuple(int(m) for m in np.abs(inner - outer))
    record = {**opened.record, "shrink": shrink}
    return Face(photo, region, quad - outer[:2], border, margin, record)  # type: ignore[arg-type]


def open_photo(photo: Photo, folder: Path, settings: CropSettings, resolution: int) -> Opened:
    """Read a photo and plan its crop.

    Records ``size`` (photo width and height in px), ``notes`` (what the decoder had to convert), ``quad`` (the
    crop in the photo, pixel-edge coordinates), ``zoom`` (result px per photo px), ``inside`` (share of the crop
    inside the photo), ``shrink`` (1) and ``source_sha256``.

    Raises:
        Rejection: the file, the image or the crop is not good enough.
        OSError: the file is there but cannot be read.
    """
    try:
        data = photo_path(folder, photo.file).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if not folder.is_dir():
            raise SourceError(
                f"the folder of photos {folder} is gone; bring it back and run the same command"
            ) from None
        raise Rejection(Reason.FILE_MISSING, f"{photo.file} is not in the folder of photos") from None
    image, notes = open_rgb(data, settings.pixels_max)
    width, height = image.size
    landmarks = np.asarray(photo.landmarks, dtype=np.float64).reshape(5, 2)
    crop = _plan(landmarks, width, height, settings)
    record = {
        "size": [width, height],
        "notes": list(notes),
        "quad": crop.quad.tolist(),
        "zoom": crop.zoom(resolution),
        "inside": share_inside(crop.quad, width, height),
        "shrink": 1,
        "source_sha256": sha256(data),
    }
    return Opened(image, crop, record)


def _plan(
    landmarks: np.ndarray[tuple[int, int], np.dtype[np.float64]], width: int, height: int, settings: CropSettings
) -> Crop:
    """Return the crop, or say why there is none."""
    try:
        crop = crop_from_landmarks(landmarks)
    except ValueError as error:
        raise Rejection(Reason.DEGENERATE_LANDMARKS, f"{error}; the crop is undefined") from None
    beyond = np.maximum(-0.5 - landmarks, landmarks - (width - 0.5, height - 0.5)).max()
    if beyond > settings.landmarks_outside_max * crop.side:
        raise Rejection(
            Reason.LANDMARKS_OUTSIDE, f"a landmark lies {beyond:.0f} px outside the photo of {width} x {height} px"
        )
    if crop.side < settings.crop_min_px:
        raise Rejection(
            Reason.CROP_TOO_SMALL, f"the crop is {crop.side:.0f} px wide; region.crop_min_px = {settings.crop_min_px}"
        )
    inside = share_inside(crop.quad, width, height)
    if inside < settings.inside_min:
        raise Rejection(
            Reason.CROP_OUTSIDE,
            f"{inside:.0%} of the crop is inside the photo; region.inside_min = {settings.inside_min}",
        )
    return crop
