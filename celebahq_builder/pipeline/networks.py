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
from celebahq_builder.models.community import Task, is_weight_file, load_community_network, pinned
from celebahq_builder.models.community_network import CommunityNetwork
from celebahq_builder.models.registry import find_entry, load_network
from celebahq_builder.models.srgan import SRGenerator
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.stage import PhotoContext, Precision

# oneDNN caches what it compiled for the last 1024 shapes, and each photo has its own shape: a worker would grow to
# gigabytes. It reads this variable at its first convolution.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")


Architecture = Literal["autoencoder", "srgan"]
"""The networks that a build runs."""

TASKS: dict[Architecture, Task] = {"autoencoder": "denoise", "srgan": "upscale"}
"""The stage that runs each of them; a weight file of another project takes the place of its network."""


def network(
    weights: str, device: torch.device, architecture: Architecture, precision: Precision = "fp32"
) -> Autoencoder | SRGenerator | CommunityNetwork:
    """Return a network of the registry or of a weight file, ready to run on a device.

    Raises:
        WeightsError: unknown or changed weights, weights of another network, or one without this precision.
    """
    found = cached_network(pinned(weights), device, architecture)
    if precision == "bf16" and isinstance(found, CommunityNetwork) and not found.descriptor.supports_bfloat16:
        raise WeightsError(
            f"{found.path} ({found.descriptor.architecture.name}) cannot run in bfloat16; leave out "
            f'{TASKS[architecture]}.precision = "bf16"'
        )
    return found


@functools.lru_cache(maxsize=4)
def cached_network(
    weights: str, device: torch.device, architecture: Architecture
) -> Autoencoder | SRGenerator | CommunityNetwork:
    """Return a network; the name of a weight file contains its hash."""
    if is_weight_file(weights):
        return load_community_network(weights, TASKS[architecture], device)
    found = find_entry(weights).shape.architecture
    if found != architecture:
        raise WeightsError(f"weights {weights!r} are of the {found} network; this stage runs the {architecture}")
    return cast("Autoencoder | SRGenerator", load_network(weights, device))


def run_network(
    faces: Sequence[Face],
    weights: str,
    architecture: Architecture,
    tile_px: int,
    context: PhotoContext,
    precision: Precision = "fp32",
) -> list[Tensor]:
    """Return the pixels of faces after a network, uint8 [3, SCALE H, SCALE W] each, with the SCALE of the network.

    Windows of equal shape pass the network in batches. Where the device has too little memory, batches are halved.

    Args:
        faces: all on one device; may be none.
        weights: name in a registry, or a weight file.
        architecture: the network that the weights must belong to.
        tile_px: largest side length of the tiles in input px; bounds the memory. A network of a weight file may need
            smaller ones.
        context: `batch_windows` is halved in place.
        precision: of the convolutions.
    """
    if not faces:
        return []
    net = network(weights, context.device, architecture, precision)
    if isinstance(net, CommunityNetwork):
        tile_px = net.footprint.tile_px(tile_px)

    def run(windows: Tensor) -> Tensor:
        with torch.autocast(context.device.type, torch.bfloat16, enabled=precision == "bf16"):
            result: Tensor = net(windows)
        return result

    while True:
        try:
            return run_tiled_all(
                run,
                [face.pixels for face in faces],
                scale=net.SCALE,
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
