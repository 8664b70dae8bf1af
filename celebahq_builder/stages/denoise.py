"""Remove JPEG artefacts with the convolutional autoencoder."""

from __future__ import annotations

from dataclasses import dataclass, replace

from celebahq_builder.imaging.tiles import run_tiled
from celebahq_builder.stages.face import Face
from celebahq_builder.stages.networks import network

VERSION = 1


@dataclass(frozen=True)
class Settings:
    """Which weights, and in what portions the photo passes through them."""

    weights: str = "denoiser"
    """Name in pretrained/registry.toml."""
    tile_px: int = 512
    """Side of the tiles; bounds the memory."""

    def __post_init__(self) -> None:
        if self.tile_px < 32:
            raise ValueError(f"denoise.tile_px = {self.tile_px} must be at least 32")


def apply(face: Face, settings: Settings) -> Face:
    """Return the face without compression artefacts; nothing else changes."""
    net = network(settings.weights, face.pixels.device, "autoencoder")
    pixels = run_tiled(
        net, face.pixels, scale=1, tile_px=settings.tile_px, context_px=net.CONTEXT_PX, stride_px=net.STRIDE_PX
    )
    return replace(face, pixels=pixels)
