"""Adversarial training of the upscaler: a discriminator and its features take the place of the pixel loss.

Ledig et al. 2017 (SRGAN) measure likeness in the features of VGG; no weights of such a network come with this project,
so the discriminator's own features serve instead (Larsen et al. 2016; Wang et al. 2018, pix2pixHD).
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
from celebahq_builder.imaging.fidelity import psnr_y, spectrum_error_db
from celebahq_builder.nets.srgan import Discriminator
from celebahq_builder.pretrained import entry, load
from celebahq_builder.recipe import to_mapping
from celebahq_builder.training.checkpoint import Checkpoint
from celebahq_builder.training.degradation import MCU_PX, jpeg
from celebahq_builder.training.phases import Phase, Phased
from celebahq_builder.training.photos import PhotoFolder, Pixels
from celebahq_builder.training.restoration import corner, shrink4, to_tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChainSettings:
    """How often and how hard the inputs are compressed and denoised first, as they are in a build."""

    share: float = 0.5
    """Share of batches whose inputs went through a JPEG and the denoiser."""
    weights: str = "denoiser"
    """Name of the denoiser in the registry."""
    quality_min: int = 40
    quality_max: int = 95


@dataclass(frozen=True)
class AdversarialRecipe(Phased):
    """Everything that decides the weights, apart from the photos and the weights it starts from."""

    task: Literal["upscale-adversarially"]
    start: str
    """Name in the registry of the upscaler to start from: one trained for pixel accuracy."""
    phases: tuple[Phase, ...]
    learning_rate: float = 1e-4
    """Of the generator; falls to a tenth along a cosine."""
    discriminator_rate: float = 4e-4
    """Of the discriminator; constant."""
    pixel_weight: float = 1.0
    """Of the mean absolute error."""
    feature_weight: float = 1.0
    """Of the mean absolute difference of the discriminator's features."""
    adversarial_weight: float = 0.02
    """Of the hinge loss."""
    ema: float = 0.999
    seed: int = 0
    held_out: int = 8
    validate_every: int = 500
    bf16: bool = True
    chain: ChainSettings = field(default_factory=ChainSettings)

    def __post_init__(self) -> None:
        if not self.phases or min(min(p.steps, p.batch, p.patch_px) for p in self.phases) < 1:
            raise ValueError("phases must name at least one phase of one step and one patch")
        if self.validate_every < 1 or self.held_out < 1:
            raise ValueError("validate_every and held_out must be at least 1")

    def rate_at(self, step: int) -> float:
        """Return the generator's learning rate at a step."""
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * step / self.steps)))


