"""Layers that more than one network uses."""

from __future__ import annotations

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a ReLU between them, added to their input.

    Shapes: [N, C, H, W] -> [N, C, H, W], float. The last convolution starts at zero, so a fresh block is the
    identity and a deep stack of them trains from the first step (Zhang et al. 2019, "Fixup initialization").
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` plus the block's correction of it."""
        return x + self.conv2(self.relu(self.conv1(x)))  # type: ignore[no-any-return]


def zero_convolution(fan_in: int, fan_out: int) -> nn.Conv2d:
    """Return a 3x3 convolution that starts at zero: a network that ends in it starts as its skip connection."""
    conv = nn.Conv2d(fan_in, fan_out, 3, padding=1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv
