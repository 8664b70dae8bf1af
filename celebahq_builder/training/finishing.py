"""What is done to an upscaler's averaged weights before they are used: mixed with the start's, and levelled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from celebahq_builder.nets.srgan import Generator

ROUNDS = 2
"""The back-projection takes a part of every correction away again: the second round makes up for it."""


@torch.no_grad()
def mix(net: Generator, start: Mapping[str, Tensor], share: float) -> None:
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
def phase_means(net: Generator, pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return how much lighter than the truth each of the 4x4 pixels is that one pixel becomes, in the mean.

    Args:
        net: the network.
        pairs: photos [N, 3, H, W] and the truths [N, 3, 4H, 4W], float, [0, 1]; at least one.

    Returns:
        float64 [3, 4, 4], RGB, the mean over all 16 taken off.
    """
    total, count = torch.zeros(3, 4, 4, dtype=torch.float64), 0
    for low, high in pairs:
        phases = F.pixel_unshuffle(net(low) - high, Generator.SCALE)  # channel 16 c + 4 row + column
        total += phases.double().mean(dim=(0, 2, 3)).view(3, 4, 4).cpu()
        count += 1
    return total / count - (total / count).mean(dim=(1, 2), keepdim=True)


@torch.no_grad()
def level(net: Generator, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Set the last layer's bias so that no pixel of the 4x4 is lighter than the others in the mean, in place.

    A discriminator sees a checkerboard of a few levels late; a bias for each of the 16 places (and colours) that come
    from one pixel takes its constant part away. The arguments are those of `phase_means`, but `pairs` is read
    `ROUNDS` times.
    """
    bias = net.tail.get_parameter("bias")
    for _ in range(ROUNDS):
        bias.sub_(phase_means(net, pairs).flatten().to(bias))
