"""Training of the two restoration networks: one loop, two kinds of training pairs.

Each step draws its batch from a generator seeded by (seed, step), so a run that was killed goes on from its
last checkpoint to the same weights, bit for bit on one machine's CPU, as one that was not.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from celebahq_builder.errors import TrainingError
from celebahq_builder.imaging.fidelity import psnr, psnr_y
from celebahq_builder.pretrained import Shape
from celebahq_builder.recipe import to_mapping
from celebahq_builder.training.checkpoint import Checkpoint
from celebahq_builder.training.degradation import DegradationSettings, compressed_pair, jpeg, source_px
from celebahq_builder.training.phases import Phase, Phased
from celebahq_builder.training.photos import PhotoFolder, Pixels

log = logging.getLogger(__name__)

VALIDATION_QUALITIES = (10, 20, 40, 60, 80, 90)
"""JPEG qualities at which a denoiser is validated; the lowest decides which weights are the best."""


PSNR_MAX_DB = 99.0
"""What an exact result counts as: its PSNR is infinite, and would be the mean of any others."""


@dataclass(frozen=True)
class RestorationRecipe(Phased):
    """Everything that decides the weights, apart from the photos."""

    task: Literal["denoise", "upscale"]
    net: Shape
    phases: tuple[Phase, ...]
    learning_rate: float = 5e-4
    """Adam's, at the start; falls to zero along a cosine."""
    ema: float = 0.999
    """Decay per step of the averaged weights, which are the ones validated and exported."""
    seed: int = 0
    held_out: int = 8
    """Photos kept for validation."""
    validate_every: int = 500
    """Steps between validations; each writes a checkpoint."""
    bf16: bool = True
    """Convolve in bfloat16 (weights and loss stay float32): twice the speed on CPUs that know it, and on GPUs."""
    degradation: DegradationSettings = field(default_factory=DegradationSettings)

    def __post_init__(self) -> None:
        if not self.phases or min(min(p.steps, p.batch) for p in self.phases) < 1:
            raise ValueError("phases must name at least one phase of one step and one patch")
        if any(p.patch_px % 16 or p.patch_px < 16 for p in self.phases):
            raise ValueError("patch_px must be a multiple of 16 in every phase")
        if self.validate_every < 1 or self.held_out < 1:
            raise ValueError("validate_every and held_out must be at least 1")
        if self.learning_rate <= 0 or not 0 <= self.ema < 1:
            raise ValueError(f"learning_rate = {self.learning_rate} must be positive, ema = {self.ema} in [0, 1)")
        wanted = "autoencoder" if self.task == "denoise" else "srgan"
        if self.net.architecture != wanted:
            raise ValueError(f"task = {self.task} trains an {wanted}, net.architecture is {self.net.architecture}")

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step: a short linear warm-up, then a cosine to zero."""
        warm = min(1.0, (step + 1) / 200)
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def train(recipe: RestorationRecipe, photos: Path, out: Path, device: torch.device, threads: int = 1) -> Path:
    """Train a restoration network, going on from a checkpoint in `out` if there is one.

    Returns:
        Path of ``weights.safetensors``: the averaged weights with the best validation.

    Raises:
        TrainingError: unusable photos, or a checkpoint of another recipe.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(0)
    out.mkdir(parents=True, exist_ok=True)
    need = max(_clean_px(recipe, p) for p in recipe.phases)
    folder = PhotoFolder.read(photos, held_out=recipe.held_out, at_least_px=need)
    log.info("%d photos to train on, %d held out", len(folder.training), len(folder.held_out))
    torch.manual_seed(recipe.seed)
    net = recipe.net.build().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(net.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99))
    state = Checkpoint.open(out, {"net": (net, optimiser)}, to_mapping(recipe))
    began, first, losses = time.monotonic(), state.step, []
    for step in range(state.step, recipe.steps):
        damaged, clean = _batch(recipe, folder, step, device)
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate_at(step)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            restored = net(damaged)
        loss = F.l1_loss(restored.float(), clean)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimiser.step()
        state.average(min(recipe.ema, (1 + step) / (10 + step)))
        losses.append(loss.detach())
        if (step + 1) % recipe.validate_every == 0 or step + 1 == recipe.steps:
            mean_loss = float(torch.stack(losses).mean())
            if not math.isfinite(mean_loss):
                raise TrainingError(f"{out}: the loss is {mean_loss} at step {step + 1}; lower learning_rate")
            scores = _validate(recipe, state.averaged, folder.held_out, device)
            per_s = (step + 1 - first) / (time.monotonic() - began)
            line = {"step": step + 1, "loss": mean_loss, "steps_per_s": round(per_s, 3), **scores}
            log.info("step %d of %d: %s", step + 1, recipe.steps, json.dumps(line))
            state.save(step + 1, score=next(iter(scores.values())), line=line)
            losses = []
    return state.best_path


