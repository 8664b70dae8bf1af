"""Training of a denoiser or an upscaler with a pixel loss."""

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
from celebahq_builder.image_set import Pixels
from celebahq_builder.metrics.fidelity import block_profile, blocking_loss, psnr, psnr_y
from celebahq_builder.models.registry import NetworkShape
from celebahq_builder.restoration.degradation import DegradationSettings, apply_jpeg, clean_crop_px, degraded_pair
from celebahq_builder.restoration.photos import (
    TrainingPhotos,
    downscale_4x,
    stack_images,
    to_float,
    to_pixels,
    to_tensor,
)
from celebahq_builder.restoration.task import RestorationBatch, RestorationTask, TrainingRecipe, adam
from celebahq_builder.training.distributed import DistributedContext
from celebahq_builder.training.interface import SampleRows, Scores, initial_network, start_weights

VALIDATION_QUALITIES = (10, 20, 40, 60, 80, 90)
"""JPEG qualities at which a denoiser is validated."""

SAMPLE_QUALITY = 20
"""JPEG quality of a denoiser's sample images."""

PSNR_MAX_DB = 99.0
"""Upper bound of each PSNR. The PSNR of an exact result is infinite, and so would be every mean with it."""

ROUNDING_MSE = 1 / 12 / 255**2
"""Mean squared error of rounding to 8 bits, for values in [0, 1]. A smaller error is not worth learning from."""


