"""The networks of this process, loaded once each."""

from __future__ import annotations

import functools
import os

import torch

from celebahq_builder.errors import WeightsError
from celebahq_builder.nets.autoencoder import Autoencoder
from celebahq_builder.nets.srgan import Generator
from celebahq_builder.pretrained import Architecture, entry, load

# oneDNN keeps what it compiled for the last 1024 shapes it met, and every photo has its own: a worker would grow to
# gigabytes. It reads this at its first convolution.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")


@functools.lru_cache(maxsize=4)
def network(weights: str, device: torch.device, architecture: Architecture) -> Autoencoder | Generator:
    """Return a network of the registry, ready to run on a device.

    Raises:
        WeightsError: unknown or altered weights, or those of another kind of network.
    """
    found = entry(weights).shape.architecture
    if found != architecture:
        raise WeightsError(f"weights {weights!r} are of the {found} network; this stage runs the {architecture}")
    return load(weights, device)
