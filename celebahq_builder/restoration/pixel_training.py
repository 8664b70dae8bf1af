"""Training of the restoration networks with a pixel loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from celebahq_builder.config import to_mapping
from celebahq_builder.errors import TrainingError
from celebahq_builder.metrics.fidelity import psnr, psnr_y
from celebahq_builder.models.registry import NetworkShape, find_entry, load_network
from celebahq_builder.restoration.degradation import DegradationSettings, apply_jpeg, clean_crop_px, degraded_pair
from celebahq_builder.restoration.loop import Phase, Phased, Rows, Scores, Task
from celebahq_builder.restoration.photos import PhotoFolder, Pixels, downscale_4x, to_pixels, to_tensor, validation_crop
from celebahq_builder.training.distributed import World

VALIDATION_QUALITIES = (10, 20, 40, 60, 80, 90)
"""JPEG qualities at which a denoiser is validated."""

SAMPLE_QUALITY = 20
"""JPEG quality of the sample images."""

SAMPLES, SAMPLE_PX = 4, 192
"""Sample images: how many of the held-out photos, and the side of their corner that is shown."""

PSNR_MAX_DB = 99.0
"""What an exact result counts as: its PSNR is infinite, and would be the mean of any others."""

ROUNDING_MSE = 1 / 12 / 255**2
"""Mean squared error of rounding to 8 bits, in [0, 1]: an error below it is not worth learning from."""

Pair = tuple[list[Pixels], list[Pixels]]
"""Damaged images and the clean ones they should become; damaged ones are absent where an upscaler is trained."""


@dataclass(frozen=True)
class PixelRecipe(Phased):
    """Everything that decides the weights, apart from the photos."""

    task: Literal["denoise", "upscale"]
    net: NetworkShape
    phases: tuple[Phase, ...]
    start: str = ""
    """Weights to go on from, by name in the registry or as DIR/NAME; empty: fresh ones."""
    loss: Literal["l1", "rmse"] = "l1"
    """`l1`: mean absolute error. `rmse`: mean over the images of each one's root mean squared error, which is
    nearer to PSNR and weighs every image alike, however hard it was compressed."""
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
    compiled: bool = True
    """Compile the network on CUDA; on a CPU it never is."""
    degradation: DegradationSettings = field(default_factory=DegradationSettings)

    def __post_init__(self) -> None:
        self.check()
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate = {self.learning_rate} must be positive")
        wanted = "autoencoder" if self.task == "denoise" else "srgan"
        if self.net.architecture != wanted:
            raise ValueError(f"task = {self.task} trains an {wanted}, net.architecture is {self.net.architecture}")

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step: a short linear warm-up, then a cosine to zero."""
        warm = min(1.0, (step + 1) / 200)
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


