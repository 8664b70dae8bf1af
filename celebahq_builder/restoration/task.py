"""Settings and data that the trainings of all restoration networks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from celebahq_builder.image_set import Pixels
from celebahq_builder.restoration.photos import FaceSettings, TrainingPhotos
from celebahq_builder.training.distributed import DistributedContext
from celebahq_builder.training.interface import Task


class RestorationBatch(NamedTuple):
    """This process's share of the data of a step. Everything random is drawn with it, ahead of the step."""

    inputs: Tensor | None
    """Images, uint8 [N, H, W, 3]; None: the targets, downscaled by 4 on the training device."""
    targets: Tensor
    """Images, uint8 [N, H, W, 3]."""
    positions: Sequence[Tensor] = ()
    """Patches of the texture loss; see `metrics.texture.draw_quarter_patches`."""
    directions: Tensor | None = None
    """Directions of the texture loss, float32 [147, K]."""

    def copy_to_device(self, context: DistributedContext) -> RestorationBatch:
        """Return the batch on the device of a training; the host does not wait for the copies."""
        copy = context.copy_to_device
        return RestorationBatch(
            self.inputs if self.inputs is None else copy(self.inputs),
            copy(self.targets),
            [copy(one) for one in self.positions],
            self.directions if self.directions is None else copy(self.directions),
        )


PIXELS_MAX = 1 << 24
"""Pixels of all input patches of a step: 64 patches of 512x512. The bundled recipes have up to 163,840."""

SAMPLES = 4
"""Number of held-out photos that are shown as sample images."""

SAMPLE_PX = 192
"""Width and height of a sample image."""


@dataclass(frozen=True)
class Phase:
    """A part of a training with one patch size."""

    steps: int
    patch_px: int
    """Width and height of the network's input patches."""
    batch: int
    """Patches per step, over all processes."""


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """Settings that all trainings have."""

    phases: tuple[Phase, ...]
    start: str = ""
    """Weights to start from, NAME or DIR/NAME of a registry; empty for random weights."""
    seed: int = 0
    ema: float = 0.999
    """Decay per step of the averaged weights. The averaged weights are validated and exported."""
    faces: FaceSettings = field(default_factory=FaceSettings)
    """Faces in the photos, and their share of the crops."""
    held_out: int = 8
    """Number of photos for validation."""
    validate_every: int = 500
    """Steps between validations. Each validation writes a checkpoint."""
    bf16: bool = True
    """Compute convolutions in bfloat16; weights and losses stay float32. This doubles the speed on GPUs, and on CPUs
    that support it."""
    compiled: bool = True
    """Compile the networks on CUDA devices. On a CPU they are never compiled."""

    def __post_init__(self) -> None:
        if not self.phases or min(min(p.steps, p.batch) for p in self.phases) < 1:
            raise ValueError("phases must name at least one phase of one step and one patch")
        if any(p.patch_px % 16 or p.patch_px < 16 for p in self.phases):
            raise ValueError("patch_px must be a multiple of 16 in every phase")
        if (pixels := max(p.batch * p.patch_px**2 for p in self.phases)) > PIXELS_MAX:
            raise ValueError(f"the patches of a step have {pixels:,} pixels, at most {PIXELS_MAX:,} in every phase")
        if self.validate_every < 1 or self.held_out < 1 or self.seed < 0:
            raise ValueError("validate_every and held_out must be at least 1, and seed at least 0")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema = {self.ema} must be in [0, 1)")

    @property
    def steps(self) -> int:
        """Total number of steps."""
        return sum(p.steps for p in self.phases)

    @property
    def largest_patch_px(self) -> int:
        """Largest patch of any phase."""
        return max(p.patch_px for p in self.phases)

    def phase_at(self, step: int) -> Phase:
        """Return the phase of a step; steps count from 0."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]


class RestorationTask(Task[RestorationBatch]):
    """The training of a restoration network."""

    Recipe: ClassVar[type[TrainingRecipe]]
    recipe: TrainingRecipe
    photos: TrainingPhotos

    def sample_crops(self) -> list[Pixels]:
        """Return the crops of the held-out photos that are shown as sample images, uint8 [SAMPLE_PX, SAMPLE_PX, 3]."""
        crops = self.photos.validation_crops[:SAMPLES]
        return [crop[:SAMPLE_PX, :SAMPLE_PX] for crop in crops if min(crop.shape[:2]) >= SAMPLE_PX]


def adam(network: nn.Module, learning_rate: float, beta1: float) -> torch.optim.Adam:
    """Return Adam for all parameters of a network; on CUDA devices it updates them with one kernel."""
    fused = next(network.parameters()).device.type == "cuda"
    return torch.optim.Adam(network.parameters(), lr=learning_rate, betas=(beta1, 0.99), fused=fused)
