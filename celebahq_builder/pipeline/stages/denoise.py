"""Remove JPEG artefacts with the convolutional autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from celebahq_builder.imaging.tiles import run_tiled_all
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.networks import network

VERSION = 2


@dataclass(frozen=True)
class DenoiseSettings:
    """Which weights, and in what portions the photo passes through them."""

    weights: str = "denoiser"
    """NAME in pretrained/registry.toml, or DIR/NAME in another registry."""
    tile_px: int = 512
    """Side of the tiles; bounds the memory."""

    def __post_init__(self) -> None:
        if self.tile_px < 32:
            raise ValueError(f"denoise.tile_px = {self.tile_px} must be at least 32")


def apply(face: Face, settings: DenoiseSettings) -> Face:
    """Return the face without compression artefacts; nothing else changes."""
    return apply_all([face], settings)[0]


def apply_all(faces: Sequence[Face], settings: DenoiseSettings, batch: int = 1) -> list[Face]:
    """Return faces, all on one device, without compression artefacts; `batch` windows pass the network together."""
    if not faces:
        return []
    net = network(settings.weights, faces[0].pixels.device, "autoencoder")
    pixels = run_tiled_all(
        net,
        [face.pixels for face in faces],
        scale=1,
        tile_px=settings.tile_px,
        context_px=net.context_px,
        stride_px=net.STRIDE_PX,
        batch=batch,
    )
    return [replace(face, pixels=own) for face, own in zip(faces, pixels, strict=True)]
