"""A stage that runs a network: its weights in the fingerprint, the same weights in every worker, loaded once."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, cast

from celebahq_builder.errors import WeightsError
from celebahq_builder.models.community import (
    Task,
    base_name,
    is_weight_file,
    load_community_network,
    pinned,
    weights_sha256,
)
from celebahq_builder.models.registry import find_entry, load_network
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.stage import BuildInputs, PhotoContext, PhotoStage, Precision
from celebahq_builder.run_directory.state import Table

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from celebahq_builder.models.autoencoder import Autoencoder
    from celebahq_builder.models.community_network import CommunityNetwork
    from celebahq_builder.models.srgan import SRGenerator

log = logging.getLogger(__name__)

Architecture = Literal["autoencoder", "srgan"]
"""The networks that a build runs."""

TASKS: dict[Architecture, Task] = {"autoencoder": "denoise", "srgan": "upscale"}
"""The stage that runs each of them; a weight file of another project takes the place of its network."""


class NetworkSettings(Protocol):
    """Settings of a stage that runs a network; a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def weights(self) -> str:
        """NAME in pretrained/registry.toml, DIR/NAME in another registry, or file:PATH of a weight file."""

    @property
    def tile_px(self) -> int:
        """Largest side length of the tiles in input px; bounds the memory. A weight file may need smaller ones."""

    @property
    def precision(self) -> Precision:
        """Precision of the convolutions."""


N = TypeVar("N", bound=NetworkSettings)


class NetworkStage(PhotoStage[N]):
    """A stage that runs a network over the pixels of faces."""

    restores = True
    grouped = True
    architecture: ClassVar[Architecture]
    """The network that weights of a registry must belong to."""

    def fingerprinted(self, settings: N) -> Table:
        """Return the settings that distinguish results; a weight file may move to another folder."""
        return {**super().fingerprinted(settings), "weights": base_name(settings.weights)}

    def ingredients(self, settings: N, inputs: BuildInputs) -> dict[str, str]:
        """Return the hash of the weights."""
        return {"weights_sha256": weights_sha256(settings.weights)}

    def for_workers(self, settings: N, ingredients: Table) -> N:
        """Return the settings with a weight file's absolute path and hash, so that no worker runs another network."""
        return replace(settings, weights=pinned(settings.weights, str(ingredients["weights_sha256"])))

    def load(self, settings: N) -> None:
        """Load the network.

        Raises:
            WeightsError: unknown or changed weights, weights of another network, or a package is missing.
        """
        import torch

        from celebahq_builder.models.community_network import CommunityNetwork

        found = network(settings.weights, torch.device("cpu"), self.architecture, settings.precision)
        if isinstance(found, CommunityNetwork):
            log.info("%s: %s", self.name, found)
            if found.warning:
                log.warning("%s", found.warning)

    def run_network(self, faces: Sequence[Face], settings: N, context: PhotoContext) -> list[Tensor]:
        """Return the pixels of faces after the network, uint8 [3, SCALE H, SCALE W] each, with its SCALE.

        Windows of equal shape pass the network in batches. Where the device has too little memory,
        `context.batch_windows` is halved in place.
        """
        import torch

        from celebahq_builder.device_errors import is_out_of_memory
        from celebahq_builder.imaging.tiles import run_tiled_all
        from celebahq_builder.models.community_network import CommunityNetwork

        if not faces:
            return []
        net = network(settings.weights, context.device, self.architecture, settings.precision)
        tile_px = net.footprint.tile_px(settings.tile_px) if isinstance(net, CommunityNetwork) else settings.tile_px

        def run(windows: Tensor) -> Tensor:
            with torch.autocast(context.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
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


def network(
    weights: str, device: torch.device, architecture: Architecture, precision: Precision = "fp32"
) -> Autoencoder | SRGenerator | CommunityNetwork:
    """Return a network of the registry or of a weight file, ready to run on a device; a process loads it once.

    Raises:
        WeightsError: unknown or changed weights, weights of another network, or one without this precision.
    """
    from celebahq_builder.models.community_network import CommunityNetwork

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
    # oneDNN caches what it compiled for the last 1024 shapes, and each photo has its own shape: a worker would grow to
    # gigabytes. It reads this variable at its first convolution.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
    if is_weight_file(weights):
        return load_community_network(weights, TASKS[architecture], device)
    found = find_entry(weights).shape.architecture
    if found != architecture:
        raise WeightsError(f"weights {weights!r} are of the {found} network; this stage runs the {architecture}")
    return cast("Autoencoder | SRGenerator", load_network(weights, device))
