"""Alignment: padding where the crop leaves the photo, rotation, and resampling to the size of the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from celebahq_builder.imaging.geometry import bounding_box, plan_padding
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.stage import BuildInputs, PhotoContext, PhotoStage


@dataclass(frozen=True)
class AlignSettings:
    """Parameters of padding and resampling."""

    supersampling: int = 4
    """Bilinear samples per result pixel and direction, averaged by a box filter: 4096 for 1024 in the paper."""
    blur: float = 0.02
    """Standard deviation of the blur outside the photo, in side lengths of the crop."""

    def __post_init__(self) -> None:
        if not 1 <= self.supersampling <= 16:
            raise ValueError(f"align.supersampling = {self.supersampling} must be 1 to 16")
        if not 0 < self.blur <= 0.2:
            raise ValueError(f"align.blur = {self.blur} must be more than 0 and at most 0.2")


@dataclass(frozen=True)
class AlignRecord:
    """The padding of a face."""

    padded: bool
    """True if the crop left the photo, so that the photo was padded."""


class AlignStage(PhotoStage[AlignSettings]):
    """Turn the face upright, at the size of the result."""

    name = "align"

    Settings = AlignSettings
    Record = AlignRecord
    grouped = True
    example_title = "result"

    def ingredients(self, settings: AlignSettings, inputs: BuildInputs) -> dict[str, int]:
        """Return the resolution."""
        return {"resolution": inputs.resolution}

    def run(self, faces: Sequence[Face], settings: AlignSettings, context: PhotoContext) -> list[Face]:
        """Return upright faces, uint8 [3, R, R]."""
        return [align_face(face, settings, context.resolution) for face in faces]


def align_face(face: Face, settings: AlignSettings, resolution: int) -> Face:
    """Return one upright face, uint8 [3, resolution, resolution], with its `AlignRecord`."""
    from celebahq_builder.imaging.padding import pad_photo
    from celebahq_builder.imaging.warp import warp_quad

    # --- Cut off the context of the networks ---
    left, top, right, bottom = face.margin
    _, height, width = face.pixels.shape
    pixels = face.pixels[:, top : height - bottom, left : width - right]
    quad = face.quad - (left, top)

    # --- Pad where the crop leaves the photo ---
    padding = plan_padding(quad, pixels.shape[2], pixels.shape[1], face.border, round(0.3 * face.side))
    if padding is not None:
        size = pixels.shape[1] + padding.top + padding.bottom, pixels.shape[2] + padding.left + padding.right
        quad = quad + (padding.left, padding.top)
        left, top, right, bottom = bounding_box(quad, margin=2)  # bilinear sampling reads one pixel around
        box = (max(left, 0), max(top, 0), min(right, size[1]), min(bottom, size[0]))
        pixels = pad_photo(pixels, padding, settings.blur * face.side, box)
        quad = quad - box[:2]

    # --- Resample ---
    upright = warp_quad(pixels, quad, resolution, settings.supersampling)
    whole = np.array([[0, 0], [0, resolution], [resolution, resolution], [resolution, 0]], dtype=np.float64)
    aligned = replace(face, pixels=upright, quad=whole, margin=(0, 0, 0, 0))
    return aligned.with_record(AlignRecord(padded=padding is not None))
