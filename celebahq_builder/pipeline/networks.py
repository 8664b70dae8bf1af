"""The networks of a worker process, each loaded once."""

from __future__ import annotations

import functools
import os

import torch

from celebahq_builder.errors import WeightsError
from celebahq_builder.models.autoencoder import Autoencoder
from celebahq_builder.models.registry import Architecture, find_entry, load_network
from celebahq_builder.models.srgan import SRGenerator

# oneDNN keeps what it compiled for the last 1024 shapes it met, and every photo has its own: a worker would grow to
# gigabytes. It reads this at its first convolution.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")


@functools.lru_cache(maxsize=4)
def network(weights: str, device: torch.device, architecture: Architecture) -> Autoencoder | SRGenerator:
    """Return a network of the registry, ready to run on a device.

    Raises:
        WeightsError: unknown or altered weights, or those of another kind of network.
    """
    found = find_entry(weights).shape.architecture
    if found != architecture:
        raise WeightsError(f"weights {weights!r} are of the {found} network; this stage runs the {architecture}")
    return load_network(weights, device)