def train_adversarially(
    recipe: AdversarialRecipe, photos: Path, out: Path, device: torch.device, threads: int = 1
) -> Path:
    """Train an upscaler against a discriminator, going on from a checkpoint in `out` if there is one.

    Returns:
        Path of ``weights.safetensors``: the averaged weights whose power spectra are nearest to the photographs'.

    Raises:
        TrainingError: unusable photos, a checkpoint of another recipe, or a loss that exploded.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(0)
    out.mkdir(parents=True, exist_ok=True)
    folder = PhotoFolder.read(photos, held_out=recipe.held_out, at_least_px=4 * max(p.patch_px for p in recipe.phases))
    torch.manual_seed(recipe.seed)
    generator = load(recipe.start, device).requires_grad_(True).train()
    denoiser = load(recipe.chain.weights, device)
    discriminator = Discriminator().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    g_adam = torch.optim.Adam(generator.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99))
    d_adam = torch.optim.Adam(discriminator.parameters(), lr=recipe.discriminator_rate, betas=(0.5, 0.99))
    nets = {"net": (generator, g_adam), "discriminator": (discriminator, d_adam)}
    identity = {**to_mapping(recipe), "start_sha256": entry(recipe.start).sha256}
    state = Checkpoint.open(out, nets, identity)
    began, first, losses = time.monotonic(), state.step, []
    for step in range(state.step, recipe.steps):
        low, high = _batch(recipe, folder, denoiser, step, device)
        for group in g_adam.param_groups:
            group["lr"] = recipe.rate_at(step)
        losses.append(_step(recipe, generator, discriminator, g_adam, d_adam, low, high))
        state.average(min(recipe.ema, (1 + step) / (10 + step)))
        if (step + 1) % recipe.validate_every == 0 or step + 1 == recipe.steps:
            means = torch.stack(losses).mean(dim=0).tolist()
            if not all(map(math.isfinite, means)):
                raise TrainingError(f"{out}: the losses are {means} at step {step + 1}; lower learning_rate")
            named = dict(zip(("pixel", "feature", "adversarial", "discriminator"), means, strict=True))
            scores = _validate(state.averaged, folder.held_out, device)
            per_s = (step + 1 - first) / (time.monotonic() - began)
            line = {"step": step + 1, **named, "steps_per_s": round(per_s, 3), **scores}
            log.info("step %d of %d: %s", step + 1, recipe.steps, json.dumps(line))
            state.save(step + 1, score=-scores["spectrum_error_db"], line=line)
            losses = []
    return state.best_path


def _step(
    recipe: AdversarialRecipe,
    generator: nn.Module,
    discriminator: nn.Module,
    g_adam: torch.optim.Adam,
    d_adam: torch.optim.Adam,
    low: Tensor,
    high: Tensor,
) -> Tensor:
    """Update both networks once; return the four losses."""
    with torch.autocast(high.device.type, torch.bfloat16, enabled=recipe.bf16):
        fake = generator(low).float()
        discriminator.requires_grad_(False)
        judged, fake_features = discriminator(fake)
        with torch.no_grad():
            _, real_features = discriminator(high)
    pixel = F.l1_loss(fake, high)
    pairs = list(zip(fake_features, real_features, strict=True))
    feature = torch.stack([F.l1_loss(f.float(), r.float()) for f, r in pairs]).mean()
    adversarial = -judged.float().mean()
    loss = recipe.pixel_weight * pixel + recipe.feature_weight * feature + recipe.adversarial_weight * adversarial
    g_adam.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(generator.parameters(), 0.5)
    g_adam.step()
    discriminator.requires_grad_(True)
    with torch.autocast(high.device.type, torch.bfloat16, enabled=recipe.bf16):
        real_logits, _ = discriminator(high)
        fake_logits, _ = discriminator(fake.detach())
    hinge = F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean()
    d_adam.zero_grad(set_to_none=True)
    hinge.backward()  # type: ignore[no-untyped-call]
    d_adam.step()
    return torch.stack([pixel, feature, adversarial, hinge]).detach()


def _batch(
    recipe: AdversarialRecipe, folder: PhotoFolder, denoiser: nn.Module, step: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, float [N, 3, H, W] in [0, 1]."""
    rng = np.random.default_rng((recipe.seed, step))
    phase = recipe.phase_at(step)
    high = to_tensor([folder.crop(rng, 4 * phase.patch_px) for _ in range(phase.batch)], device)
    low = shrink4(high)
    if rng.random() >= recipe.chain.share or phase.patch_px % MCU_PX:
        return low, high
    qualities = rng.integers(recipe.chain.quality_min, recipe.chain.quality_max + 1, size=phase.batch)
    pixels = low.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    pairs = zip(pixels, qualities, strict=True)
    damaged = to_tensor([jpeg(np.ascontiguousarray(p), int(q)) for p, q in pairs], device)
    with torch.no_grad():
        return denoiser(damaged).mul(255).round_().clamp_(0, 255).div_(255), high


@torch.inference_mode()
def _validate(net: nn.Module, held_out: Sequence[Pixels], device: torch.device) -> dict[str, float]:
    """Return mean scores over the held-out photos."""
    scores, errors = [], []
    for photo in held_out:
        truth = to_tensor([corner(photo)], device)
        result = net(shrink4(truth)).mul(255).round().clamp(0, 255)[0]
        scores.append(psnr_y(result, truth[0] * 255))
        errors.append(spectrum_error_db(result, truth[0] * 255))
    return {
        "psnr_y_db": round(float(np.mean(scores)), 4),
        "spectrum_error_db": round(float(np.mean(errors)), 4),
    }