class PixelTask(Task):
    """A denoiser or an upscaler that learns from pairs of images.

    Raises:
        TrainingError: unusable photos, or weights to start from that are of another network.
    """

    losses = ("loss",)

    def __init__(self, recipe: PixelRecipe, photos: Path, world: World) -> None:
        self.recipe: PixelRecipe = recipe
        self.world, self.shape = world, recipe.net
        need = max(_clean_px(recipe, p) for p in recipe.phases)
        self.photos = PhotoFolder.read(photos, held_out=recipe.held_out, at_least_px=need)
        self.identity = to_mapping(recipe)
        if recipe.start:
            known = find_entry(recipe.start)
            if known.shape != recipe.net:
                raise TrainingError(f"start = {recipe.start} is {known.shape}, the recipe's net is {recipe.net}")
            self.identity["start_sha256"] = known.sha256
        self.net = network(recipe.net, recipe.start, recipe.seed, world.device)
        self.adam = torch.optim.Adam(self.net.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99))
        self.nets = {"net": (self.net, self.adam)}
        self.forward = torch.compile(self.net) if recipe.compiled and world.device.type == "cuda" else self.net

    def draw(self, step: int) -> Pair:
        """Return this process' pairs of a step."""
        recipe, phase = self.recipe, self.recipe.phase_at(step)
        side = _clean_px(recipe, phase)
        damaged, clean = [], []
        for i in self.world.share(phase.batch):
            rng = np.random.default_rng((recipe.seed, step, i))
            if recipe.task == "upscale":
                clean.append(self.photos.crop(rng, side))
                continue
            # Pairs are scaled down within already; a second reduction would leave no texture to learn from.
            crop = self.photos.crop(rng, side, largest_shrink=1.0)
            pair = degraded_pair(crop, phase.patch_px, recipe.degradation, rng)
            damaged.append(pair[0])
            clean.append(pair[1])
        return damaged, clean

    def update(self, step: int, drawn: Pair) -> Tensor:
        """Update the network once."""
        device = self.world.device
        clean = to_tensor(drawn[1], device)
        damaged = to_tensor(drawn[0], device) if drawn[0] else downscale_4x(clean)
        for group in self.adam.param_groups:
            group["lr"] = self.recipe.rate_at(step)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.recipe.bf16):
            restored = self.forward(damaged)
        loss = self._loss(restored.float(), clean)
        self.adam.zero_grad(set_to_none=True)
        (loss * (len(clean) / self.recipe.phase_at(step).batch)).backward()  # type: ignore[no-untyped-call]
        self.world.sum_gradients(self.net)
        nn.utils.clip_grad_norm_(self.net.parameters(), 0.5)
        self.adam.step()
        return loss.detach()[None]

    def _loss(self, restored: Tensor, clean: Tensor) -> Tensor:
        if self.recipe.loss == "l1":
            return F.l1_loss(restored, clean)
        squared = (restored - clean).square().mean(dim=(1, 2, 3))
        return (squared + ROUNDING_MSE).sqrt().mean()

    def merit(self, scores: Scores) -> float:
        """Return the first score: the mean gain, or the luma's PSNR."""
        return next(iter(scores.values()))

    @torch.inference_mode()
    def validate(self, net: nn.Module) -> tuple[Scores, Rows]:
        """Return the mean gain over the qualities and at each of them, or the luma's PSNR; and images."""
        device = self.world.device
        corners = [validation_crop(p) for p in self.photos.held_out]
        truths = [to_tensor([c], device) for c in corners]
        samples = [c[:SAMPLE_PX, :SAMPLE_PX] for c in corners[:SAMPLES] if min(c.shape[:2]) >= SAMPLE_PX]
        rows = [self._sample(net, s) for s in samples]
        if self.recipe.task == "upscale":
            pairs = [(_restored(net, downscale_4x(t)), t[0] * 255) for t in truths]
            return {"psnr_y_db": _mean([min(psnr_y(a, b), PSNR_MAX_DB) for a, b in pairs])}, rows
        gains = {}
        for quality in VALIDATION_QUALITIES:
            damaged = [to_tensor([apply_jpeg(c, quality)], device) for c in corners]
            gains[f"gain_q{quality}_db"] = _mean(
                [
                    min(psnr(_restored(net, d), t[0] * 255), PSNR_MAX_DB)
                    - min(psnr(d[0] * 255, t[0] * 255), PSNR_MAX_DB)
                    for d, t in zip(damaged, truths, strict=True)
                ]
            )
        return {"gain_mean_db": _mean(list(gains.values())), **gains}, rows

    def _sample(self, net: nn.Module, clean: Pixels) -> list[Pixels]:
        """Return what goes in, what comes out, and what should."""
        if self.recipe.task == "denoise":
            damaged = apply_jpeg(np.ascontiguousarray(clean), SAMPLE_QUALITY)
            return [damaged, *to_pixels(net(to_tensor([damaged], self.world.device))), clean]
        return upscaled_sample(net, clean, self.world.device)


def upscaled_sample(net: nn.Module, clean: Pixels, device: torch.device) -> list[Pixels]:
    """Return an image reduced and enlarged by bicubic filters, by the network, and as it was."""
    low = downscale_4x(to_tensor([clean], device))
    return [*to_pixels(F.interpolate(low, scale_factor=4, mode="bicubic")), *to_pixels(net(low)), clean]


def network(shape: NetworkShape, start: str, seed: int, device: torch.device) -> nn.Module:
    """Return the network to train: of the weights named `start`, or fresh; in channels-last layout."""
    if start:
        return load_network(start, device).requires_grad_(True).train()
    torch.manual_seed(seed)
    return shape.build().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _clean_px(recipe: PixelRecipe, phase: Phase) -> int:
    return clean_crop_px(phase.patch_px) if recipe.task == "denoise" else 4 * phase.patch_px


def _restored(net: nn.Module, image: Tensor) -> Tensor:
    return net(image).mul(255).round().clamp(0, 255)[0]  # type: ignore[no-any-return]


def _mean(values: list[float]) -> float:
    return round(float(np.mean(values)), 4)
