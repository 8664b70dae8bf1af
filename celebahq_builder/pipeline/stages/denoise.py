"""Removal of JPEG artefacts with the convolutional autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from celebahq_builder.models.registry import find_entry
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.stage import BuildInputs, PhotoContext, PhotoStage, Precision


@dataclass(frozen=True)
class DenoiseSettings:
    """The weights, and the tiles that pass through the network."""

    weights: str = "denoiser"
    """NAME in pretrained/registry.toml, or DIR/NAME in another registry."""
    tile_px: int = 512
    """Side length of the tiles; bounds the memory."""
    precision: Precision = "fp32"
    """Precision of the convolutions. ``bf16`` is faster on GPUs, and on CPUs with AVX512-BF16 or AMX."""

    def __post_init__(self) -> None:
        if self.tile_px < 32:
            raise ValueError(f"denoise.tile_px = {self.tile_px} must be at least 32")


class DenoiseStage(PhotoStage[DenoiseSettings]):
    """Remove compression artefacts; nothing but the pixels changes."""

    name = "denoise"

    version = 2
    new_settings = ("precision",)
    Settings = DenoiseSettings
    grouped = True
    example_title = "denoised"

    def ingredients(self, settings: DenoiseSettings, inputs: BuildInputs) -> dict[str, str]:
        """Return the hash of the weights."""
        return {"weights_sha256": find_entry(settings.weights).sha256}

    def load(self, settings: DenoiseSettings) -> None:
        """Load the network.

        Raises:
            WeightsError: unknown or changed weights, or weights of another network.
        """
        import torch

        from celebahq_builder.pipeline.networks import network

        network(settings.weights, torch.device("cpu"), "autoencoder")

    def run(self, faces: Sequence[Face], settings: DenoiseSettings, context: PhotoContext) -> list[Face]:
        """Return the faces without artefacts."""
        from celebahq_builder.pipeline.networks import run_network

        pixels = run_network(faces, settings.weights, "autoencoder", 1, settings.tile_px, context, settings.precision)
        return [replace(face, pixels=own) for face, own in zip(faces, pixels, strict=True)]