@dataclass(frozen=True, kw_only=True)
class PixelRecipe(TrainingRecipe):
    """Settings of a training with a pixel loss."""

    task: Literal["denoise", "upscale"]
    net: NetworkShape
    loss: Literal["l1", "rmse"] = "l1"
    """`l1`: mean absolute error. `rmse`: root mean squared error of each image, averaged over the images. It is closer
    to PSNR, and all images weigh the same, however strongly they are compressed."""
    blocking_weight: float = 0.0
    """Weight of the blocks that a denoiser leaves in flat areas, per grey level; see `metrics.fidelity.blocking_loss`.
    A pixel loss alone leaves a part of them."""
    learning_rate: float = 5e-4
    """Learning rate of Adam: 200 steps of linear warm-up, then a cosine to zero."""
    degradation: DegradationSettings = field(default_factory=DegradationSettings)
    """Degradation of the inputs of a denoiser."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate = {self.learning_rate} must be positive")
        if self.blocking_weight < 0:
            raise ValueError(f"blocking_weight = {self.blocking_weight} must be at least 0")
        expected = "autoencoder" if self.task == "denoise" else "srgan"
        if self.net.architecture != expected:
            raise ValueError(f"task = {self.task} trains an {expected}, net.architecture is {self.net.architecture}")

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        warmup = min(1.0, (step + 1) / 200)
        return self.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def target_px(self, patch_px: int) -> int:
        """Return the width and height of the clean crop from which inputs of `patch_px` are made."""
        return clean_crop_px(patch_px) if self.task == "denoise" else 4 * patch_px


class PixelTask(RestorationTask):
    """A denoiser or an upscaler, trained on pairs of images.

    Raises:
        TrainingError: the photos cannot be used, or the weights to start from belong to a network of another shape.
    """

    Recipe = PixelRecipe
    loss_names = ("loss",)

    def __init__(self, recipe: PixelRecipe, photos: Path, context: DistributedContext) -> None:
        self.recipe: PixelRecipe = recipe
        self.context, self.shape = context, recipe.net
        at_least_px = recipe.target_px(recipe.largest_patch_px)
        self.photos = TrainingPhotos.read(photos, held_out=recipe.held_out, at_least_px=at_least_px, faces=recipe.faces)
        self.config = config = to_mapping(recipe)
        start = start_weights(recipe.start, recipe.net, config)
        self.network = initial_network(recipe.net, start, recipe.seed, context.device)
        self.adam = adam(self.network, recipe.learning_rate, 0.9)
        self.networks, self.optimizers = {"network": self.network}, {"network": self.adam}
        compiled = recipe.compiled and context.device.type == "cuda"
        self.forward = torch.compile(self.network) if compiled else self.network

    def draw_batch(self, step: int) -> RestorationBatch:
        """Return this process's share of the batch of a step; see `training.interface.Task`."""
        recipe, phase = self.recipe, self.recipe.phase_at(step)
        crop_px = recipe.target_px(phase.patch_px)
        inputs, targets = [], []
        for i in self.context.share(phase.batch):
            rng = np.random.default_rng((recipe.seed, step, i))
            if recipe.task == "upscale":
                targets.append(self.photos.crop(rng, crop_px))
                continue
            # The degradation scales images down itself. If the crop were shrunk too, little texture would be left.
            smooth_share = recipe.degradation.smooth_share
            if smooth_share and rng.random() < smooth_share:
                crop = self.photos.smooth_crop(rng, crop_px)
            else:
                crop = self.photos.crop(rng, crop_px, largest_shrink=1.0)
            degraded, clean = degraded_pair(crop, phase.patch_px, recipe.degradation, rng)
            inputs.append(degraded)
            targets.append(clean)
        return RestorationBatch(stack_images(inputs) if inputs else None, stack_images(targets))

    def training_step(self, step: int, batch: RestorationBatch) -> Tensor:
        """Update the network once; see `training.interface.Task`."""
        recipe, device = self.recipe, self.context.device
        batch = batch.copy_to_device(self.context)
        targets = to_float(batch.targets)
        inputs = downscale_4x(targets) if batch.inputs is None else to_float(batch.inputs)
        # --- Loss
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            restored = self.forward(inputs)
        loss = pixel_loss(restored.float(), targets, recipe.loss)
        if recipe.blocking_weight:
            loss = loss + recipe.blocking_weight * blocking_loss(block_profile(restored.float() * 255, targets * 255))
        # --- Gradients, summed over all processes
        self.adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss * (len(targets) / recipe.phase_at(step).batch))
        self.context.sum_gradients(self.network)
        nn.utils.clip_grad_norm_(self.network.parameters(), 0.5)
        # --- Update
        for group in self.adam.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        self.adam.step()
        return loss.detach()[None]

    @torch.inference_mode()
    def validate(self, net: nn.Module) -> tuple[Scores, SampleRows]:
        """Return the mean PSNR gain of a denoiser, over all qualities and at each, or an upscaler's luma PSNR."""
        device = self.context.device
        crops = self.photos.validation_crops
        targets = [to_tensor([crop], device) for crop in crops]
        if self.recipe.task == "upscale":
            rows = [upscaled_samples(net, crop, device) for crop in self.sample_crops()]
            pairs = [(_restored(net, downscale_4x(target)), target[0] * 255) for target in targets]
            return {"psnr_y_db": _mean([min(psnr_y(a, b), PSNR_MAX_DB) for a, b in pairs])}, rows
        gains = {}
        for quality in VALIDATION_QUALITIES:
            degraded = [to_tensor([apply_jpeg(crop, quality)], device) for crop in crops]
            gains[f"gain_q{quality}_db"] = _mean(
                [
                    min(psnr(_restored(net, image), target[0] * 255), PSNR_MAX_DB)
                    - min(psnr(image[0] * 255, target[0] * 255), PSNR_MAX_DB)
                    for image, target in zip(degraded, targets, strict=True)
                ]
            )
        rows = [self._denoised_samples(net, crop) for crop in self.sample_crops()]
        return {"gain_mean_db": _mean(list(gains.values())), **gains}, rows

    def _denoised_samples(self, net: nn.Module, crop: Pixels) -> list[Pixels]:
        """Return a crop after JPEG compression, the network's result, and the crop itself."""
        degraded = apply_jpeg(np.ascontiguousarray(crop), SAMPLE_QUALITY)
        return [degraded, *to_pixels(net(to_tensor([degraded], self.context.device))), crop]

    def selection_score(self, scores: Scores) -> float:
        """Return the mean gain of a denoiser, or the luma PSNR of an upscaler."""
        return next(iter(scores.values()))


def pixel_loss(restored: Tensor, targets: Tensor, kind: Literal["l1", "rmse"]) -> Tensor:
    """Return the loss between results and targets, float [N, 3, H, W] in [0, 1]; see `PixelRecipe.loss`."""
    if kind == "l1":
        return F.l1_loss(restored, targets)
    squared = (restored - targets).square().mean(dim=(1, 2, 3))
    return (squared + ROUNDING_MSE).sqrt().mean()


def upscaled_samples(net: nn.Module, crop: Pixels, device: torch.device) -> list[Pixels]:
    """Return a crop after downscaling and bicubic upscaling, the network's result, and the crop itself."""
    small = downscale_4x(to_tensor([crop], device))
    return [*to_pixels(F.interpolate(small, scale_factor=4, mode="bicubic")), *to_pixels(net(small)), crop]


def _restored(net: nn.Module, image: Tensor) -> Tensor:
    restored: Tensor = net(image)
    return restored.mul(255).round().clamp(0, 255)[0]


def _mean(values: list[float]) -> float:
    return round(float(np.mean(values)), 4)
