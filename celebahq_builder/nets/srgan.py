"""The 4x super-resolution network and its adversary."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from celebahq_builder.nets.grain import grain
from celebahq_builder.nets.layers import ResidualBlock, zero_convolution


class Generator(nn.Module):
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
        self.tail = zero_convolution(width, 3 * self.SCALE**2)

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
            features = features + self.noise(grain(photo, self.noise.in_channels))
        detail = F.pixel_shuffle(self.tail(self.body(features)), self.SCALE)
        enlarged = detail + F.interpolate(photo, scale_factor=self.SCALE, mode="bicubic", align_corners=False)
        small = F.interpolate(
            enlarged, scale_factor=1 / self.SCALE, mode="bicubic", antialias=True, align_corners=False
        )
        return enlarged + F.interpolate(photo - small, scale_factor=self.SCALE, mode="bicubic", align_corners=False)


class Discriminator(nn.Module):
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
