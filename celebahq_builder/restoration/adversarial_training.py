"""Adversarial training of the upscaler, and the corrections of its weights before they are exported."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from celebahq_builder.config import to_mapping
from celebahq_builder.errors import TrainingError
from celebahq_builder.metrics.descriptors import PATCH_PX
from celebahq_builder.metrics.fidelity import psnr_y, spectrum_error_db
from celebahq_builder.metrics.sliced import random_directions
from celebahq_builder.metrics.texture import autocorrelation_loss, draw_quarter_patches, texture_distance, texture_loss
from celebahq_builder.models.registry import SIZE_MAX, find_entry, load_network
from celebahq_builder.models.srgan import SRDiscriminator, SRGenerator, UNetDiscriminator
from celebahq_builder.models.weight_file import to_channels_last
from celebahq_builder.restoration.degradation import apply_jpeg, reduced
from celebahq_builder.restoration.photos import (
    TrainingPhotos,
    downscale_4x,
    stack_images,
    to_float,
    to_pixels,
    to_tensor,
)
from celebahq_builder.restoration.pixel_training import upscaled_samples
from celebahq_builder.restoration.task import RestorationBatch, RestorationTask, TrainingRecipe, adam
from celebahq_builder.training.distributed import DistributedContext
from celebahq_builder.training.interface import SampleRows, Scores, check_size, initial_network

TEXTURE_DIRECTIONS = 64
"""Random directions of the texture loss in each step."""

FEATURE_LAYERS = 2
"""Number of the discriminator's last layers whose features the feature loss compares."""

SWD_PER_DB = 50.0
"""Texture distance, x 1e-3, that weighs as much as 1 dB of PSNR when the best weights are selected. In training, 1 dB
of PSNR costs about this much."""

BIAS_BATCHES, BIAS_BATCH = 40, 8
"""Batches, and crops in each, over which the subpixel bias of the exported weights is measured."""

BIAS_ROUNDS = 2
"""Rounds of bias correction. The back-projection of the generator undoes a part of each correction."""

TEXTURE_STREAM, BIAS_STREAM = 2**31, 2**31 + 1
"""Third number of the seeds of the texture loss and of the bias correction. The images of a batch count from 0, so the
random streams differ."""