def _clean_px(recipe: RestorationRecipe, phase: Phase) -> int:
    return source_px(phase.patch_px) if recipe.task == "denoise" else 4 * phase.patch_px


def _batch(recipe: RestorationRecipe, folder: PhotoFolder, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, float [N, 3, H, W] in [0, 1]."""
    rng = np.random.default_rng((recipe.seed, step))
    phase = recipe.phase_at(step)
    side = _clean_px(recipe, phase)
    # The denoiser shrinks within its pairs already; a second shrink by 2 would leave no texture to learn from.
    crops = [folder.crop(rng, side, 1.0 if recipe.task == "denoise" else 2.0) for _ in range(phase.batch)]
    if recipe.task == "upscale":
        clean = to_tensor(crops, device)
        return shrink4(clean), clean
    pairs = [compressed_pair(crop, phase.patch_px, recipe.degradation, rng) for crop in crops]
    return to_tensor([p[0] for p in pairs], device), to_tensor([p[1] for p in pairs], device)


def shrink4(photos: Tensor) -> Tensor:
    """Return photos at a quarter of their size by antialiased bicubic filtering, rounded to 8 bits.

    Shapes: float [N, 3, 4H, 4W] in [0, 1] -> [N, 3, H, W]. The filter is MATLAB's imresize (a = -0.5), which
    made the low-resolution images of the super-resolution benchmarks.
    """
    small = F.interpolate(photos, scale_factor=0.25, mode="bicubic", antialias=True, align_corners=False)
    return small.mul(255).round_().clamp_(0, 255).div_(255)


def to_tensor(pictures: Sequence[Pixels], device: torch.device) -> Tensor:
    """Return pictures uint8 [H, W, 3] of one size as a batch, float [N, 3, H, W] in [0, 1]."""
    stacked = torch.from_numpy(np.stack(pictures)).to(device)
    return stacked.permute(0, 3, 1, 2).float().div_(255)  # channels-last in memory, as the networks are


def corner(photo: Pixels, size_px: int = 384) -> Pixels:
    """Return a photo's top left corner, of sides that divide by 8: what is validated on."""
    height, width = (min(side, size_px) // 8 * 8 for side in photo.shape[:2])
    return np.ascontiguousarray(photo[:height, :width])


@torch.inference_mode()
def _validate(
    recipe: RestorationRecipe, net: nn.Module, held_out: Sequence[Pixels], device: torch.device
) -> dict[str, float]:
    """Return mean scores over the held-out photos; the first one decides which weights are the best."""

    def restore(picture: Tensor) -> Tensor:
        return net(picture).mul(255).round().clamp(0, 255)[0]  # type: ignore[no-any-return]

    centres = [corner(p) for p in held_out]
    truths = [to_tensor([c], device) for c in centres]
    if recipe.task == "upscale":
        pairs = [(restore(shrink4(t)), t[0] * 255) for t in truths]
        return {"psnr_y_db": round(float(np.mean([min(psnr_y(a, b), PSNR_MAX_DB) for a, b in pairs])), 4)}
    gains = {}
    for quality in VALIDATION_QUALITIES:
        damaged = [to_tensor([jpeg(c, quality)], device) for c in centres]
        gain = [
            min(psnr(restore(d), t[0] * 255), PSNR_MAX_DB) - min(psnr(d[0] * 255, t[0] * 255), PSNR_MAX_DB)
            for d, t in zip(damaged, truths, strict=True)
        ]
        gains[f"gain_q{quality}_db"] = round(float(np.mean(gain)), 4)
    return {"gain_mean_db": round(float(np.mean(list(gains.values()))), 4), **gains}
