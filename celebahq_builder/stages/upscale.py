"""Restore detail with the 4x super-resolution network where the result has more pixels than the photo."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from celebahq_builder.imaging.tiles import run_tiled
from celebahq_builder.nets.srgan import Generator
from celebahq_builder.stages.face import Face
from celebahq_builder.stages.networks import network

VERSION = 1


@dataclass(frozen=True)
class Settings:
    """Which weights, and when they are needed."""

    weights: str = "upscaler-psnr"
    """Name in pretrained/registry.toml."""
    when: Literal["needed", "always"] = "needed"
    """``needed``: only where the crop has fewer pixels than the result."""
    tile_px: int = 256
    """Side of the tiles in input px; bounds the memory."""

    def __post_init__(self) -> None:
        if self.tile_px < 16:
            raise ValueError(f"upscale.tile_px = {self.tile_px} must be at least 16")


def apply(face: Face, settings: Settings, resolution: int) -> Face:
    """Return the face at four times its size, or as it is where that is enough; records ``upscaled``, the factor.

    Where four times is not enough either, the resampling to the result does the rest.
    """
    if settings.when == "needed" and face.side >= resolution:
        return face.noted(upscaled=1)
    net = network(settings.weights, face.pixels.device, "srgan")
    scale = Generator.SCALE
    pixels = run_tiled(
        net, face.pixels, scale=scale, tile_px=settings.tile_px, context_px=net.CONTEXT_PX, stride_px=net.STRIDE_PX
    )
    left, top, right, bottom = (scale * m for m in face.margin)
    grown = replace(face, pixels=pixels, quad=face.quad * scale, margin=(left, top, right, bottom))
    return grown.noted(upscaled=scale)
