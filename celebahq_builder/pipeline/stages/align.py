"""Pad the photo where the crop leaves it, turn the crop upright and bring it to the result's size."""

from __future__ import annotations

from dataclasses import dataclass, replace

from celebahq_builder.imaging.geometry import bounding_box
from celebahq_builder.imaging.padding import pad_photo, plan_padding
from celebahq_builder.imaging.warp import warp_quad
from celebahq_builder.pipeline.face import Face

VERSION = 1


@dataclass(frozen=True)
class AlignSettings:
    """How the crop is filled and resampled."""

    supersampling: int = 4
    """Bilinear samples per result pixel and direction, averaged by a box filter: 4096 for 1024 in the paper."""
    blur: float = 0.02
    """Standard deviation of the blur outside the photo, in sides of the crop."""

    def __post_init__(self) -> None:
        if not 1 <= self.supersampling <= 16:
            raise ValueError(f"align.supersampling = {self.supersampling} must be 1 to 16")
        if not 0 < self.blur <= 0.2:
            raise ValueError(f"align.blur = {self.blur} must be more than 0 and at most 0.2")


def apply(face: Face, settings: AlignSettings, resolution: int) -> Face:
    """Return the upright face [3, resolution, resolution]; records ``padded``, whether the crop left the photo."""
    left, top, right, bottom = face.margin
    _, height, width = face.pixels.shape
    pixels = face.pixels[:, top : height - bottom, left : width - right]
    quad = face.quad - (left, top)
    padding = plan_padding(quad, pixels.shape[2], pixels.shape[1], face.border, face.side)
    if padding is not None:
        size = pixels.shape[1] + padding.top + padding.bottom, pixels.shape[2] + padding.left + padding.right
        quad = quad + (padding.left, padding.top)
        left, top, right, bottom = bounding_box(quad, margin=2)  # bilinear sampling sees one pixel around
        box = (max(left, 0), max(top, 0), min(right, size[1]), min(bottom, size[0]))
        pixels = pad_photo(pixels, padding, settings.blur * face.side, box)
        quad = quad - box[:2]
    upright = warp_quad(pixels, quad, resolution, settings.supersampling)
    whole = quad * 0.0 + [[0, 0], [0, resolution], [resolution, resolution], [resolution, 0]]
    return replace(face, pixels=upright, quad=whole, margin=(0, 0, 0, 0)).noted(padded=padding is not None)
