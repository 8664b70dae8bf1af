"""ProGAN: the generator and the discriminator that grow (Karras et al. 2018, "Progressive Growing of GANs").

A level is the base-2 logarithm of a resolution: 2 is 4x4 and 10 is 1024x1024. Both networks hold all levels up to the
largest and compute up to any of them, at no cost for the levels above. While a level is new, its result is blended
with the result of the level below by alpha, which rises from 0 to 1. Sections and tables are those of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from celebahq_builder.imaging.pyramid import is_power_of_two
from celebahq_builder.models.gradients import conv2d, halve, scale_all

LEVEL_MIN = 2
"""4x4, the first level of both networks."""

SIZE_MAX = 1 << 16
"""Largest number of channels, of dimensions of the latent space, of labels, and of images in a group."""

EPSILON = 1e-8
"""Keeps square roots and quotients finite, as in the paper."""


@dataclass(frozen=True)
class Architecture:
    """Size of both networks, and the techniques of the paper that they use.

    Raises:
        ValueError: a value is out of range.

    Examples:
        >>> [Architecture().channels(level) for level in Architecture().levels]
        [512, 512, 512, 512, 256, 128, 64, 32, 16]
    """

    resolution: int = 1024
    """Resolution of the largest level: a power of two, 4 to 1024."""
    colours: int = 3
    """Channels of the images: 3 for RGB or 1 for grey."""
    latent: int = 512
    """Dimensions of the latent space."""
    labels: int = 0
    """Number of classes or attributes; the discriminator predicts them as well (AC-GAN, Odena et al. 2017)."""
    channels_base: int = 8192
    channels_max: int = 512
    """Channels at resolution r: 2 channels_base / r, at most channels_max."""
    pixel_norm: bool = True
    """Normalize the feature vector of each pixel in the generator (section 4.2), and the latents."""
    batch_norm: bool = False
    """Normalize every 3x3 convolution: batch normalization in the generator, layer normalization in the discriminator,
    as in the baseline of the paper (Gulrajani et al. 2017). It excludes `pixel_norm`."""
    equalized: bool = True
    """Equalize the learning rate (section 4.1)."""
    leaky: bool = True
    """Use leaky rectifiers of slope 0.2; otherwise ordinary ones."""
    stddev_group: int = 4
    """Images whose standard deviation the discriminator sees (section 3); 0: the whole minibatch; 1: none."""

    def __post_init__(self) -> None:
        side = self.resolution
        if not 4 <= side <= 1024 or not is_power_of_two(side):
            raise ValueError(f"resolution = {side} must be a power of two from 4 to 1024")
        for name, smallest in (("latent", 1), ("labels", 0), ("channels_max", 1), ("stddev_group", 0)):
            if not smallest <= getattr(self, name) <= SIZE_MAX:
                raise ValueError(f"{name} = {getattr(self, name)} must be from {smallest} to {SIZE_MAX}")
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
        """All levels, smallest first."""
        return range(LEVEL_MIN, self.level_max + 1)

    def channels(self, level: int) -> int:
        """Return the number of channels of the features at a level."""
        return min(2 * self.channels_base >> level, self.channels_max)


# --- Layers -------------------------------------------------------------------------------------------------------

GAIN = math.sqrt(2)
"""Gain of a layer before a rectifier (He et al. 2015)."""


class EqualizedLayer(nn.Module):
    """Weights drawn from N(0, 1) that are multiplied by gain / sqrt(fan in) at run time.

    All weights then have the same dynamic range and, with an optimizer that normalizes gradients as Adam does, the same
    speed of learning (Karras et al. 2018, section 4.1). With `equalized` false the initial weights contain the factor
    instead (He et al. 2015). Biases start at zero and are not scaled.
    """

    def __init__(self, shape: tuple[int, ...], gain: float, equalized: bool) -> None:
        super().__init__()
        scale = gain / math.sqrt(math.prod(shape[1:]))
        self.weight = nn.Parameter(torch.randn(shape) * (1.0 if equalized else scale))
        self.bias = nn.Parameter(torch.zeros(shape[0]))
        self.scale = scale if equalized else 1.0
        self.shared: tuple[Tensor, Tensor] | None = None
        """Weights and biases that `shared_weights` computed."""

    def applied(self) -> tuple[Tensor, Tensor]:
        """Return the weights and biases that the layer applies."""
        if self.shared is not None:
            return self.shared
        return self.weight * self.scale if self.scale != 1.0 else self.weight, self.bias


@contextmanager
def shared_weights(layers: Sequence[EqualizedLayer], dtype: torch.dtype) -> Iterator[None]:
    """Compute the scaled weights of layers once for all passes inside the context, in few launches on a GPU.

    Gradients of several passes are then added before they are scaled, which changes rounding.

    Args:
        layers: of one network; their parameters must not change inside the context. Either all need gradients or none.
        dtype: in which the layers compute.
    """
    scales = [scale for layer in layers for scale in (layer.scale, 1.0)]
    scaled = scale_all([one for layer in layers for one in (layer.weight, layer.bias)], scales, dtype)
    for layer, weight, bias in zip(layers, scaled[::2], scaled[1::2], strict=True):
        layer.shared = weight, bias
    try:
        yield
    finally:
        for layer in layers:
            layer.shared = None


class EqualizedConv2d(EqualizedLayer):
    """Convolution of stride 1 that keeps the image's size: [N, fan_in, H, W] -> [N, fan_out, H, W]."""

    def __init__(self, fan_in: int, fan_out: int, kernel: int = 3, gain: float = GAIN, equalized: bool = True) -> None:
        super().__init__((fan_out, fan_in, kernel, kernel), gain, equalized)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of `x`."""
        return conv2d(x, *self.applied())


class EqualizedLinear(EqualizedLayer):
    """Dense layer: [N, fan_in] -> [N, fan_out]."""

    def __init__(self, fan_in: int, fan_out: int, gain: float = GAIN, equalized: bool = True) -> None:
        super().__init__((fan_out, fan_in), gain, equalized)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weights times `x`, plus the bias."""
        return F.linear(x, *self.applied())