# --- Recipe -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChainSettings:
    """Frequency and strength of compression before denoising, as for the inputs in a build."""

    share: float = 0.5
    """Share of batches whose inputs are compressed and denoised."""
    weights: str = "denoiser"
    """Weights of the denoiser, NAME or DIR/NAME of a registry."""
    quality_min: int = 40
    """Lowest JPEG quality, on the scale of OpenCV and libjpeg, 1 to 100."""
    quality_max: int = 95
    """Highest JPEG quality."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality_min <= self.quality_max <= 100:
            raise ValueError(f"quality_min = {self.quality_min} and quality_max = {self.quality_max}: need 1 to 100")


@dataclass(frozen=True, kw_only=True)
class AdversarialRecipe(TrainingRecipe):
    """Settings of an adversarial training, which starts from an upscaler that was trained with a pixel loss."""

    task: Literal["upscale-adversarially"]
    learning_rate: float = 1e-4
    """Learning rate of the generator; it falls to a tenth along a cosine."""
    discriminator_rate: float = 4e-4
    """Learning rate of the discriminator; it is constant."""
    pixel_weight: float = 1.0
    """Weight of the mean absolute error."""
    texture_weight: float = 1.0
    """Weight of the sliced Wasserstein distance of the two finest Laplacian levels, in each quarter of an image.

    This loss quickly gives the right amount of texture, but not the right kind. If the adversarial weight is low, or
    without noise, the scores are good and skin looks cracked.
    """
    autocorrelation_weight: float = 0.0
    """Weight of the error of the local autocorrelation; see `metrics.texture.autocorrelation_loss`. It acts against a
    lattice with a period of 4 px in hair."""
    feature_weight: float = 0.05
    """Weight of the mean absolute difference of the discriminator's last features. Features of its first layers would
    act as a pixel loss, which suppresses every texture except the true one."""
    adversarial_weight: float = 0.03
    """Weight of the hinge loss."""
    noise: int = 8
    """Channels of noise in the generator; see `models.srgan.hash_noise`."""
    start_share: float = 0.05
    """Share of the starting weights in the exported weights; see `interpolate_weights`."""
    discriminator: Literal["patch", "unet"] = "patch"
    """`patch`: `models.srgan.SRDiscriminator`. `unet`: `models.srgan.UNetDiscriminator`."""
    discriminator_width: int = 32
    """Channels of the discriminator's first layer."""
    area_share: float = 0.0
    """Share of batches whose inputs are reduced by an area filter, the mean of 4x4 px, in place of an antialiased
    bicubic filter. Many photos on the web were reduced like this; their detail is stronger, and has jagged lines. The
    denoiser cleans these inputs, also if they are not compressed."""
    chain: ChainSettings = field(default_factory=ChainSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.start:
            raise ValueError("start must name the weights of an upscaler, such as upscaler-psnr")
        if min(self.learning_rate, self.discriminator_rate) <= 0:
            raise ValueError("learning_rate and discriminator_rate must be positive")
        if not (0 <= self.noise <= SIZE_MAX and 1 <= self.discriminator_width <= SIZE_MAX):
            raise ValueError(f"noise must be from 0 to {SIZE_MAX}, and discriminator_width from 1 to {SIZE_MAX}")
        if not 0 <= self.area_share <= 1:
            raise ValueError(f"area_share = {self.area_share} must be a share, 0 to 1")
        if not 0 <= self.start_share < 1:
            raise ValueError(f"start_share = {self.start_share} must be at least 0 and less than 1")

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of the generator at a step."""
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * step / self.steps)))


# --- Training ---------------------------------------------------------------------------------------------------


class AdversarialTask(RestorationTask):
    """An upscaler that is trained against a discriminator.

    Raises:
        TrainingError: the photos cannot be used, or the weights to start from are not those of an upscaler.
    """

    Recipe = AdversarialRecipe
    loss_names = ("pixel", "texture", "autocorrelation", "feature", "adversarial", "discriminator")

    def __init__(self, recipe: AdversarialRecipe, photos: Path, context: DistributedContext) -> None:
        self.recipe: AdversarialRecipe = recipe
        self.context, device = context, context.device
        start = find_entry(recipe.start)
        if start.shape.architecture != "srgan" or start.shape.widths[1:] not in ((), (recipe.noise,)):
            expected = f"an upscaler without noise, or with {recipe.noise} channels of it"
            raise TrainingError(f"start = {recipe.start} is {start.shape}; expected {expected}")
        self.shape = replace(start.shape, widths=(start.shape.widths[0], *([recipe.noise] if recipe.noise else [])))
        self.crop_px = 4 * recipe.largest_patch_px
        self.photos = TrainingPhotos.read(
            photos, held_out=recipe.held_out, at_least_px=self.crop_px, faces=recipe.faces
        )
        chain_sha256 = find_entry(recipe.chain.weights).sha256
        self.config = {**to_mapping(recipe), "start_sha256": start.sha256, "chain_sha256": chain_sha256}
        # --- Networks and optimizers
        self.denoiser = load_network(recipe.chain.weights, device)
        self.start = load_network(recipe.start).state_dict()
        discriminator_class = {"patch": SRDiscriminator, "unet": UNetDiscriminator}[recipe.discriminator]
        check_size(lambda: [self.shape.build(), discriminator_class(recipe.discriminator_width)])
        self.generator = self.network = initial_network(self.shape, self.start, recipe.seed, device)
        torch.manual_seed(recipe.seed)
        self.discriminator = to_channels_last(discriminator_class(recipe.discriminator_width), device)
        self.networks = {"generator": self.generator, "discriminator": self.discriminator}
        self.optimizers = {
            "generator": adam(self.generator, recipe.learning_rate, 0.9),
            "discriminator": adam(self.discriminator, recipe.discriminator_rate, 0.5),
        }
        # The discriminator is not compiled: a step goes backwards through it twice, and a compiled network computes all
        # gradients each time.
        compiled = recipe.compiled and device.type == "cuda"
        self.generate = torch.compile(self.generator) if compiled else self.generator

    def draw_batch(self, step: int) -> RestorationBatch:
        """Return this process's share of the data of a step.

        Without an area filter and compression there are no inputs: they are computed on the training device.
        """
        recipe, phase = self.recipe, self.recipe.phase_at(step)
        rng = np.random.default_rng((recipe.seed, step))
        compressed = rng.random() < recipe.chain.share
        by_area = rng.random() < recipe.area_share
        inputs, targets = [], []
        for i in self.context.share(phase.batch):
            rng = np.random.default_rng((recipe.seed, step, i))
            targets.append(self.photos.crop(rng, 4 * phase.patch_px))
            if not compressed and not by_area:
                continue
            if by_area:
                small = reduced(targets[-1], phase.patch_px)
            else:
                small = to_pixels(downscale_4x(to_tensor(targets[-1:], torch.device("cpu"))))[0]
            if compressed:
                quality = int(rng.integers(recipe.chain.quality_min, recipe.chain.quality_max + 1))
                small = apply_jpeg(small, quality)
            inputs.append(small)
        # --- Random choices of the texture loss
        seed = (recipe.seed, step, TEXTURE_STREAM)
        rngs = [np.random.default_rng((*seed, i)) for i in self.context.share(phase.batch)]
        positions = draw_quarter_patches(rngs, 4 * phase.patch_px, 4 * phase.patch_px)
        directions = random_directions(3 * PATCH_PX**2, np.random.default_rng(seed), TEXTURE_DIRECTIONS)
        return RestorationBatch(stack_images(inputs) if inputs else None, stack_images(targets), positions, directions)

    def training_step(self, step: int, batch: RestorationBatch) -> Tensor:
        """Update both networks once; see `training.interface.Task`."""
        recipe, device = self.recipe, self.context.device
        batch = batch.copy_to_device(self.context)
        targets = to_float(batch.targets)
        inputs = downscale_4x(targets) if batch.inputs is None else self._denoise(to_float(batch.inputs))
        share = len(targets) / recipe.phase_at(step).batch
        generator_adam, discriminator_adam = self.optimizers["generator"], self.optimizers["discriminator"]
        # --- Forward passes. One pass of the discriminator serves the losses of both networks.
        discriminator_adam.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            fake = self.generate(inputs).float()
            detached = fake.detach().requires_grad_()
            real_logits, real_features = self.discriminator(targets)
            fake_logits, fake_features = self.discriminator(detached)
        # --- Generator: the losses that pass through the discriminator, as a gradient with respect to the result
        adversarial = -fake_logits.float().mean()
        pairs = list(zip(fake_features, real_features, strict=True))[-FEATURE_LAYERS:]
        feature = torch.stack([F.l1_loss(f.float(), r.detach().float()) for f, r in pairs]).mean()
        through = recipe.feature_weight * feature + recipe.adversarial_weight * adversarial
        (gradient,) = torch.autograd.grad(through, detached, retain_graph=True)
        # --- Generator: all losses, and the update
        pixel = F.l1_loss(fake, targets)
        assert batch.directions is not None
        texture = texture_loss(fake, targets, batch.positions, batch.directions)
        autocorrelation = autocorrelation_loss(fake, targets)
        loss = (
            recipe.pixel_weight * pixel
            + recipe.texture_weight * texture
            + recipe.autocorrelation_weight * autocorrelation
        )
        loss = loss + (fake * gradient).sum()
        generator_adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss * share)
        self.context.sum_gradients(self.generator)
        nn.utils.clip_grad_norm_(self.generator.parameters(), 0.5)
        for group in generator_adam.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        generator_adam.step()
        # --- Discriminator
        hinge = F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean()
        torch.autograd.backward(hinge * share)
        self.context.sum_gradients(self.discriminator)
        discriminator_adam.step()
        return torch.stack([pixel, texture, autocorrelation, feature, adversarial, hinge]).detach()

    @torch.no_grad()
    def _denoise(self, compressed: Tensor) -> Tensor:
        restored: Tensor = self.denoiser(compressed)
        return restored.mul(255).round_().clamp_(0, 255).div_(255)

    # --- Validation and export

    @torch.inference_mode()
    def validate(self, net: nn.Module) -> tuple[Scores, SampleRows]:
        """Return luma PSNR, spectrum error and texture distance on the held-out photos, and sample images."""
        device = self.context.device
        targets = [to_tensor([crop], device) for crop in self.photos.validation_crops]
        results = [net(downscale_4x(target)).mul(255).round().clamp(0, 255)[0] for target in targets]
        truths = [target[0] * 255 for target in targets]
        pairs = list(zip(results, truths, strict=True))
        scores = {
            "psnr_y_db": round(float(np.mean([psnr_y(a, b) for a, b in pairs])), 4),
            "spectrum_error_db": round(float(np.mean([spectrum_error_db(a, b) for a, b in pairs])), 4),
            "swd": round(1000 * texture_distance(results, truths), 2),
        }
        return scores, [upscaled_samples(net, crop, device) for crop in self.sample_crops()]

    def selection_score(self, scores: Scores) -> float:
        """Return the PSNR minus the errors of spectrum and texture: a blurred image has a good PSNR alone."""
        return scores["psnr_y_db"] - scores["spectrum_error_db"] - scores["swd"] / SWD_PER_DB

    def export_network(self, averaged: nn.Module) -> nn.Module:
        """Return the averaged network with a share of the starting weights, and without subpixel bias."""
        net = copy.deepcopy(averaged)
        if not isinstance(net, SRGenerator):
            raise TypeError(f"expected an SRGenerator, got {type(net).__name__}")
        interpolate_weights(net, self.start, self.recipe.start_share)
        for _ in range(BIAS_ROUNDS):
            pairs = ((downscale_4x(targets), targets) for targets in map(to_float, self._bias_crops))
            remove_subpixel_bias(net, pairs)
        return net

    @cached_property
    def _bias_crops(self) -> list[Tensor]:
        """Batches of random training crops on the device, uint8 [N, H, W, 3]; every validation uses them again."""
        rng = np.random.default_rng((self.recipe.seed, BIAS_STREAM))
        batches = []
        for _ in range(BIAS_BATCHES):
            crops = [self.photos.crop(rng, self.crop_px) for _ in range(BIAS_BATCH)]
            batches.append(stack_images(crops).to(self.context.device))
        return batches


# --- Corrections of the weights ---------------------------------------------------------------------------------


@torch.no_grad()
def interpolate_weights(net: SRGenerator, start: Mapping[str, Tensor], share: float) -> None:
    """Interpolate in place between the weights of a network and those from which its training started.

    Every interpolation between an upscaler trained with a pixel loss and its adversarially trained version is a good
    network, with fewer artefacts and less texture than the latter (Wang et al. 2018, ESRGAN, section 3.4).

    Args:
        net: the trained network.
        start: weights by name. A weight that is missing, such as that of the noise, counts as zero.
        share: of the starting weights, 0 to 1.
    """
    for name, value in net.state_dict().items():
        value.mul_(1 - share)
        if name in start:
            value.add_(start[name].to(value.device), alpha=share)


@torch.inference_mode()
def subpixel_bias(net: SRGenerator, pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the mean error of each of the 4x4 result pixels that belong to one input pixel.

    Args:
        net: the network.
        pairs: inputs [N, 3, H, W] and targets [N, 3, 4H, 4W], float in [0, 1]; at least one pair.

    Returns:
        float64 [3, 4, 4] on the CPU: result minus target, minus the mean over all 16 positions of each colour.
    """
    total, count = torch.zeros(3, 4, 4, dtype=torch.float64), 0
    for inputs, targets in pairs:
        positions = F.pixel_unshuffle(net(inputs) - targets, SRGenerator.SCALE)  # channel 16 c + 4 row + column
        total += positions.double().mean(dim=(0, 2, 3)).view(3, 4, 4).cpu()
        count += 1
    return total / count - (total / count).mean(dim=(1, 2), keepdim=True)


@torch.no_grad()
def remove_subpixel_bias(net: SRGenerator, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Subtract the subpixel bias from the bias of a network's last layer, in place.

    A discriminator reacts slowly to a checkerboard of a few levels. This removes its constant part. The arguments are
    those of `subpixel_bias`.
    """
    bias = net.tail.get_parameter("bias")
    bias.sub_(subpixel_bias(net, pairs).flatten().to(bias))
