"""Adversarial training of the upscaler, and the final steps on its averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
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
from celebahq_builder.metrics.texture import texture_distance, texture_loss
from celebahq_builder.models.registry import find_entry, load_network
from celebahq_builder.models.srgan import SRDiscriminator, SRGenerator
from celebahq_builder.restoration.degradation import apply_jpeg
from celebahq_builder.restoration.loop import Phase, Phased, Rows, Scores, Task
from celebahq_builder.restoration.photos import PhotoFolder, Pixels, downscale_4x, to_pixels, to_tensor, validation_crop
from celebahq_builder.restoration.pixel_training import SAMPLE_PX, SAMPLES, upscaled_sample
from celebahq_builder.training.distributed import World

ROUNDS = 2
"""The back-projection takes a part of every correction away again: the second round makes up for it."""


@torch.no_grad()
def interpolate_weights(net: SRGenerator, start: Mapping[str, Tensor], share: float) -> None:
    """Move weights a share of the way back to those the training started from, in place.

    Between an upscaler trained for pixel accuracy and what an adversary made of it, every mixture is a sound network,
    with fewer of the inventions and less of the texture (Wang et al. 2018, ESRGAN, section 3.4). Weights that the
    start lacks, those of the noise, count as zero there.
    """
    for name, value in net.state_dict().items():
        value.mul_(1 - share)
        if name in start:
            value.add_(start[name].to(value.device), alpha=share)


@torch.inference_mode()
def phase_means(net: SRGenerator, pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return how much lighter than the truth each of the 4x4 pixels is that one pixel becomes, in the mean.

    Args:
        net: the network.
        pairs: photos [N, 3, H, W] and the truths [N, 3, 4H, 4W], float, [0, 1]; at least one.

    Returns:
        float64 [3, 4, 4], RGB, the mean over all 16 taken off.
    """
    total, count = torch.zeros(3, 4, 4, dtype=torch.float64), 0
    for low, high in pairs:
        phases = F.pixel_unshuffle(net(low) - high, SRGenerator.SCALE)  # channel 16 c + 4 row + column
        total += phases.double().mean(dim=(0, 2, 3)).view(3, 4, 4).cpu()
        count += 1
    return total / count - (total / count).mean(dim=(1, 2), keepdim=True)


@torch.no_grad()
def remove_subpixel_bias(net: SRGenerator, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Set the last layer's bias so that no pixel of the 4x4 is lighter than the others in the mean, in place.

    A discriminator sees a checkerboard of a few levels late; a bias for each of the 16 places (and colours) that come
    from one pixel takes its constant part away. The arguments are those of `phase_means`, but `pairs` is read
    `ROUNDS` times.
    """
    bias = net.tail.get_parameter("bias")
    for _ in range(ROUNDS):
        bias.sub_(phase_means(net, pairs).flatten().to(bias))


Drawn = tuple[list[Pixels], list[Pixels]]
"""Inputs that went through a JPEG (none: the targets are only reduced), and targets."""

TEXTURE_STREAM = 2**31
"""Sets the generator of the texture loss' draws apart from those of the images, which count from 0."""

LEVEL_STREAM = TEXTURE_STREAM + 1
"""Likewise of the crops that the exported weights are levelled by."""

TEXTURE_DIRECTIONS = 64

LEVELLED_BY = 40, 8
"""Batches, and crops in each, that the exported weights are levelled by; the crops are the training's in size."""

FEATURES = 2
"""Layers of the discriminator, from the last, whose features are compared."""

SWD_PER_DB = 50.0
"""How much of the textures' distance, x 1e-3, is as bad as a dB: about what a dB of fidelity buys in training."""


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
    """Weights to start from, by name in the registry or as DIR/NAME: an upscaler trained for pixel accuracy."""
    phases: tuple[Phase, ...]
    learning_rate: float = 1e-4
    """Of the generator; falls to a tenth along a cosine."""
    discriminator_rate: float = 4e-4
    """Of the discriminator; constant."""
    pixel_weight: float = 1.0
    """Of the mean absolute error."""
    texture_weight: float = 1.0
    """Of the sliced Wasserstein distance of the two finest Laplacian levels, quarter by quarter of each image.

    It brings the right amount of texture quickly, but not the right kind: with little weight on the adversary, or
    without noise, figures come out right and skin cracked.
    """
    feature_weight: float = 0.05
    """Of the mean absolute difference of the discriminator's last features; those of its first layers would be a
    pixel loss in disguise, and against all texture that is not the true one."""
    adversarial_weight: float = 0.03
    """Of the hinge loss."""
    noise: int = 8
    """Channels of noise that the generator is given; see `nets.grain`."""
    start_share: float = 0.05
    """Share of the starting weights in those that are exported; see `finishing.mix`."""
    discriminator_width: int = 32
    """Channels of the discriminator's first layer."""
    ema: float = 0.999
    seed: int = 0
    held_out: int = 8
    validate_every: int = 500
    bf16: bool = True
    compiled: bool = True
    """Compile both networks on CUDA; on a CPU they never are."""
    chain: ChainSettings = field(default_factory=ChainSettings)

    def __post_init__(self) -> None:
        self.check()
        if not self.start:
            raise ValueError("start must name the upscaler to go on from")
        if not 0 <= self.start_share < 1:
            raise ValueError(f"start_share = {self.start_share} must be at least 0 and less than 1")

    def rate_at(self, step: int) -> float:
        """Return the generator's learning rate at a step."""
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * step / self.steps)))


