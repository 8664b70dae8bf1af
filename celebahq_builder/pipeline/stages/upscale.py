"""Restore detail with the 4x super-resolution network where the result has more pixels than the photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from celebahq_builder.imaging.tiles import run_tiled_all
from celebahq_builder.models.srgan import SRGenerator
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.networks import network

VERSION = 2


@dataclass(frozen=True)
class UpscaleSettings:
    """Which weights, and when they are needed."""

    weights: str = "upscaler-gan"
    """NAME in pretrained/registry.toml, or DIR/NAME in another registry."""
    when: Literal["needed", "always"] = "needed"
    """``needed``: only where the crop has fewer pixels than the result."""
    tile_px: int = 256
    """Side of the tiles in input px; bounds the memory."""

    def __post_init__(self) -> None:
        if self.tile_px < 16:
            raise ValueError(f"upscale.tile_px = {self.tile_px} must be at least 16")


def apply(face: Face, settings: UpscaleSettings, resolution: int) -> Face:
    """Return the face at four times its size, or as it is where that is enough; records ``upscaled``, the factor.

    Where four times is not enough either, the resampling to the result does the rest.
    """
    return apply_all([face], settings, resolution)[0]


def apply_all(faces: Sequence[Face], settings: UpscaleSettings, resolution: int, batch: int = 1) -> list[Face]:
    """Return what `apply` makes of faces, all on one device; `batch` windows pass the network together."""
    small = [settings.when == "always" or face.side < resolution for face in faces]
    grown = iter(_grow([face for face, is_small in zip(faces, small, strict=True) if is_small], settings, batch))
    return [next(grown) if is_small else face.noted(upscaled=1) for face, is_small in zip(faces, small, strict=True)]


def _grow(faces: Sequence[Face], settings: UpscaleSettings, batch: int) -> list[Face]:
    if not faces:
        return []
    net = network(settings.weights, faces[0].pixels.device, "srgan")
    pixels = run_tiled_all(
        net,
        [face.pixels for face in faces],
        scale=SRGenerator.SCALE,
        tile_px=settings.tile_px,
        context_px=net.context_px,
        stride_px=net.STRIDE_PX,
        batch=batch,
    )
    return [_enlarged(face, own) for face, own in zip(faces, pixels, strict=True)]


def _enlarged(face: Face, pixels: Tensor) -> Face:
    """Return the face with its pixels at the generator's scale, and all lengths in them."""
    scale = SRGenerator.SCALE
    left, top, right, bottom = (scale * m for m in face.margin)
    grown = replace(face, pixels=pixels, quad=face.quad * scale, margin=(left, top, right, bottom))
    return grown.noted(upscaled=scale)
