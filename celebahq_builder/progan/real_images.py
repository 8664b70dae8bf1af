"""Real images of a ProGAN training."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from celebahq_builder.data import loader
from celebahq_builder.data.dataset import Batch, PyramidDataset
from celebahq_builder.data.sampler import Order
from celebahq_builder.errors import TrainingError
from celebahq_builder.hdf5.labels import LabelSource, labels_for_training, labels_path
from celebahq_builder.hdf5.reader import PyramidFile, content_sha256
from celebahq_builder.imaging.pyramid import Pixels
from celebahq_builder.progan.schedule import Moment, ProganRecipe
from celebahq_builder.storage import sha256
from celebahq_builder.training.distributed import World


class RealImages:
    """The images of an HDF5 file, in the order that a training draws them.

    Args:
        path: of the HDF5 file.
        recipe: of the training.
        world: whose share of the minibatches this process gets.
        workers: processes that read; 0: threads.
        memory_bytes: budget for keeping a level in memory.

    Raises:
        FormatError: no such file, or without usable levels or labels.
        TrainingError: too small, too few, or of other colours than the recipe's network.
    """

    def __init__(
        self, path: Path, recipe: ProganRecipe, world: World, *, workers: int = 0, memory_bytes: int = 2 * 2**30
    ) -> None:
        self.path, self.recipe, self.world = path, recipe, world
        self.workers, self.memory_bytes = workers, memory_bytes
        self.count, self.fingerprint = examine(path, recipe)
        self.labels = read_labels(path, recipe, self.count)
        """Of all images, float32 [N, classes], or None where the networks take none."""
        self.order = Order(self.count, recipe.seed)
        """Its state is where the training stands in the data."""

    def minibatches(self, now: Callable[[], Moment]) -> Generator[Batch, None, None]:
        """Yield this process' share of one minibatch after the other, never ending.

        Args:
            now: where the training stands; asked before each minibatch, which has its resolution and its size.
        """
        while True:
            moment = now()
            with closing(self._of(moment)) as batches:
                while (now().level, now().minibatch) == (moment.level, moment.minibatch):
                    yield next(batches)

    def some(self, count: int) -> Pixels:
        """Return the same `count` images whenever they are asked for, uint8 [count, C, R, R]; fewer if there are."""
        numbers = np.random.default_rng((self.recipe.seed, 1)).permutation(self.count)[:count]
        return PyramidDataset(self.path, self.recipe.net.resolution, memory_bytes=0).read(numbers)

    def _of(self, moment: Moment) -> Generator[Batch, None, None]:
        dataset = PyramidDataset(
            self.path,
            moment.resolution,
            mirror=self.recipe.mirror,
            labels=_source(self.path) if self.recipe.net.labels else None,
            memory_bytes=self.memory_bytes,
        )
        return loader(
            dataset,
            moment.minibatch,
            self.order,
            rank=self.world.rank,
            world=self.world.size,
            workers=self.workers,
            pin=self.world.device.type == "cuda",
        )


def read_labels(data: Path, recipe: ProganRecipe, count: int) -> Tensor | None:
    """Return the labels of all images, float32 [N, classes], or None where the recipe's networks take none.

    Raises:
        FormatError: there are none, or not one row for each image.
        TrainingError: others than the networks take.
    """
    wanted = recipe.net.labels
    if not wanted:
        return None
    found, _ = labels_for_training(data, _source(data), count)
    if found.shape[1] != wanted:
        raise TrainingError(
            f"{data} has {found.shape[1]} labels for each image, the recipe net.labels = {wanted}; set it so"
        )
    return torch.from_numpy(found)


def _source(data: Path) -> LabelSource:
    """Return where labels are to be found: beside the file before those within, as it is made for the purpose."""
    with PyramidFile(data) as file:
        return "file" if labels_path(data).exists() or file.column("attributes") is None else "attributes"


def examine(data: Path, recipe: ProganRecipe) -> tuple[int, dict[str, Any]]:
    """Return how many images a file has, and what tells it from others; check that the recipe can use it.

    Raises:
        FormatError: no such file, or without usable levels.
        TrainingError: too small, too few, or of other colours than the recipe's network.
    """
    net = recipe.net
    with PyramidFile(data) as file:
        if file.resolution < net.resolution:
            raise TrainingError(
                f"{data} has images of {file.resolution}x{file.resolution}, the recipe trains to {net.resolution}; "
                f"set net.resolution = {file.resolution}, or build larger ones"
            )
        if file.channels != net.colours:
            raise TrainingError(
                f"{data} has {file.channels} channels, the recipe net.colours = {net.colours}; set it so"
            )
        most = max([recipe.schedule.minibatch, *recipe.schedule.minibatches.values()])
        if file.count < most:
            raise TrainingError(
                f"{data} has {file.count} images, fewer than a minibatch of {most}; lower schedule.minibatch and "
                "schedule.minibatches, or add images"
            )
        facts = {"images": file.count, "resolution": file.resolution, "sha256": content_sha256(file)}
        labels = read_labels(data, recipe, file.count)
        if labels is not None:
            facts["labels_sha256"] = sha256(labels.numpy().tobytes())
        return file.count, facts
