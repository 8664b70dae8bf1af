"""Convolutional network that finds the five landmarks of a face in a small crop."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LANDMARKS = 5
"""Points of a face, in CelebA's order."""


class LandmarkNetwork(nn.Module):
    """Hourglass that predicts one heatmap for each landmark.

    A 4x pixel-unshuffle makes cells of 4x4 px. The encoder works at 1/4, 1/8 and 1/16 of the crop's size, the decoder
    returns to 1/4, with sums between them. The position of a landmark is the mean of its heatmap, a softmax over all
    cells (soft-argmax), so it is finer than a cell. A second output estimates the error of each landmark.

    Args:
        widths: channels at 1/4, 1/8 and 1/16 of the size.
        blocks: residual blocks at each of these sizes, in the encoder.
        dropout: share of the channels at 1/16 that are dropped in training.

    References:
        Sun et al. 2018, "Integral Human Pose Regression" (soft-argmax).

    Examples:
        >>> network = LandmarkNetwork((8, 8, 8), (1, 1, 1)).eval()
        >>> points, error, heatmaps = network(torch.rand(2, 3, 64, 64))
        >>> points.shape, error.shape, heatmaps.shape
        (torch.Size([2, 5, 2]), torch.Size([2, 5]), torch.Size([2, 5, 16, 16]))
    """

    STRIDE_PX = 16
    """Height and width of a crop are multiples of this."""

    def __init__(self, widths: tuple[int, int, int], blocks: tuple[int, int, int], dropout: float = 0.0) -> None:
        super().__init__()
        top, middle, bottom = widths
        self.encoder1 = nn.Sequential(nn.PixelUnshuffle(4), _Convolution(48, top), *_stack(top, blocks[0]))
        self.encoder2 = nn.Sequential(_Convolution(top, middle, stride=2), *_stack(middle, blocks[1]))
        self.encoder3 = nn.Sequential(_Convolution(middle, bottom, stride=2), *_stack(bottom, blocks[2]))
        self.dropout = nn.Dropout2d(dropout)
        self.up2 = _Convolution(bottom, middle, kernel=1)
        self.decoder2 = _Convolution(middle, middle)
        self.up1 = _Convolution(middle, top, kernel=1)
        self.decoder1 = _Block(top)
        self.heatmaps = nn.Conv2d(top, LANDMARKS, 1)
        self.error = nn.Linear(bottom, LANDMARKS)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the landmarks of crops.

        Args:
            crops: float [N, 3, S, S], RGB in [0, 1]; S is a multiple of 16.

        Returns:
            Points [N, 5, 2], (x, y) in pixel-edge coordinates as shares of S; the logarithm of their expected scale of
            error, as a share of S, [N, 5]; the heatmaps before the softmax, [N, 5, S / 4, S / 4]. All float32.
        """
        skip1 = self.encoder1((crops - 0.5) * 4)
        skip2 = self.encoder2(skip1)
        deep = self.dropout(self.encoder3(skip2))
        y = self.decoder2(skip2 + F.interpolate(self.up2(deep), scale_factor=2.0))
        y = self.decoder1(skip1 + F.interpolate(self.up1(y), scale_factor=2.0))
        heatmaps = self.heatmaps(y).float()
        error = self.error(deep.mean(dim=(2, 3))).float() - 3.5  # a new network expects errors of 3 % of the crop
        return soft_argmax(heatmaps), error, heatmaps


def soft_argmax(heatmaps: Tensor) -> Tensor:
    """Return the means of heatmaps after a softmax over all cells.

    Args:
        heatmaps: float [N, K, H, W], before the softmax.

    Returns:
        (x, y) as shares of width and height, in pixel-edge coordinates, [N, K, 2].

    Examples:
        >>> heatmap = torch.full((1, 1, 4, 4), -100.0)
        >>> heatmap[..., 1, 3] = 0
        >>> soft_argmax(heatmap)
        tensor([[[0.8750, 0.3750]]])
    """
    share = heatmaps.flatten(2).softmax(dim=-1).view_as(heatmaps)
    x, y = cell_centres(heatmaps.shape[3], heatmaps.device), cell_centres(heatmaps.shape[2], heatmaps.device)
    return torch.stack([(share.sum(dim=2) * x).sum(dim=-1), (share.sum(dim=3) * y).sum(dim=-1)], dim=-1)


def cell_centres(count: int, device: torch.device) -> Tensor:
    """Return the centres of the cells of a heatmap as shares of its size, float [count]."""
    return (torch.arange(count, dtype=torch.float32, device=device) + 0.5) / count


class _Convolution(nn.Sequential):
    """A convolution, batch normalization and a ReLU."""

    def __init__(self, fan_in: int, fan_out: int, kernel: int = 3, stride: int = 1) -> None:
        convolution = nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(fan_out), nn.ReLU())


class _Block(nn.Module):
    """Residual block of two 3x3 convolutions with batch normalization; a new block is the identity before its ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _Convolution(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


def _stack(channels: int, count: int) -> list[_Block]:
    return [_Block(channels) for _ in range(count)]
