"""The crop around a face: its position in the photo, checks of the photo, and the pixels that later stages need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celebahq_builder.imaging.geometry import Crop as CropGeometry
from celebahq_builder.imaging.geometry import bounding_box, plan_crop, share_inside
from celebahq_builder.imaging.image_io import crop_image, open_rgb, pil_to_array
from celebahq_builder.outcome import Reason, Rejection
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.stage import BuildInputs, PhotoContext, PhotoStage
from celebahq_builder.sources.photo import Photo, is_mirrored
from celebahq_builder.storage import sha256

GRID_PX = 16
"""Cuts start on multiples of JPEG's largest block, so that blocks begin at the edge of a cut, as in the training of the
denoiser."""


@dataclass(frozen=True)
class CropSettings:
    """Limits for photos, and the context around the crop."""

    crop_min_px: int = 64
    """Smallest side length of the crop, in photo px."""
    inside_min: float = 0.4
    """Smallest share of the crop that must lie inside the photo."""
    landmarks_outside_max: float = 0.0
    """Largest distance of a landmark outside the photo, in side lengths of the crop."""
    pixels_max: int = 100_000_000
    """Photos of more pixels are not decoded; CelebA's largest has 60.5 million."""
    context_px: int = 48
    """Pixels around the crop and its border that the networks may look at."""

    def __post_init__(self) -> None:
        if not 0 <= self.inside_min <= 1:
            raise ValueError(f"crop.inside_min = {self.inside_min} must be a share, 0 to 1")
        for name, least in (("crop_min_px", 1), ("pixels_max", 1), ("context_px", 0), ("landmarks_outside_max", 0)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"crop.{name} = {value} must be at least {least}")


@dataclass(frozen=True)
class CropRecord:
    """The crop in its photo."""

    size: tuple[int, int]
    """Width and height of the photo in px."""
    notes: tuple[str, ...]
    """Conversions by the decoder; see `imaging.image_io.open_rgb`."""
    quad: tuple[tuple[float, float], ...]
    """Corners of the crop in pixel-edge coordinates of the photo: top left, bottom left, bottom right, top right."""
    zoom: float
    """Result px per photo px."""
    inside: float
    """Share of the crop inside the photo."""
    shrink: int
    """Integer factor by which the photo was reduced."""
    source_sha256: str


class CropStage(PhotoStage[CropSettings]):
    """Plan the crop, and cut the photo to what the later stages need."""

    name = "crop"

    Settings = CropSettings
    Record = CropRecord
    reads_photo = True
    example_title = "photo"

    def ingredients(self, settings: CropSettings, inputs: BuildInputs) -> dict[str, int | str]:
        """Return the resolution."""
        return {"resolution": inputs.resolution}

    def run(self, faces: Sequence[Face], settings: CropSettings, context: PhotoContext) -> list[Face]:
        """Return the faces of photos that are read here; raises a Rejection for a file or a crop of no use."""
        return [crop_face(face, settings, context) for face in faces]


def crop_face(face: Face, settings: CropSettings, context: PhotoContext) -> Face:
    """Return the face with the pixels around its crop, reduced by a box filter where the photo is far too large."""
    import torch

    image, crop, record = open_photo(face.photo, settings, context)
    shrink = max(1, int(0.5 / record.zoom))
    quad = crop.quad / shrink
    border = max(round(0.1 * crop.side / shrink), 3)
    size = np.array([image.width // shrink, image.height // shrink] * 2)
    inner = np.clip(bounding_box(quad, border), 0, size)
    outer = np.clip(bounding_box(quad, border + settings.context_px), 0, size)
    outer[:2] -= outer[:2] % GRID_PX
    left, top, right, bottom = (outer * shrink).tolist()
    pixels = torch.from_numpy(pil_to_array(crop_image(image, (left, top, right, bottom)))).to(context.device)
    if shrink > 1:
        pixels = torch.nn.functional.avg_pool2d(pixels[None].float(), shrink)[0].round_().to(torch.uint8)
    left, top, right, bottom = np.abs(inner - outer).tolist()
    cut = replace(face, pixels=pixels, quad=quad - outer[:2], border=border, margin=(left, top, right, bottom))
    return cut.with_record(replace(record, shrink=shrink))


def open_photo(
    photo: Photo, settings: CropSettings, context: PhotoContext
) -> tuple[Image.Image, CropGeometry, CropRecord]:
    """Read a photo and plan its crop.

    Returns:
        The image (RGB), the crop in it, and the record with ``shrink`` 1.

    Raises:
        Rejection: the file, the image or the crop is not good enough.
        OSError: the file exists but cannot be read.
    """
    # A row of the official list is taken as it is: its image was made, whatever its landmarks say.
    if photo.listed is None and is_mirrored(photo.landmarks):
        raise Rejection(
            Reason.MIRRORED_LANDMARKS,
            "from the left to the right eye and on to the mouth must be a turn to the right; left and right, or x and "
            "y, are exchanged",
        )
    data = context.read_photo(photo)
    image, notes = open_rgb(data, settings.pixels_max)
    crop = plan_crop(
        photo.points,
        *image.size,
        crop_min_px=settings.crop_min_px,
        inside_min=settings.inside_min,
        landmarks_outside_max=settings.landmarks_outside_max,
    )
    record = CropRecord(
        size=image.size,
        notes=tuple(notes),
        quad=quad_corners(crop.quad),
        zoom=float(crop.zoom(context.resolution)),
        inside=float(share_inside(crop.quad, *image.size)),
        shrink=1,
        source_sha256=sha256(data),
    )
    return image, crop, record


def quad_corners(quad: NDArray[np.floating]) -> tuple[tuple[float, float], ...]:
    """Return the corners [4, 2] of a quad as plain floats."""
    return tuple((float(x), float(y)) for x, y in quad)