class AdversarialTask(Task):
    """An upscaler against a discriminator; the best weights weigh fidelity against texture.

    Raises:
        TrainingError: unusable photos.
    """

    losses = ("pixel", "texture", "feature", "adversarial", "discriminator")

    def __init__(self, recipe: AdversarialRecipe, photos: Path, world: World) -> None:
        self.recipe: AdversarialRecipe = recipe
        start = find_entry(recipe.start).shape
        if start.architecture != "srgan" or start.widths[1:] not in ((), (recipe.noise,)):
            wanted = f"an upscaler without noise, or of {recipe.noise} channels"
            raise TrainingError(f"start = {recipe.start} is of {start}; wanted {wanted}")
        self.world = world
        self.shape = replace(start, widths=(start.widths[0], *([recipe.noise] if recipe.noise else [])))
        need = 4 * max(p.patch_px for p in recipe.phases)
        self.photos = PhotoFolder.read(photos, held_out=recipe.held_out, at_least_px=need)
        self.identity = {
            **to_mapping(recipe),
            "start_sha256": find_entry(recipe.start).sha256,
            "chain_sha256": find_entry(recipe.chain.weights).sha256,
        }
        self.denoiser = load_network(recipe.chain.weights, world.device)
        self.generator = self._generator()
        torch.manual_seed(recipe.seed)
        self.discriminator = SRDiscriminator(recipe.discriminator_width)
        self.discriminator.to(device=world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.g_adam = torch.optim.Adam(self.generator.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99))
        self.d_adam = torch.optim.Adam(self.discriminator.parameters(), lr=recipe.discriminator_rate, betas=(0.5, 0.99))
        self.nets = {"net": (self.generator, self.g_adam), "discriminator": (self.discriminator, self.d_adam)}
        compiled = recipe.compiled and world.device.type == "cuda"
        self.generate = torch.compile(self.generator) if compiled else self.generator
        self.judge = torch.compile(self.discriminator) if compiled else self.discriminator

    def _generator(self) -> nn.Module:
        """Return the network to start from; what the weights lack, the part that takes the noise, is fresh."""
        torch.manual_seed(self.recipe.seed)
        generator = self.shape.build()
        self.start = load_network(self.recipe.start).state_dict()
        generator.load_state_dict(generator.state_dict() | self.start)
        return generator.to(device=self.world.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def draw(self, step: int) -> Drawn:
        """Return this process' targets of a step and, for some steps, inputs that a JPEG has been through."""
        recipe, phase = self.recipe, self.recipe.phase_at(step)
        chained = np.random.default_rng((recipe.seed, step)).random() < recipe.chain.share
        low, high = [], []
        for i in self.world.share(phase.batch):
            rng = np.random.default_rng((recipe.seed, step, i))
            high.append(self.photos.crop(rng, 4 * phase.patch_px))
            if chained:
                small = to_pixels(downscale_4x(to_tensor(high[-1:], torch.device("cpu"))))[0]
                low.append(apply_jpeg(small, int(rng.integers(recipe.chain.quality_min, recipe.chain.quality_max + 1))))
        return low, high

    def update(self, step: int, drawn: Drawn) -> Tensor:
        """Update both networks once."""
        recipe, device = self.recipe, self.world.device
        for group in self.g_adam.param_groups:
            group["lr"] = recipe.rate_at(step)
        high = to_tensor(drawn[1], device)
        low = self._denoised(to_tensor(drawn[0], device)) if drawn[0] else downscale_4x(high)
        share = len(high) / recipe.phase_at(step).batch
        self.d_adam.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            fake = self.generate(low).float()
            shown = fake.detach().requires_grad_()
            real_logits, real_features = self.judge(high)
            fake_logits, fake_features = self.judge(shown)
        adversarial = -fake_logits.float().mean()
        pairs = list(zip(fake_features, real_features, strict=True))[-FEATURES:]
        feature = torch.stack([F.l1_loss(f.float(), r.detach().float()) for f, r in pairs]).mean()
        # One pass of the discriminator serves both: what it wants of the result, and then its own loss.
        wanted = recipe.feature_weight * feature + recipe.adversarial_weight * adversarial
        (towards,) = torch.autograd.grad(wanted, shown, retain_graph=True)
        pixel = F.l1_loss(fake, high)
        texture = self._texture(step, fake, high)
        loss = recipe.pixel_weight * pixel + recipe.texture_weight * texture + (fake * towards).sum()
        self.g_adam.zero_grad(set_to_none=True)
        (loss * share).backward()
        self.world.sum_gradients(self.generator)
        nn.utils.clip_grad_norm_(self.generator.parameters(), 0.5)
        self.g_adam.step()
        hinge = F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean()
        (hinge * share).backward()  # type: ignore[no-untyped-call]
        self.world.sum_gradients(self.discriminator)
        self.d_adam.step()
        return torch.stack([pixel, texture, feature, adversarial, hinge]).detach()

    def _texture(self, step: int, fake: Tensor, high: Tensor) -> Tensor:
        seed = (self.recipe.seed, step, TEXTURE_STREAM)
        share = self.world.share(self.recipe.phase_at(step).batch)
        along = random_directions(3 * PATCH_PX**2, np.random.default_rng(seed), TEXTURE_DIRECTIONS).to(fake.device)
        return texture_loss(fake, high, [np.random.default_rng((*seed, i)) for i in share], along)

    def finished(self, averaged: nn.Module) -> nn.Module:
        """Return the averaged network, mixed with what it started from, and levelled over crops of the photos."""
        net = copy.deepcopy(averaged)
        if not isinstance(net, SRGenerator):
            raise TypeError(f"expected a Generator, got {type(net).__name__}")
        interpolate_weights(net, self.start, self.recipe.start_share)
        remove_subpixel_bias(net, _Crops(self))
        return net

    @torch.no_grad()
    def _denoised(self, damaged: Tensor) -> Tensor:
        restored: Tensor = self.denoiser(damaged)
        return restored.mul(255).round_().clamp_(0, 255).div_(255)

    def merit(self, scores: Scores) -> float:
        """Return fidelity less the errors of spectrum and texture, which a result can each have right alone."""
        return scores["psnr_y_db"] - scores["spectrum_error_db"] - scores["swd"] / SWD_PER_DB

    @torch.inference_mode()
    def validate(self, net: nn.Module) -> tuple[Scores, Rows]:
        """Return the luma's PSNR, and the errors of spectrum and texture, on the held-out photos; and images."""
        device = self.world.device
        corners = [validation_crop(p) for p in self.photos.held_out]
        truths = [to_tensor([c], device) for c in corners]
        results = [net(downscale_4x(t)).mul(255).round().clamp(0, 255)[0] for t in truths]
        truths = [t[0] * 255 for t in truths]
        pairs = list(zip(results, truths, strict=True))
        scores = {
            "psnr_y_db": round(float(np.mean([psnr_y(a, b) for a, b in pairs])), 4),
            "spectrum_error_db": round(float(np.mean([spectrum_error_db(a, b) for a, b in pairs])), 4),
            "swd": round(1000 * texture_distance(results, truths), 2),
        }
        samples = [c[:SAMPLE_PX, :SAMPLE_PX] for c in corners[:SAMPLES] if min(c.shape[:2]) >= SAMPLE_PX]
        return scores, [upscaled_sample(net, s, device) for s in samples]


class _Crops:
    """Reduced crops of a task's photos with the crops themselves, the same whenever they are read."""

    def __init__(self, task: AdversarialTask) -> None:
        self.task = task

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches, crops = LEVELLED_BY
        side = 4 * max(p.patch_px for p in self.task.recipe.phases)
        rng = np.random.default_rng((self.task.recipe.seed, LEVEL_STREAM))
        for _ in range(batches):
            high = to_tensor([self.task.photos.crop(rng, side) for _ in range(crops)], self.task.world.device)
            yield downscale_4x(high), high
