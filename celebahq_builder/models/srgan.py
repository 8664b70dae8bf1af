"""4x super-resolution GAN: the generator, its noise and the discriminators."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from celebahq_builder.models.autoencoder import ResidualBlock, zero_conv

NEIGHBOURS = 9
"""Pixels that determine the noise of a pixel: itself and the 8 around it."""

_KEY = (0x5851F42D4C957F2D, 0x14057B7EF767814F)
"""Multiplier and increment of the generator that absorbs the neighbours (Knuth's MMIX; Steele & Vigna 2021)."""
_STEP, _MIX1, _MIX2 = 0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9, 0x14D049BB133111EB
"""Step from channel to channel and both factors of the finaliser, after SplitMix64 (Steele et al. 2014)."""


def hash_noise(photos: Tensor, channels: int) -> Tensor:
    """Return uniform noise of mean 0 and variance 1 that is a hash of each pixel's 3x3 neighbourhood.

    A network that synthesizes texture needs a random input, or it repeats a few patterns (StyleGAN adds noise for the
    same reason: Karras et al. 2019, section 3.2). Hashed noise needs neither a seed nor a position: tiles of a photo
    meet without a seam, and batches, workers and devices change nothing. Where a photo has one colour, the noise is
    constant.

    Args:
        photos: float [N, 3, H, W], RGB in [0, 1]; rounded to 8 bits before they are hashed.
        channels: channels of noise, at most 9.

    Returns:
        [N, channels, H, W] in [-sqrt 3, sqrt 3], of the dtype of `photos`, without gradient. Beyond the edges the
        outermost pixels are repeated.

    Examples:
        >>> photos = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> noise = hash_noise(photos, channels=4)
        >>> noise.shape, round(float(noise.var()), 1)
        (torch.Size([1, 4, 64, 64]), 1.0)
    """
    levels = photos.detach().float().mul(255).round_().long()
    colour = levels[:, 0] + 256 * levels[:, 1] + 65536 * levels[:, 2]
    height, width = colour.shape[-2:]
    wide = torch.cat([colour[:, :1], colour, colour[:, -1:]], dim=1)
    wide = torch.cat([wide[:, :, :1], wide, wide[:, :, -1:]], dim=2)
    key = torch.zeros_like(colour)
    for i in range(NEIGHBOURS):
        top, left = divmod(i, 3)
        key = (key ^ wide[:, top : top + height, left : left + width]) * _KEY[0] + _KEY[1]  # 64 bits, wrapping
        key = key ^ (key >> 29)
    steps = [
        (i * _STEP + 2**63) % 2**64 - 2**63 for i in range(channels)
    ]  # signed: a compiler may take others for float
    noise = torch.stack([_mixed_bits(key + step) for step in steps], dim=1)
    return noise.to(photos.dtype).div_(65535 / 12**0.5).sub_(3**0.5)


def _mixed_bits(key: Tensor) -> Tensor:
    """Return 16 well mixed bits of 64-bit integers."""
    key = (key ^ (key >> 30)) * _MIX1
    key = (key ^ (key >> 27)) * _MIX2
    return (key >> 31) & 0xFFFF


def bicubic_filters(scale: int) -> Tensor:
    """Return bicubic enlargement as filters of a convolution that a pixel-shuffle follows.

    The filters are the responses of PyTorch's bicubic interpolation to single pixels. As a convolution, the
    enlargement is several times as fast.

    Args:
        scale: result pixels per input pixel, in each direction.

    Returns:
        float32 [3 scale^2, 3, 5, 5]. The photo has to be padded by 2 repeated pixels.

    Examples:
        >>> photo = torch.rand(1, 3, 6, 8)
        >>> parts = F.conv2d(F.pad(photo, (2, 2, 2, 2), mode="replicate"), bicubic_filters(4))
        >>> wanted = F.interpolate(photo, scale_factor=4, mode="bicubic", align_corners=False)
        >>> torch.allclose(F.pixel_shuffle(parts, 4), wanted, atol=1e-5)
        True
    """
    pixels = torch.eye(25).view(25, 1, 5, 5)
    centre = slice(2 * scale, 3 * scale)
    responses = F.interpolate(pixels, scale_factor=scale, mode="bicubic", align_corners=False)[:, 0, centre, centre]
    filters = torch.zeros(3, scale**2, 3, 5, 5)
    for channel in range(3):
        filters[channel, :, channel] = responses.reshape(25, -1).T.reshape(-1, 5, 5)
    return filters.flatten(0, 1)


class SRGenerator(nn.Module):
    """Generator of a 4x super-resolution GAN, after SRResNet (Ledig et al. 2017, section 2.1).

    It differs from SRResNet where later work does: it has no batch normalization (Lim et al. 2017, EDSR); all
    convolutions work at the low resolution, with a single 4x pixel-shuffle at the end (Shi et al. 2016, ESPCN); and the
    skip connection is bicubic enlargement, so a new network is bicubic upscaling. A last step of back-projection
    (Irani & Peleg 1991) corrects the result so that, reduced to the input's size, it stays near the input: detail may
    be synthesized, but colours and shapes are kept. With `noise`, texture that the input does not determine, such as
    that of skin, becomes random instead of a pattern.

    Shapes: [N, 3, H, W] -> [N, 3, 4H, 4W], any H, W >= 1. Float, RGB in [0, 1]; the result is not clipped.

    Args:
        width: channels of the features.
        blocks: residual blocks.
        noise: channels of `hash_noise` that are added to the first features; 0 for pixel accuracy.

    Examples:
        >>> SRGenerator(width=8, blocks=1)(torch.rand(2, 3, 5, 7)).shape
        torch.Size([2, 3, 20, 28])
    """

    SCALE = 4
    """Result pixels per input pixel, in each direction."""

    STRIDE_PX = 1
    """Tiles may start at any input pixel."""

    def __init__(self, width: int = 48, blocks: int = 6, noise: int = 0) -> None:
        super().__init__()
        self.noise = nn.Conv2d(noise, width, 3, padding=1, bias=False) if noise else None
        if self.noise is not None:
            with torch.no_grad():
                self.noise.weight.mul_(0.2)  # noticeable from the first step, but much weaker than the photo
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.tail = zero_conv(width, 3 * self.SCALE**2)
        self.register_buffer("bicubic", bicubic_filters(self.SCALE), persistent=False)
        self.bicubic: Tensor

    @property
    def context_px(self) -> int:
        """Input pixels around a tile that its result depends on.

        One for each 3x3 convolution, two for each of the two bicubic filters of the back-projection, and one for the
        neighbourhood of the noise.
        """
        return 2 + 2 * len(self.body) + 4 + (self.noise is not None)

    def forward(self, photo: Tensor) -> Tensor:
        """Return the photo at four times its width and height."""
        features = self.head(photo - 0.5)
        if self.noise is not None:
            features += self.noise(hash_noise(photo, self.noise.in_channels))
        parts = self.tail(self.body(features)).to(photo.dtype) + self._enlarged_parts(photo)
        enlarged = F.pixel_shuffle(parts, self.SCALE)
        # On a CPU, this filter is faster with contiguous channels. The results are the same.
        small = F.interpolate(
            enlarged.contiguous(), scale_factor=1 / self.SCALE, mode="bicubic", antialias=True, align_corners=False
        )
        return F.pixel_shuffle(parts.add_(self._enlarged_parts(photo - small)), self.SCALE)

    def _enlarged_parts(self, photo: Tensor) -> Tensor:
        """Return bicubic enlargements before the pixel-shuffle, [N, 3 SCALE^2, H, W], of the dtype of `photo`."""
        kind = photo.device.type
        precise = torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
        with precise:  # with half precision, smooth areas would have visible steps
            return F.conv2d(F.pad(photo, (2, 2, 2, 2), mode="replicate"), self.bicubic)


DETAIL_GAIN = 4.0
"""Factor that brings the detail of photographs, a standard deviation of 0.03, to the scale of the photo."""


def _with_detail(photo: Tensor) -> Tensor:
    """Return a photo in [-1, 1] and its amplified detail, [N, 6, H, W]."""
    detail = photo - F.avg_pool2d(photo, 3, stride=1, padding=1, count_include_pad=False)
    return torch.cat([photo * 2 - 1, detail * DETAIL_GAIN], dim=1)


class SRDiscriminator(nn.Module):
    """Patch discriminator: one logit for each neighbourhood, high if it looks like part of a photograph.

    It is fully convolutional, as PatchGAN (Isola et al. 2017), with spectral normalization (Miyato et al. 2018) in
    place of batch normalization. Its first layers work at full resolution, on the texture that a pixel loss cannot
    restore; its last layers see 56 px, enough to distinguish a pattern from skin. Spectral normalization bounds the
    response to small changes, and texture is a small change; so the photo's detail is a second, amplified input.

    Shapes: [N, 3, H, W] -> logits [N, 1, H / 8, W / 8] and the features of each layer. Float, RGB in [0, 1]; H and W
    are multiples of 8.

    Args:
        width: channels of the first layer; the others have 2, 3, 4 and 4 times as many.

    Examples:
        >>> logits, features = SRDiscriminator(width=4)(torch.rand(1, 3, 16, 24))
        >>> logits.shape, len(features)
        (torch.Size([1, 1, 2, 3]), 5)
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        plan = [
            (6, width, 3, 1),
            (width, 2 * width, 4, 2),
            (2 * width, 3 * width, 4, 2),
            (3 * width, 4 * width, 4, 2),
            (4 * width, 4 * width, 3, 1),
        ]
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(fan_in, fan_out, kernel, stride, padding=1))
            for fan_in, fan_out, kernel, stride in plan
        )
        self.judge = spectral_norm(nn.Conv2d(4 * width, 1, 3, padding=1))

    def forward(self, photo: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the logits and the features of each layer."""
        x, features = _with_detail(photo), []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.judge(x), features


class UNetDiscriminator(nn.Module):
    """U-Net discriminator: one logit for each pixel, high if it looks like part of a photograph.

    It is that of Real-ESRGAN (Wang et al. 2021, section 3.4) at a quarter of its width: an encoder with three strided
    convolutions, a decoder with bilinear enlargement, and sums between them; all convolutions have spectral
    normalization. The logit of a pixel depends on its surroundings and on the pixel itself. As in `SRDiscriminator`,
    the detail of the photo is a second, amplified input.

    Shapes: [N, 3, H, W] -> logits [N, 1, H, W] and the features of the encoder. Float, RGB in [0, 1]; H and W are
    multiples of 8.

    Args:
        width: channels at full resolution; there are 2, 4 and 8 times as many at 1/2, 1/4 and 1/8 of it.

    Examples:
        >>> logits, features = UNetDiscriminator(width=4)(torch.rand(1, 3, 16, 24))
        >>> logits.shape, len(features)
        (torch.Size([1, 1, 16, 24]), 4)
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.head = spectral_norm(nn.Conv2d(6, width, 3, padding=1))
        self.down = nn.ModuleList(
            spectral_norm(nn.Conv2d(fan_in, fan_out, 4, 2, padding=1, bias=False))
            for fan_in, fan_out in pairwise(widths)
        )
        self.up = nn.ModuleList(
            spectral_norm(nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False))
            for fan_in, fan_out in pairwise(reversed(widths))
        )
        self.last = spectral_norm(nn.Conv2d(width, width, 3, padding=1, bias=False))
        self.judge = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, photo: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the logits and the features of the encoder, from the finest to the coarsest."""
        features = [F.leaky_relu(self.head(_with_detail(photo)), 0.2)]
        for layer in self.down:
            features.append(F.leaky_relu(layer(features[-1]), 0.2))
        x = features[-1]
        for layer, skip in zip(self.up, reversed(features[:-1]), strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.leaky_relu(layer(x), 0.2) + skip
        return self.judge(F.leaky_relu(self.last(x), 0.2)), features
