"""The 4x super-resolution generator, its noise, and its discriminator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from celebahq_builder.models.layers import ResidualBlock, zero_conv

NEIGHBOURS = 9
"""Pixels that decide the noise of one: itself and those around it."""

_KEY = (0x5851F42D4C957F2D, 0x14057B7EF767814F)
"""Multiplier and increment of the generator that takes the neighbours in (Knuth's MMIX and Steele & Vigna 2021)."""
_STEP, _MIX1, _MIX2 = 0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9, 0x14D049BB133111EB
"""Step from channel to channel and the two factors of the finisher, after SplitMix64 (Steele et al. 2014)."""


def hash_noise(photos: Tensor, channels: int) -> Tensor:
    """Return uniform noise of mean 0 and variance 1, a hash of each pixel's 8-bit neighbourhood of 3x3.

    A network that is to make up texture needs something random to make it from, or it repeats what patterns it has
    (Karras et al. 2019, StyleGAN, section 3.2, give it noise of a generator). Noise that is hashed from the pixels
    needs no seed and no position: tiles of a photo meet without a seam, and a batch, a worker or a device changes
    nothing. Where a photo is of one colour, so is its noise.

    Args:
        photos: float [N, 3, H, W], RGB in [0, 1]; taken as rounded to 8 bits.
        channels: channels of noise.

    Returns:
        [N, channels, H, W], the dtype of `photos`, in [-sqrt 3, sqrt 3], without gradient. It depends on the pixel and
        the 8 around it; beyond the edge, on the edge's.
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
    noise = torch.stack([_finished(key + i * _STEP) for i in range(channels)], dim=1)
    return noise.to(photos.dtype).div_(65535 / 12**0.5).sub_(3**0.5)


def _finished(key: Tensor) -> Tensor:
    """Return 16 well mixed bits of 64."""
    key = (key ^ (key >> 30)) * _MIX1
    key = (key ^ (key >> 27)) * _MIX2
    return (key >> 31) & 0xFFFF


class SRGenerator(nn.Module):
    """The generator of a 4x super-resolution GAN, after SRResNet (Ledig et al. 2017, section 2.1).

    It differs from SRResNet in what later work dropped or replaced: no batch normalisation (Lim et al. 2017,
    EDSR), all convolutions at the low resolution with a single 4x pixel-shuffle at the end (Shi et al. 2016,
    ESPCN), and the bicubic enlargement as skip connection, so that an untrained network is bicubic upscaling. A last
    step brings what the result says at the input's size back to the input (Irani & Peleg 1991, back-projection):
    whatever detail is made up, colours and shapes stay. A generator for adversarial training is also given noise, so
    that texture which nobody can know, such as skin's, comes out random instead of as a pattern.

    Shapes: [N, 3, H, W] -> [N, 3, 4H, 4W], any H, W >= 1. Float, RGB in [0, 1]; the result is not clipped.
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
                self.noise.weight.mul_(0.2)  # felt from the first step on, but much less than the photo
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.tail = zero_conv(width, 3 * self.SCALE**2)

    @property
    def context_px(self) -> int:
        """Input pixels around a tile that its result depends on.

        One per 3x3 convolution, then two for each of the bicubic filters of the back-projection; one more for the
        neighbours that the noise depends on.
        """
        return 2 + 2 * len(self.body) + 4 + (self.noise is not None)

    def forward(self, photo: Tensor) -> Tensor:
        """Return the photo at four times its width and height."""
        features = self.head(photo - 0.5)
        if self.noise is not None:
            features = features + self.noise(hash_noise(photo, self.noise.in_channels))
        detail = F.pixel_shuffle(self.tail(self.body(features)), self.SCALE)
        enlarged = detail + F.interpolate(photo, scale_factor=self.SCALE, mode="bicubic", align_corners=False)
        small = F.interpolate(
            enlarged, scale_factor=1 / self.SCALE, mode="bicubic", antialias=True, align_corners=False
        )
        return enlarged + F.interpolate(photo - small, scale_factor=self.SCALE, mode="bicubic", align_corners=False)


class SRDiscriminator(nn.Module):
    """A patch discriminator: says for every neighbourhood whether it looks like a photograph's.

    Fully convolutional, as in Isola et al. 2017 (PatchGAN), with spectral normalisation (Miyato et al. 2018) in
    place of batch normalisation. Its first layers work at full resolution, where the texture is that a pixel loss
    cannot restore; its last ones see 56 px, enough to tell a pattern from skin. Spectral normalisation bounds how
    strongly a small change can be answered, and texture is a small change: so the photo's detail is shown once more,
    amplified.

    Shapes: [N, 3, H, W] -> logits [N, 1, H / 8, W / 8] and the features of each layer. Float, RGB in [0, 1];
    H and W multiples of 8.
    """

    DETAIL_GAIN = 4.0
    """Brings the detail of photographs, some 0.03 of standard deviation, to the size of the rest."""

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
        """Return logits, high for photographs, and each layer's features."""
        detail = photo - F.avg_pool2d(photo, 3, stride=1, padding=1, count_include_pad=False)
        x, features = torch.cat([photo * 2 - 1, detail * self.DETAIL_GAIN], dim=1), []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.judge(x), features
