"""Generators as image sources for evaluation: exported ones, and the checkpoints of a run."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from celebahq_builder.config import from_mapping
from celebahq_builder.errors import TrainingError, WeightsError
from celebahq_builder.evaluation.image_sources import Numbers
from celebahq_builder.models.generator_file import build_generator, load_generator
from celebahq_builder.models.progan import Architecture, GeneratorNetwork
from celebahq_builder.progan.generate import BLOCK, generate_block
from celebahq_builder.progan.schedule import ProGANRecipe
from celebahq_builder.training.checkpoint import Checkpoint, DamagedCheckpoint, checkpoint_paths, read_checkpoint


def is_run(path: Path) -> bool:
    """Return whether a path is the folder of a ProGAN training that has checkpoints."""
    return bool(checkpoint_paths(path / "checkpoints"))


def checkpoint_sources(run: Path, seed: int, device: torch.device) -> list[GeneratorSource]:
    """Return the checkpoints of a run, the earliest first: the last two, and the last of each resolution.

    Raises:
        TrainingError: a checkpoint is damaged.
    """
    paths = checkpoint_paths(run / "checkpoints")
    return [GeneratorSource.of_checkpoint(path, seed, device) for path in paths]


class GeneratorSource:
    """Generated images as an `evaluation.image_sources.ImageSource` without end.

    Image i of a seed is that of `generate.GeneratedImages`. Latents pass the network in whole blocks, whichever images
    are read, so that an image has the same bits in every evaluation.

    Args:
        path: of its file, for messages and records.
        load: returns the generator in evaluation mode, on its device. It is called when the first image is read.
        channels: of its images: 3, or 1 for grey.
        level: log2 of the resolution.
        alpha: weight of that level, in (0, 1].
        seed: of the latents.
        kimg: thousands of real images that it was trained on, if it is known.
        trained_on: identity of the training data, if it is known; see `real_images.DataIdentity`.
    """

    count: int | None = None

    def __init__(
        self,
        path: Path,
        load: Callable[[], GeneratorNetwork],
        channels: int,
        level: int,
        alpha: float,
        seed: int,
        kimg: float | None = None,
        trained_on: Mapping[str, object] | None = None,
    ) -> None:
        self.path, self.load, self.channels, self.kimg, self.trained_on = path, load, channels, kimg, trained_on
        self.level, self.alpha, self.seed = level, alpha, seed
        self.resolution = 1 << level

    @classmethod
    def of_file(cls, path: Path, seed: int, device: torch.device) -> Self:
        """Open a ``generator.safetensors``, or the one in the folder of a run.

        Raises:
            WeightsError: there is no such file, it is of another format, or it is damaged.
        """
        made = load_generator(path, device)
        network = made.network
        channels = network.architecture.colours
        return cls(path, lambda: network, channels, made.level, made.alpha, seed, made.kimg, made.data)

    @classmethod
    def of_checkpoint(cls, path: Path, seed: int, device: torch.device) -> Self:
        """Open a checkpoint of a run; its averaged generator is loaded when the first image is read.

        Raises:
            TrainingError: the checkpoint is damaged; also later, when it is loaded.
        """
        checkpoint = _read(path, verify=False)
        try:
            settings = {key: value for key, value in checkpoint.config.items() if key != "data"}
            recipe = from_mapping(ProGANRecipe, settings, where=str(path))
            progress, data = checkpoint.state["progress"], checkpoint.config["data"]
            kimg, last_level = float(progress["images"]) / 1000, int(progress["level"])
            level, alpha = recipe.schedule.trained_level(kimg, last_level, recipe.net.level_max)
            if level not in recipe.net.levels or not isinstance(data, dict):
                raise TypeError(f"level {level}, data {type(data).__name__}")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise _damaged(path, f"{type(error).__name__} {error}") from None
        load = functools.partial(_load_averaged, path, recipe.net, device)
        return cls(path, load, recipe.net.colours, level, alpha, seed, kimg, data)

    @functools.cached_property
    def generator(self) -> GeneratorNetwork:
        """The network in evaluation mode, on its device."""
        return self.load()

    @property
    def where(self) -> str:
        """Its name in messages."""
        return str(self.path)

    @property
    def facts(self) -> dict[str, object]:
        """The record of this source in an evaluation: kind, path, and what decides its images."""
        return {
            "kind": "generator",
            "path": str(self.path),
            "images": None,
            "weights_sha256": weights_sha256(self.generator),
            "level": self.level,
            "alpha": self.alpha,
            "seed": self.seed,
            "kimg": self.kimg,
            "trained_on": self.trained_on,
        }

    def read(self, numbers: Numbers, at_once: int) -> Iterator[Tensor]:
        """Yield images of consecutive numbers, uint8 [n, C, R, R], n at most `at_once`.

        Raises:
            WeightsError: the generator returns values that are not finite.
        """
        first, last = int(numbers[0]), int(numbers[-1]) + 1
        for block in range(first // BLOCK, -(-last // BLOCK)):
            made = self._block(block)[max(0, first - block * BLOCK) : last - block * BLOCK]
            yield from torch.split(made, at_once)

    def _block(self, block: int) -> Tensor:
        try:
            return torch.from_numpy(generate_block(self.generator, self.level, self.alpha, self.seed, block))
        except WeightsError as error:
            raise WeightsError(f"{self.path}: {error}") from None


def weights_sha256(generator: GeneratorNetwork) -> str:
    """Return the SHA-256 of a generator's weights, which does not depend on the file that holds them."""
    digest = hashlib.sha256()
    for name, value in sorted(generator.state_dict().items()):
        digest.update(f"{name} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _load_averaged(path: Path, architecture: Architecture, device: torch.device) -> GeneratorNetwork:
    try:
        return build_generator(architecture, _read(path, verify=True).state["networks"]["averaged"], device)
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, " ".join(str(error).split())[:200]) from None


def _read(path: Path, *, verify: bool) -> Checkpoint:
    try:
        return read_checkpoint(path, verify=verify)
    except DamagedCheckpoint as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, reason: object) -> TrainingError:
    return TrainingError(f"{path} is damaged ({reason}); delete it to evaluate the other checkpoints")
