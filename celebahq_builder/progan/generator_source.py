"""Snapshots of a run, and generators as image sources."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from celebahq_builder.config import from_mapping
from celebahq_builder.errors import TrainingError, WeightsError
from celebahq_builder.evaluation.image_sources import Numbers
from celebahq_builder.models.generator_file import read_generator
from celebahq_builder.models.progan import Generator
from celebahq_builder.progan import image_grid
from celebahq_builder.progan.checkpoint import NAME
from celebahq_builder.progan.generate import BLOCK, latent_block
from celebahq_builder.progan.schedule import ProGANRecipe

AVERAGED = "averaged."
"""What the names of the averaged generator's tensors begin with in a checkpoint."""


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint as a generator."""

    path: Path
    kimg: float
    """Thousands of real images shown before it."""
    level: int
    alpha: float
    recipe: ProGANRecipe
    data: dict[str, object]
    """What it was trained on; see `train.examine`."""

    @property
    def resolution(self) -> int:
        """Of its images."""
        return 1 << self.level

    @property
    def channels(self) -> int:
        """Of its images."""
        return self.recipe.net.colours

    @property
    def count(self) -> None:
        """As many images as are asked for."""

    @property
    def where(self) -> str:
        """How messages name it."""
        return str(self.path)

    def load(self, device: torch.device) -> Generator:
        """Return the averaged generator in evaluation mode.

        Raises:
            TrainingError: the checkpoint cannot be read.
        """
        try:
            with safe_open(self.path, "pt") as file:
                names = [name for name in file.keys() if name.startswith(AVERAGED)]  # noqa: SIM118 (not a dict)
                tensors = {name.removeprefix(AVERAGED): file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise _unreadable(self.path, error) from None
        generator = Generator(self.recipe.net)
        try:
            generator.load_state_dict(tensors)
        except RuntimeError as error:
            raise _unreadable(self.path, " ".join(str(error).split())[:200]) from None
        return generator.to(device).eval().requires_grad_(False)


def is_run(path: Path) -> bool:
    """Whether a folder is a run of `celebahq train` that holds checkpoints."""
    folder = path / "checkpoints"
    return folder.is_dir() and any(NAME.fullmatch(one.name) for one in folder.iterdir())


def snapshots(run: Path) -> list[Snapshot]:
    """Return the snapshots of a run, the earliest first: its last two checkpoints, and the last of each resolution.

    Raises:
        TrainingError: a checkpoint cannot be read.
    """
    return [_snapshot(path) for path in sorted((run / "checkpoints").iterdir()) if NAME.fullmatch(path.name)]


def _snapshot(path: Path) -> Snapshot:
    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
        progress, identity = json.loads(meta["progress"]), json.loads(meta["identity"])
        images, level = int(progress["images"]), int(progress["level"])
        recipe = from_mapping(ProGANRecipe, identity["recipe"], where=str(path))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise _unreadable(path, error) from None
    moment = recipe.schedule.at(images / 1000, recipe.net.level_max)
    level = level or moment.level
    alpha = moment.alpha if level == moment.level else 1.0
    return Snapshot(path, images / 1000, level, alpha, recipe, dict(identity["data"]))


def _unreadable(path: Path, reason: object) -> TrainingError:
    return TrainingError(f"{path} cannot be read ({reason}); it is damaged: delete it, and evaluate the others")


class GeneratorSource:
    """Images of a generator, as many as are asked for: a `Source`.

    Image i of a seed is that of `generate.Generated`. Latents pass the network in whole blocks, whatever is asked
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
            "images": None,
            "weights_sha256": weights_sha256(self.generator),
            "level": self.level,
            "alpha": self.alpha,
            "seed": self.seed,
            **self.about,
        }

    def read(self, numbers: Numbers, at_once: int) -> Iterator[Tensor]:
        """Yield images of consecutive numbers, uint8 [n, C, R, R].

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
        z = latent_block(self.generator, block, self.seed)
        try:
            return torch.from_numpy(image_grid.generate_images(self.generator, z, self.level, self.alpha, labels))
        except WeightsError as error:
            raise WeightsError(f"{self.path}: {error}") from None


def weights_sha256(generator: Generator) -> str:
    """Return a SHA-256 of a generator's weights, the same wherever they are stored."""
    digest = hashlib.sha256()
    for name, value in sorted(generator.state_dict().items()):
        digest.update(f"{name} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
