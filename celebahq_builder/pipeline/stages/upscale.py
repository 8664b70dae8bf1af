"""Super-resolution by the 4x network, or by another one, where the result has more pixels than the photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.network_stage import NetworkStage
from celebahq_builder.pipeline.stage import PhotoContext, Precision

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class UpscaleSettings:
    """The weights, and the faces that pass through the network."""

    weights: str = "upscaler-gan"
    """NAME in pretrained/registry.toml, DIR/NAME in another registry, or file:PATH of a network of scale 2 to 8; see
    docs/restoration.md."""
    when: Literal["needed", "always"] = "needed"
    """``needed``: only faces whose zoom is above `min_zoom`."""
    min_zoom: float = 1.0
    """Result px per px of the face, in each direction, at and below which the alignment alone enlarges the face."""
    tile_px: int = 256
    """Side length of the tiles in input px; bounds the memory."""
    precision: Precision = "fp32"
    """Precision of the convolutions. ``bf16`` is faster on GPUs, and on CPUs with AVX512-BF16 or AMX."""

    def __post_init__(self) -> None:
        if self.tile_px < 16:
            raise ValueError(f"upscale.tile_px = {self.tile_px} must be at least 16")
        if self.min_zoom < 1:
            raise ValueError(f"upscale.min_zoom = {self.min_zoom} must be at least 1")
        if self.when == "always" and self.min_zoom != 1:
            raise ValueError(
                f'upscale.min_zoom = {self.min_zoom} has no effect with when = "always"; set min_zoom = 1, or '
                'when = "needed"'
            )

    def selects(self, face: Face, resolution: int) -> bool:
        """Return True if a face passes the network, for a result of this side length in px."""
        return self.when == "always" or face.side * self.min_zoom < resolution


@dataclass(frozen=True)
class UpscaleRecord:
    """The enlargement of a face."""

    factor: int
    """Side length after the stage by that before it; 1 where nothing was done."""


class UpscaleStage(NetworkStage[UpscaleSettings]):
    """Enlarge small faces by the scale of the network; the alignment resamples what is missing beyond that."""

    name = "upscale"

    version = 3
    new_settings = ("precision", "min_zoom")
    Settings = UpscaleSettings
    Record = UpscaleRecord
    architecture = "srgan"
    example_title = "upscaled"

    def run(self, faces: Sequence[Face], settings: UpscaleSettings, context: PhotoContext) -> list[Face]:
        """Return the faces, the small ones enlarged."""
        small = [settings.selects(face, context.resolution) for face in faces]
        chosen = [face for face, is_small in zip(faces, small, strict=True) if is_small]
        pixels = self.run_network(chosen, settings, context)
        enlarged = iter([_enlarge(face, own) for face, own in zip(chosen, pixels, strict=True)])
        return [
            next(enlarged) if is_small else face.with_record(UpscaleRecord(1))
            for face, is_small in zip(faces, small, strict=True)
        ]


def _enlarge(face: Face, pixels: Tensor) -> Face:
    """Return the face with the network's pixels, and all lengths in them."""
    scale = pixels.shape[1] // face.pixels.shape[1]
    left, top, right, bottom = (scale * length for length in face.margin)
    enlarged = replace(face, pixels=pixels, quad=face.quad * scale, margin=(left, top, right, bottom))
    return enlarged.with_record(UpscaleRecord(scale))
