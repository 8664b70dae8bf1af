"""The networks of a worker process: loaded once, run over the windows of faces."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor

from celebahq_builder.device_errors import is_out_of_memory
from celebahq_builder.errors import WeightsError
from celebahq_builder.imaging.tiles import run_tiled_all
from celebahq_builder.models.autoencoder import Autoencoder
from celebahq_builder.models.registry import find_entry, load_network
from celebahq_builder.models.srgan import SRGenerator
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.stage import PhotoContext, Precision

# oneDNN caches what it compiled for the last 1024 shapes, and each photo has its own shape: a worker would grow to
# gigabytes. It reads this variable at its first convolution.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")


Architecture = Literal["autoencoder", "srgan"]
"""The networks that a build runs."""


@functools.lru_cache(maxsize=4)
def network(weights: str, device: torch.device, architecture: Architecture) -> Autoencoder | SRGenerator:
    """Return a network of the registry, ready to run on a device.

    Raises:
        WeightsError: unknown or changed weights, or weights of another network.
    """
    found = find_entry(weights).shape.architecture
    if found != architecture:
        raise WeightsError(f"weights {weights!r} are of the {found} network; this stage runs the {architecture}")
    return cast("Autoencoder | SRGenerator", load_network(weights, device))


def run_network(
    faces: Sequence[Face],
    weights: str,
    architecture: Architecture,
    scale: int,
    tile_px: int,
    context: PhotoContext,
    precision: Precision = "fp32",
) -> list[Tensor]:
    """Return the pixels of faces after a network, uint8 [3, scale H, scale W] each.

    Windows of equal shape pass the network in batches. Where the device has too little memory, batches are halved.

    Args:
        faces: all on one device; may be none.
        weights: name in a registry.
        architecture: the network that the weights must belong to.
        scale: output px per input px.
        tile_px: side length of the tiles in input px; bounds the memory.
        context: `batch_windows` is halved in place.
        precision: of the convolutions.
    """
    if not faces:
        return []
    net = network(weights, context.device, architecture)

    def run(windows: Tensor) -> Tensor:
        with torch.autocast(context.device.type, torch.bfloat16, enabled=precision == "bf16"):
            result: Tensor = net(windows)
        return result

    while True:
        try:
            return run_tiled_all(
                run,
                [face.pixels for face in faces],
                scale=scale,
                tile_px=tile_px,
                context_px=net.context_px,
                stride_px=net.STRIDE_PX,
                batch=context.batch_windows,
            )
        except RuntimeError as error:
            if context.batch_windows == 1 or not is_out_of_memory(error):
                raise
        context.batch_windows //= 2  # outside of `except`, where the error no longer holds references to tensors
        torch.cuda.empty_cache()
