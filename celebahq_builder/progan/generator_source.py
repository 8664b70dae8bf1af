"""A generator as a source of pictures to evaluate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from celebahq_builder.errors import WeightsError
from celebahq_builder.evaluation.source import Numbers
from celebahq_builder.nets.progan import Generator
from celebahq_builder.progan import grid
from celebahq_builder.progan.export import read_generator
from celebahq_builder.progan.generate import BLOCK, latents
from celebahq_builder.progan.snapshots import Snapshot


class GeneratorSource:
    """Pictures of a generator, as many as are asked for: a `Source`.

    Picture i of a seed is that of `generate.Generated`. Latents pass the network in whole blocks, whatever is asked
    for, so that it is the same to the last bit however many there are.

    Args:
        generator: in evaluation mode, on its device.
        level: log2 of the resolution.
        alpha: how much of that level is in.
        seed: of the latents.
        path: where it comes from.
        about: what else is known of it, for the record.
    """

    count: int | None = None

    def __init__(
        self, generator: Generator, level: int, alpha: float, seed: int, path: Path, about: dict[str, Any]
    ) -> None:
        self.generator, self.level, self.alpha, self.seed = generator, level, alpha, seed
        self.path, self.about = path, about
        self.resolution = 1 << level
        self.channels = generator.architecture.colours

    @classmethod
    def of_file(cls, path: Path, seed: int, device: torch.device) -> Self:
        """Open the generator.safetensors at a path, or in the folder of a run there.

        Raises:
            WeightsError: no such file, not a generator's, or damaged.
        """
        generator, facts = read_generator(path, device)
        about = {"kimg": facts.get("kimg"), "trained_on": facts.get("data")}
        return cls(generator, int(facts["level"]), float(facts["alpha"]), seed, path, about)

    @classmethod
    def of_snapshot(cls, snapshot: Snapshot, seed: int, device: torch.device) -> Self:
        """Open a snapshot of a run.

        Raises:
            TrainingError: the checkpoint cannot be read.
        """
        about = {"kimg": snapshot.kimg, "trained_on": snapshot.data}
        return cls(snapshot.load(device), snapshot.level, snapshot.alpha, seed, snapshot.path, about)

    @property
    def where(self) -> str:
        """How messages name it."""
        return str(self.path)

    @property
    def facts(self) -> dict[str, Any]:
        """Kind, path, and what tells it from others: its weights, level, alpha and seed."""
        return {
            "kind": "generator",
            "path": str(self.path),
            "pictures": None,
            "weights_sha256": weights_sha256(self.generator),
            "level": self.level,
            "alpha": self.alpha,
            "seed": self.seed,
            **self.about,
        }

    def read(self, numbers: Numbers, at_once: int) -> Iterator[Tensor]:
        """Yield pictures of consecutive numbers, uint8 [n, C, R, R].

        Raises:
            WeightsError: the generator makes numbers that are not finite.
        """
        first, last = int(numbers[0]), int(numbers[-1]) + 1
        for block in range(first // BLOCK, -(-last // BLOCK)):
            made = self._block(block)[max(0, first - block * BLOCK) : last - block * BLOCK]
            yield from torch.split(made, at_once)

    def _block(self, block: int) -> Tensor:
        classes = self.generator.architecture.labels
        numbers = torch.arange(block * BLOCK, (block + 1) * BLOCK)
        labels = torch.eye(classes)[numbers % classes] if classes else None
        z = latents(self.generator, block, self.seed)
        try:
            return torch.from_numpy(grid.generated(self.generator, z, self.level, self.alpha, labels))
        except WeightsError as error:
            raise WeightsError(f"{self.path}: {error}") from None


def weights_sha256(generator: Generator) -> str:
    """Return a SHA-256 of a generator's weights, the same wherever they are stored."""
    digest = hashlib.sha256()
    for name, value in sorted(generator.state_dict().items()):
        digest.update(f"{name} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
