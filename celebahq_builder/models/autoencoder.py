"""Convolutional autoencoder that removes JPEG artefacts, and the residual blocks that it shares with the upscaler."""

from __future__ import annotations

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
        return correction.add_(x)


class Autoencoder(nn.Module):
    """Convolutional autoencoder with symmetric skip connections, for photos of unknown JPEG quality.

    It follows RED-Net: an encoder, a mirrored decoder, sums between them, and the input added at the end. Unlike
    RED-Net it is strided: a 2x2 pixel-unshuffle and two strided convolutions do most of the work at 1/2, 1/4 and 1/8
    of the photo's size. A new network is the identity.

    Shapes: [N, 3, H, W] -> [N, 3, H, W], any H, W >= 1. Float, RGB in [0, 1]; the result is not clipped. The cells of
    the coarsest level are 8 px wide and start at the top left corner; results are best if the input is cut on JPEG's
    own grid of 8 or 16 px, as in training.

    Args:
        widths: channels at 1/2, 1/4 and 1/8 of the size.
        blocks: residual blocks at each of these sizes, in the encoder and again in the decoder (once at 1/8).

    References:
        Mao et al. 2016, "Image Restoration Using Very Deep Convolutional Encoder-Decoder Networks with Symmetric Skip
        Connections".

    Examples:
        >>> import torch
        >>> photo = torch.rand(1, 3, 17, 24)
        >>> torch.equal(Autoencoder((4, 6, 8), (1, 1, 1))(photo), photo)
        True
    """

    SCALE = 1
    """Result pixels per input pixel, in each direction."""

    STRIDE_PX = 8
    """Height and width are padded to its multiples inside the network; tiles should start at one."""

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 96), blocks: tuple[int, int, int] = (2, 2, 3)):
        super().__init__()
        top, middle, bottom = widths
        self.head = nn.Conv2d(12, top, 3, padding=1)
        self.encoder1 = _stack(top, blocks[0])
        self.down1 = nn.Conv2d(top, middle, 2, stride=2)
        self.encoder2 = _stack(middle, blocks[1])
        self.down2 = nn.Conv2d(middle, bottom, 2, stride=2)
        self.bottom = _stack(bottom, blocks[2])
        self.up2 = nn.ConvTranspose2d(bottom, middle, 2, stride=2)
        self.decoder2 = _stack(middle, blocks[1])
        self.up1 = nn.ConvTranspose2d(middle, top, 2, stride=2)
        self.decoder1 = _stack(top, blocks[0])
        self.tail = zero_conv(top, 12)

    @property
    def context_px(self) -> int:
        """Pixels around a tile that its result depends on: one cell of the level for each 3x3 convolution."""
        top, middle, bottom = (2 * len(stack) for stack in (self.encoder1, self.encoder2, self.bottom))
        return 2 * (2 + 2 * top) + 4 * 2 * middle + 8 * bottom + self.STRIDE_PX  # a pixel may lie anywhere in its cell

    def forward(self, photo: Tensor) -> Tensor:
        """Return the photo without its compression artefacts."""
        height, width = photo.shape[-2:]
        pad = (0, -width % self.STRIDE_PX, 0, -height % self.STRIDE_PX)
        x = F.pixel_unshuffle(F.pad(photo, pad, mode="replicate") - 0.5, 2)
        skip1 = self.encoder1(self.head(x))
        skip2 = self.encoder2(self.down1(skip1))
        y = self.up2(self.bottom(self.down2(skip2))) + skip2
        y = self.up1(self.decoder2(y)) + skip1
        correction = F.pixel_shuffle(self.tail(self.decoder1(y)), 2)
        return photo + correction[..., :height, :width]


def _stack(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))
