"""A stage that runs a network: its weights in the fingerprint, and the same weights in every worker."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from celebahq_builder.models.community import base_name, pinned, weights_sha256
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.stage import BuildInputs, PhotoContext, PhotoStage, Precision
from celebahq_builder.run_directory.state import Table

if TYPE_CHECKING:
    from torch import Tensor

    from celebahq_builder.pipeline.networks import Architecture


log = logging.getLogger(__name__)


class NetworkSettings(Protocol):
    """Settings of a stage that runs a network; a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def weights(self) -> str:
        """NAME in pretrained/registry.toml, DIR/NAME in another registry, or file:PATH of a weight file."""

    @property
    def tile_px(self) -> int:
        """Side length of the tiles; bounds the memory."""

    @property
    def precision(self) -> Precision:
        """Precision of the convolutions."""


N = TypeVar("N", bound=NetworkSettings)


class NetworkStage(PhotoStage[N]):
    """A stage that runs a network over the pixels of faces."""

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
        from celebahq_builder.pipeline.networks import network

        found = network(settings.weights, torch.device("cpu"), self.architecture, settings.precision)
        if isinstance(found, CommunityNetwork):
            log.info("%s: %s", self.name, found)
            if found.warning:
                log.warning("%s", found.warning)

    def run_network(self, faces: Sequence[Face], settings: N, context: PhotoContext) -> list[Tensor]:
        """Return the pixels of faces after the network; see `networks.run_network`."""
        from celebahq_builder.pipeline.networks import run_network

        return run_network(faces, settings.weights, self.architecture, settings.tile_px, context, settings.precision)
