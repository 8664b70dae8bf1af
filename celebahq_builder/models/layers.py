"""Layers that several networks share: residual blocks, and layers with an equalized learning rate."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def zero_conv(fan_in: int, fan_out: int) -> nn.Conv2d:
    """Return a 3x3 convolution that starts at zero; a network that ends in it starts as its skip connection."""
    conv = nn.Conv2d(fan_in, fan_out, 3, padding=1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a ReLU between them, added to their input.

    Shapes: [N, C, H, W] -> [N, C, H, W], float. The last convolution starts at zero, so a new block is the identity
    and a deep stack of blocks trains from the first step (Zhang et al. 2019, "Fixup Initialization").
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = zero_conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` plus the block's correction."""
        correction: Tensor = self.conv2(self.relu(self.conv1(x)))
        return x + correction


GAIN = math.sqrt(2)
"""Gain of a layer before a rectifier (He et al. 2015)."""


class _Equalized(nn.Module):
    """Weights drawn from N(0, 1) that are multiplied by gain / sqrt(fan in) at run time.

    All weights then have the same dynamic range and, with an optimiser that normalises gradients as Adam does, the same
    speed of learning (Karras et al. 2018, section 4.1). With `equalized` false the initial weights contain the factor
    instead (He et al. 2015). Biases start at zero and are not scaled.
    """

    def __init__(self, shape: tuple[int, ...], gain: float, equalized: bool) -> None:
        super().__init__()
        scale = gain / math.sqrt(math.prod(shape[1:]))
        self.weight = nn.Parameter(torch.randn(shape) * (1.0 if equalized else scale))
        self.bias = nn.Parameter(torch.zeros(shape[0]))
        self.scale = scale if equalized else 1.0

    def scaled(self) -> Tensor:
        """Return the weights that the layer applies."""
        return self.weight * self.scale if self.scale != 1.0 else self.weight


class EqualizedConv2d(_Equalized):
    """Convolution of stride 1 that keeps the image's size: [N, fan_in, H, W] -> [N, fan_out, H, W]."""

    def __init__(self, fan_in: int, fan_out: int, kernel: int = 3, gain: float = GAIN, equalized: bool = True) -> None:
        super().__init__((fan_out, fan_in, kernel, kernel), gain, equalized)
        self.padding = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of `x`."""
        return F.conv2d(x, self.scaled(), self.bias, padding=self.padding)


class EqualizedLinear(_Equalized):
    """Dense layer: [N, fan_in] -> [N, fan_out]."""

    def __init__(self, fan_in: int, fan_out: int, gain: float = GAIN, equalized: bool = True) -> None:
        super().__init__((fan_out, fan_in), gain, equalized)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weights times `x`, plus the bias."""
        return F.linear(x, self.scaled(), self.bias)
