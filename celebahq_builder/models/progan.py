"""The generator and the discriminator that grow (Karras et al. 2018, tables 1 and 2).

A level is the logarithm of a resolution: 2 is 4x4, 10 is 1024x1024. Both networks hold all levels up to their largest,
and work up to any: what is above costs nothing. While a level is new, its result is blended with that of the level
below by alpha, from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from celebahq_builder.models.layers import EqualizedConv2d, EqualizedLinear

LEVEL_MIN = 2
"""4x4, where both networks begin."""

EPSILON = 1e-8
"""Keeps square roots and quotients finite, as in the paper."""


@dataclass(frozen=True)
class Architecture:
    """The size of both networks, and which of the paper's ingredients they have."""

    resolution: int = 1024
    """Of the largest level: a power of two, 4 to 1024."""
    colours: int = 3
    """Channels of the images: 3, or 1 for grey."""
    latent: int = 512
    """Numbers that an image is generated from."""
    labels: int = 0
    """Classes, or attributes; the discriminator then predicts them too (AC-GAN, Odena et al. 2017)."""
    channels_base: int = 8192
    channels_max: int = 512
    """Channels at resolution r: 2 channels_base / r, at most channels_max."""
    pixel_norm: bool = True
    """Normalise every pixel's feature vector in the generator (section 4.2), and the latents."""
    batch_norm: bool = False
    """Batch normalisation in the generator and layer normalisation in the discriminator, of every 3x3 convolution, as
    in the networks that the paper began with (Gulrajani et al. 2017); instead of `pixel_norm`."""
    equalized: bool = True
    """Equalised learning rate (section 4.1)."""
    leaky: bool = True
    """Leaky rectifiers of slope 0.2; False: ordinary ones."""
    stddev_group: int = 4
    """Images whose standard deviation the discriminator sees (section 3); 0: the whole minibatch; 1: none."""

    def __post_init__(self) -> None:
        side = self.resolution
        if not 4 <= side <= 1024 or side & (side - 1):
            raise ValueError(f"resolution = {side} must be a power of two from 4 to 1024")
        for name, least in (("latent", 1), ("labels", 0), ("channels_max", 1), ("stddev_group", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least {least}")
        if self.pixel_norm and self.batch_norm:
            raise ValueError("pixel_norm and batch_norm exclude each other; set pixel_norm = false")
        if self.colours not in (1, 3):
            raise ValueError(f"colours = {self.colours} must be 3, or 1 for grey")
        if 2 * self.channels_base < side:
            raise ValueError(f"channels_base = {self.channels_base} leaves no channel at {side}x{side}")

    @property
    def level_max(self) -> int:
        """The largest level."""
        return self.resolution.bit_length() - 1

    @property
    def levels(self) -> range:
        """All levels, from 4x4 up."""
        return range(LEVEL_MIN, self.level_max + 1)

    def channels(self, level: int) -> int:
        """Return the channels of the features at a level."""
        return min(2 * self.channels_base >> level, self.channels_max)


class Generator(nn.Module):
    """Makes images from latents.

    Shapes: latents [N, latent] (and labels [N, labels]) -> [N, colours, r, r], r = 2^level. Float; images are in
    [-1, 1] where training succeeds, and are not clipped. With batch normalisation, `eval` makes an image independent
    of the others of its minibatch.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        first = a.channels(LEVEL_MIN)
        # The paper divides this gain by 4: sqrt 2 / 4.
        self.dense = EqualizedLinear(a.latent + a.labels, first * 16, math.sqrt(2) / 4, a.equalized)
        self.blocks = nn.ModuleList()
        self.to_rgb = nn.ModuleList()
        self.norms = nn.ModuleList()
        for level in a.levels:
            below, here = a.channels(max(level - 1, LEVEL_MIN)), a.channels(level)
            convolutions = [EqualizedConv2d(here, here, equalized=a.equalized)]
            if level > LEVEL_MIN:
                convolutions.insert(0, EqualizedConv2d(below, here, equalized=a.equalized))
            self.blocks.append(nn.ModuleList(convolutions))
            self.to_rgb.append(EqualizedConv2d(here, a.colours, 1, 1.0, a.equalized))
            self.norms.append(
                nn.ModuleList(nn.BatchNorm2d(here) if a.batch_norm else nn.Identity() for _ in convolutions)
            )

    def forward(self, latents: Tensor, level: int, alpha: float = 1.0, labels: Tensor | None = None) -> Tensor:
        """Return images at a level, blended with the level below by 1 - alpha.

        Raises:
            ValueError: a level that the network does not have, or labels where it takes none, or the other way round.
        """
        a = self.architecture
        _check(a, level)
        if (labels is not None) != bool(a.labels):
            raise ValueError(f"the network takes {a.labels} labels, got {'none' if labels is None else labels.shape}")
        x = latents if labels is None else torch.cat([latents, labels.to(latents)], dim=1)
        x = self.dense(self._normalised(x)).view(len(x), -1, 4, 4)
        x = self._normalised(_rectified(x, a.leaky))
        if x.device.type == "cuda":
            x = x.contiguous(memory_format=torch.channels_last)
        before = x
        for index in range(level - LEVEL_MIN + 1):
            before = x
            if index:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            for convolution, norm in zip(self.blocks[index], self.norms[index], strict=True):  # type: ignore[call-overload]
                x = self._normalised(_rectified(norm(convolution(x)), a.leaky))
        image: Tensor = self.to_rgb[level - LEVEL_MIN](x)
        if alpha < 1 and level > LEVEL_MIN:
            old = F.interpolate(self.to_rgb[level - LEVEL_MIN - 1](before), scale_factor=2, mode="nearest")
            image = torch.lerp(old, image, alpha)
        return image

    def _normalised(self, x: Tensor) -> Tensor:
        return pixel_norm(x) if self.architecture.pixel_norm else x

    def active(self, level: int, alpha: float = 1.0) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that a pass at this level and alpha uses, with their names."""
        yield from _active(self, "to_rgb", level, alpha)


class Discriminator(nn.Module):
    """Tells generated images from real ones: higher is more real. The generator's mirror image.

    Shapes: images [N, colours, r, r], r = 2^level -> scores [N], and logits of the labels [N, labels]. Float.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.from_rgb = nn.ModuleList()
        self.blocks = nn.ModuleList()
        self.norms = nn.ModuleList()
        for level in a.levels:
            here, below = a.channels(level), a.channels(max(level - 1, LEVEL_MIN))
            self.from_rgb.append(EqualizedConv2d(a.colours, here, 1, equalized=a.equalized))
            seen = here + (a.stddev_group != 1 and level == LEVEL_MIN)
            convolutions = [EqualizedConv2d(seen, here, equalized=a.equalized)]
            if level > LEVEL_MIN:
                convolutions.append(EqualizedConv2d(here, below, equalized=a.equalized))
            self.blocks.append(nn.ModuleList(convolutions))
            widths = [len(convolution.weight) for convolution in convolutions]
            self.norms.append(nn.ModuleList(nn.GroupNorm(1, n) if a.batch_norm else nn.Identity() for n in widths))
        last = a.channels(LEVEL_MIN)
        self.dense = EqualizedLinear(last * 16, last, equalized=a.equalized)
        self.judge = EqualizedLinear(last, 1 + a.labels, 1.0, a.equalized)

    def forward(
        self, images: Tensor, level: int, alpha: float = 1.0, noise: GaussianNoise | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return scores and label logits of images; `noise` is put on the features before every layer.

        Raises:
            ValueError: a level that the network does not have, or images of another size.
        """
        a = self.architecture
        _check(a, level)
        if images.shape[1:] != (a.colours, 1 << level, 1 << level):
            wanted = [a.colours, 1 << level, 1 << level]
            raise ValueError(f"expected images of {wanted} at level {level}, got {list(images.shape[1:])}")
        noisy = noise or _unchanged
        if images.device.type == "cuda":
            images = images.contiguous(memory_format=torch.channels_last)
        index = level - LEVEL_MIN
        x = _rectified(self.from_rgb[index](images), a.leaky)
        for place in range(index, 0, -1):
            for convolution, norm in zip(self.blocks[place], self.norms[place], strict=True):  # type: ignore[call-overload]
                x = _rectified(norm(convolution(noisy(x))), a.leaky)
            x = F.avg_pool2d(x, 2)
            if place == index and alpha < 1:
                old = _rectified(self.from_rgb[index - 1](F.avg_pool2d(images, 2)), a.leaky)
                x = torch.lerp(old, x, alpha)
        if a.stddev_group != 1:
            x = minibatch_stddev(x, a.stddev_group)
        x = _rectified(self.norms[0][0](self.blocks[0][0](noisy(x))), a.leaky)  # type: ignore[index]
        x = _rectified(self.dense(noisy(x.flatten(1))), a.leaky)
        judged: Tensor = self.judge(noisy(x))
        return judged[:, 0], judged[:, 1:]

    def active(self, level: int, alpha: float = 1.0) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that a pass at this level and alpha uses, with their names."""
        yield from _active(self, "from_rgb", level, alpha)


class GaussianNoise:
    """Multiplicative noise on features (appendix B): factors of N(1, strength^2 C), one per image and channel.

    With LSGAN it keeps the discriminator from becoming overconfident. A vector's channels are its numbers.
    """

    def __init__(self, strength: float, generator: torch.Generator) -> None:
        self.strength, self.generator = strength, generator

    def __call__(self, x: Tensor) -> Tensor:
        """Return features [N, C, ...] with noise."""
        if not self.strength:
            return x
        shape = (*x.shape[:2], *(1,) * (x.ndim - 2))
        drawn = torch.randn(shape, generator=self.generator, device=self.generator.device).to(x)
        return x * (1 + self.strength * math.sqrt(x.shape[1]) * drawn)


def pixel_norm(x: Tensor) -> Tensor:
    """Return features [N, C, ...] divided by the root mean square over the channels, of each pixel (section 4.2).

    Of latents [N, C] it makes points on a hypersphere of radius sqrt C. Computed in float32.
    """
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(dim=1, keepdim=True) + EPSILON)).to(x.dtype)


def minibatch_stddev(x: Tensor, group: int) -> Tensor:
    """Return features with one more map: how much the images of a group differ (section 3).

    The standard deviation over the group of every feature at every pixel, averaged to one number a group. Images
    i, i + N / group, i + 2 N / group, ... are a group, as in the authors' code: so every K-th image of a minibatch
    is a whole number of groups, and cutting it that way, for several GPUs or for want of memory, changes nothing.
    Where the wanted size does not divide N, its largest smaller divisor of N does. Computed in float32.

    Shapes: [N, C, H, W] -> [N, C + 1, H, W].
    """
    n, _, height, width = x.shape
    size = group_size(n, group)
    grouped = x.float().reshape(size, n // size, *x.shape[1:])
    deviation = (grouped.var(dim=0, correction=0) + EPSILON).sqrt().mean(dim=(1, 2, 3))
    extra = deviation.repeat(size)[:, None, None, None].expand(n, 1, height, width)
    return torch.cat([x, extra.to(x.dtype)], dim=1)


def group_size(minibatch: int, wanted: int) -> int:
    """Return the largest divisor of a minibatch that is at most the wanted group; 0 wants all of it."""
    return next(size for size in range(min(wanted or minibatch, minibatch), 0, -1) if minibatch % size == 0)


def _rectified(x: Tensor, leaky: bool) -> Tensor:
    return F.leaky_relu(x, 0.2) if leaky else F.relu(x)


def _unchanged(x: Tensor) -> Tensor:
    return x


def _check(architecture: Architecture, level: int) -> None:
    if level not in architecture.levels:
        raise ValueError(f"level {level} is not one of {LEVEL_MIN} to {architecture.level_max}")


def _active(net: nn.Module, rgb: str, level: int, alpha: float) -> Iterator[tuple[str, nn.Parameter]]:
    top = level - LEVEL_MIN
    colour = {top} | ({top - 1} if alpha < 1 and top else set())
    for name, parameter in net.named_parameters():
        part, _, rest = name.partition(".")
        index = int(rest.split(".")[0]) if part in (rgb, "blocks", "norms") else 0
        if (
            (part == rgb and index in colour)
            or (part in ("blocks", "norms") and index <= top)
            or part in ("dense", "judge")
        ):
            yield name, parameter