# --- Networks -----------------------------------------------------------------------------------------------------


class GeneratorNetwork(nn.Module):
    """Generator of images from latents (table 1 and figure 2).

    Shapes: latents [N, latent] and, if the architecture has labels, labels [N, labels] -> images [N, colours, r, r],
    r = 2^level. Float; latents are drawn from N(0, 1); images of a trained network are in [-1, 1] and are not clipped.
    With batch normalization, an image is independent of its minibatch only in `eval` mode.

    Examples:
        >>> generator = GeneratorNetwork(Architecture(resolution=16, channels_base=64, latent=8))
        >>> generator(torch.randn(2, 8), level=3, alpha=0.5).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        first = a.channels(LEVEL_MIN)
        # The paper divides the gain of this layer by 4.
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
            ValueError: the network does not have the level, or labels are given if and only if it takes none.
        """
        a = self.architecture
        _check(a, level)
        if (labels is not None) != bool(a.labels):
            raise ValueError(f"the network takes {a.labels} labels, got {'none' if labels is None else labels.shape}")
        x = latents if labels is None else torch.cat([latents, labels.to(latents)], dim=1)
        x = self.dense(self._normalized(x)).view(len(x), -1, 4, 4)
        x = self._normalized(_rectified(x, a.leaky))
        if x.device.type == "cuda":
            x = x.contiguous(memory_format=torch.channels_last)
        before = x
        for index in range(level - LEVEL_MIN + 1):
            before = x
            if index:
                x = upsample(x)
            for convolution, norm in _layers(self.blocks, self.norms, index):
                x = self._normalized(_rectified(norm(convolution(x)), a.leaky))
        image: Tensor = self.to_rgb[level - LEVEL_MIN](x)
        if alpha < 1 and level > LEVEL_MIN:
            old = upsample(self.to_rgb[level - LEVEL_MIN - 1](before))
            image = torch.lerp(old, image, alpha)
        return image

    def _normalized(self, x: Tensor) -> Tensor:
        return pixel_norm(x) if self.architecture.pixel_norm else x

    def active(self, level: int, alpha: float = 1.0) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield names and parameters that a pass at this level and alpha uses."""
        return _active(self, "to_rgb", level, alpha)


class DiscriminatorNetwork(nn.Module):
    """Discriminator of real and generated images (table 1 and figure 2); it mirrors the generator.

    Shapes: images [N, colours, r, r], r = 2^level -> scores [N], higher for real images, and logits of the labels
    [N, labels]. Float; images in [-1, 1].

    Examples:
        >>> discriminator = DiscriminatorNetwork(Architecture(resolution=16, channels_base=64))
        >>> scores, labels = discriminator(torch.rand(4, 3, 16, 16) * 2 - 1, level=4)
        >>> scores.shape, labels.shape
        (torch.Size([4]), torch.Size([4, 0]))
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
            fan_in = here + (a.stddev_group != 1 and level == LEVEL_MIN)
            convolutions = [EqualizedConv2d(fan_in, here, equalized=a.equalized)]
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
        """Return scores and label logits of images; `noise` is applied to the features before every layer.

        Raises:
            ValueError: the network does not have the level, or the images are of another size.
        """
        return self.score(self.features(images, level, alpha, noise), noise)

    def features(self, images: Tensor, level: int, alpha: float = 1.0, noise: GaussianNoise | None = None) -> Tensor:
        """Return the features of images at 4x4, [N, C, 4, 4]; those of an image do not depend on the other images."""
        a = self.architecture
        _check(a, level)
        if images.shape[1:] != (a.colours, 1 << level, 1 << level):
            wanted = [a.colours, 1 << level, 1 << level]
            raise ValueError(f"expected images of {wanted} at level {level}, got {list(images.shape[1:])}")
        noisy = noise or nn.Identity()
        if images.device.type == "cuda":
            images = images.contiguous(memory_format=torch.channels_last)
        index = level - LEVEL_MIN
        x = _rectified(self.from_rgb[index](images), a.leaky)
        for place in range(index, 0, -1):
            for convolution, norm in _layers(self.blocks, self.norms, place):
                x = _rectified(norm(convolution(noisy(x))), a.leaky)
            x = halve(x)
            if place == index and alpha < 1:
                old = _rectified(self.from_rgb[index - 1](halve(images)), a.leaky)
                x = torch.lerp(old, x, alpha)
        return x

    def score(self, features: Tensor, noise: GaussianNoise | None = None) -> tuple[Tensor, Tensor]:
        """Return scores and label logits of features at 4x4; these must be those of whole groups."""
        a, x, noisy = self.architecture, features, noise or nn.Identity()
        if a.stddev_group != 1:
            x = minibatch_stddev(x, a.stddev_group)
        for convolution, norm in _layers(self.blocks, self.norms, 0):
            x = _rectified(norm(convolution(noisy(x))), a.leaky)
        x = _rectified(self.dense(noisy(x.flatten(1))), a.leaky)
        judged: Tensor = self.judge(noisy(x))
        return judged[:, 0], judged[:, 1:]

    def active(self, level: int, alpha: float = 1.0) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield names and parameters that a pass at this level and alpha uses."""
        return _active(self, "from_rgb", level, alpha)


class GaussianNoise:
    """Multiplicative Gaussian noise on features (appendix B): a factor from N(1, strength^2 C) per image and channel.

    With LSGAN it keeps the discriminator from becoming overconfident. The channels of a vector are its components.
    """

    def __init__(self, strength: float, generator: torch.Generator) -> None:
        self.strength, self.generator = strength, generator

    def __call__(self, x: Tensor) -> Tensor:
        """Return features [N, C, ...] times the noise."""
        if not self.strength:
            return x
        shape = (*x.shape[:2], *(1,) * (x.ndim - 2))
        drawn = torch.randn(shape, generator=self.generator, device=self.generator.device)
        if x.device.type == "cuda":
            drawn = drawn.pin_memory().to(x.device, non_blocking=True)
        drawn = drawn.to(x.dtype)
        return x * (1 + self.strength * math.sqrt(x.shape[1]) * drawn)


def upsample(x: Tensor) -> Tensor:
    """Repeat each pixel 2x2 times: [N, C, H, W] -> [N, C, 2 H, 2 W], of the same type and memory format.

    Examples:
        >>> upsample(torch.tensor([[[[1.0, 2.0]]]]))
        tensor([[[[1., 1., 2., 2.],
                  [1., 1., 2., 2.]]]])
    """
    # On CUDA, autocast widens the input of `interpolate` to float32, which `lerp` does not blend with bfloat16.
    with torch.autocast(x.device.type, enabled=False):
        return F.interpolate(x, scale_factor=2, mode="nearest")


def pixel_norm(x: Tensor) -> Tensor:
    """Divide the feature vector of each pixel by its root mean square over the channels (section 4.2).

    Shapes: float [N, C, ...] -> the same, computed in float32. Latents [N, C] become points on a hypersphere of radius
    sqrt C.

    Examples:
        >>> pixel_norm(torch.tensor([[3.0, 0.0, 0.0, 4.0]]))
        tensor([[1.2000, 0.0000, 0.0000, 1.6000]])
    """
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(dim=1, keepdim=True) + EPSILON)).to(x.dtype)


def minibatch_stddev(x: Tensor, group: int) -> Tensor:
    """Append a feature map that holds the variation among the images of a group (section 3).

    The map is constant over a group: the standard deviation over the group of each feature at each pixel, averaged over
    features and pixels. As in the authors' code, images i, i + N / group, i + 2 N / group, ... form a group, so every
    K-th image of a minibatch makes whole groups, and splitting it in this way among GPUs or passes changes nothing.

    Args:
        x: float [N, C, H, W].
        group: images per group; see `group_size` if it does not divide N.

    Returns:
        [N, C + 1, H, W], computed in float32.
    """
    n, _, height, width = x.shape
    size = group_size(n, group)
    grouped = x.float().reshape(size, n // size, *x.shape[1:])
    deviation = (grouped.var(dim=0, correction=0) + EPSILON).sqrt().mean(dim=(1, 2, 3))
    extra = deviation.repeat(size)[:, None, None, None].expand(n, 1, height, width)
    return torch.cat([x, extra.to(x.dtype)], dim=1)


def group_size(minibatch: int, wanted: int) -> int:
    """Return the largest divisor of a minibatch that is at most the wanted group; 0 stands for the whole minibatch.

    >>> group_size(14, 4), group_size(14, 0)
    (2, 14)
    """
    return next(size for size in range(min(wanted or minibatch, minibatch), 0, -1) if minibatch % size == 0)


def _rectified(x: Tensor, leaky: bool) -> Tensor:
    return F.leaky_relu(x, 0.2) if leaky else F.relu(x)


def _check(architecture: Architecture, level: int) -> None:
    if level not in architecture.levels:
        raise ValueError(f"level {level} is not one of {LEVEL_MIN} to {architecture.level_max}")


def _layers(blocks: nn.ModuleList, norms: nn.ModuleList, index: int) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield the convolutions of a level, each with its normalization."""
    return zip(blocks[index].children(), norms[index].children(), strict=True)


def _active(net: nn.Module, rgb: str, level: int, alpha: float) -> Iterator[tuple[str, nn.Parameter]]:
    top = level - LEVEL_MIN
    used = {rgb: {top, top - 1} if alpha < 1 else {top}, "blocks": range(top + 1), "norms": range(top + 1)}
    for name, parameter in net.named_parameters():
        part, index, *_ = name.split(".")
        if part not in used or int(index) in used[part]:
            yield name, parameter


def active_layers(net: GeneratorNetwork | DiscriminatorNetwork, level: int, alpha: float) -> list[EqualizedLayer]:
    """Return the layers with weights that a pass at this level and alpha uses."""
    names = {name.rpartition(".")[0] for name, _ in net.active(level, alpha)}
    return [one for name, one in net.named_modules() if name in names and isinstance(one, EqualizedLayer)]
