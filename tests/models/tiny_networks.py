"""Restoration networks small enough for tests, none of whose layers is zero."""

from typing import TypeVar

import torch
from torch import nn

from celebahq_builder.models.autoencoder import Autoencoder
from celebahq_builder.models.srgan import SRGenerator

Net = TypeVar("Net", bound=nn.Module)


def tiny_autoencoder(seed: int = 0) -> Autoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Autoencoder(widths=(6, 8, 10), blocks=(1, 1, 2))


def tiny_generator(blocks: int = 2, noise: int = 0, seed: int = 0) -> SRGenerator:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SRGenerator(width=6, blocks=blocks, noise=noise)


def perturbed(net: Net, seed: int = 1) -> Net:
    """Add noise to all parameters, as if the network had been trained; some start at zero. Gradients are off."""
    net.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in net.parameters():
            parameter += torch.randn_like(parameter) * 0.05
    return net
