"""Removal of JPEG artefacts with the convolutional autoencoder, or with another network of scale 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.network_stage import NetworkStage
from celebahq_builder.pipeline.stage import PhotoContext, Precision


@dataclass(frozen=True)
class DenoiseSettings:
    """The weights, and the tiles that pass through the network."""

    weights: str = "denoiser"
    """NAME in pretrained/registry.toml, DIR/NAME in another registry, or file:PATH of a network of scale 1; see
    docs/restoration.md."""
    tile_px: int = 512
    """Side length of the tiles; bounds the memory."""
    precision: Precision = "fp32"
    """Precision of the convolutions. ``bf16`` is faster on GPUs, and on CPUs with AVX512-BF16 or AMX."""

    def __post_init__(self) -> None:
        if self.tile_px < 32:
            raise ValueError(f"denoise.tile_px = {self.tile_px} must be at least 32")


class DenoiseStage(NetworkStage[DenoiseSettings]):
    """Remove compression artefacts; nothing but the pixels changes."""

    name = "denoise"

    version = 2
    new_settings = ("precision",)
    Settings = DenoiseSettings
    architecture = "autoencoder"
    example_title = "denoised"

    def run(self, faces: Sequence[Face], settings: DenoiseSettings, context: PhotoContext) -> list[Face]:
        """Return the faces without artefacts."""
        pixels = self.run_network(faces, settings, context)
        return [replace(face, pixels=own) for face, own in zip(faces, pixels, strict=True)]
