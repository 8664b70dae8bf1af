"""Real images of a ProGAN training."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from celebahq_builder.data import Order, loader
from celebahq_builder.data.dataset import Batch, PyramidDataset
from celebahq_builder.errors import TrainingError
from celebahq_builder.hdf5.labels import LabelSource, labels_for_training, labels_path
from celebahq_builder.hdf5.reader import PyramidFile, content_sha256
from celebahq_builder.hdf5.untrusted import file_identity
from celebahq_builder.image_set import Pixels
from celebahq_builder.progan.schedule import ProGANRecipe, SchedulePoint
from celebahq_builder.storage import sha256
from celebahq_builder.training.distributed import DistributedContext


@dataclass(frozen=True)
class DataIdentity:
    """The properties of an HDF5 file that distinguish it from others."""

    images: int
    resolution: int
    sha256: str
    """SHA-256 of the pixels."""
    labels_sha256: str | None = None

    def to_mapping(self) -> dict[str, int | str]:
        """Return the properties that there are, as JSON values."""
        return {key: value for key, value in vars(self).items() if value is not None}


class RealImages:
    """The images of an HDF5 file, in the order in which a training draws them.

    Args:
        context: this process, which gets its share of each minibatch.
        workers: processes that read; 0 for threads.

    Raises:
        FormatError: there is no such file, or it has no usable levels or labels.
        TrainingError: resolution, channels or number of classes do not fit the recipe.
    """

    def __init__(self, path: Path, recipe: ProGANRecipe, context: DistributedContext, *, workers: int = 0) -> None:
        self.path, self.recipe, self.context, self.workers = path, recipe, context, workers
        self._file = file_identity(path) if path.exists() else None
        self.identity, self.labels = check_data(path, recipe)
        """Labels of all images, float32 [N, classes]; None for networks without labels."""
        self.order = Order(self.identity.images, recipe.seed)
        """Its state is the position of the training in the data."""

    def minibatches(self, now: Callable[[], SchedulePoint]) -> Generator[Batch, None, None]:
        """Yield this process' share of each minibatch, without end.

        Args:
            now: returns the resolution and the size of the next minibatch.

        Raises:
            TrainingError: the file was replaced or changed; it is opened again for each resolution.
        """
        recipe, context = self.recipe, self.context
        labels = _label_source(self.path) if recipe.net.labels else None
        pin = context.device.type == "cuda"
        load = functools.partial(loader, rank=context.rank, world=context.size, workers=self.workers, pin=pin)
        while True:
            point = now()
            if not self.path.exists() or file_identity(self.path) != self._file:
                raise TrainingError(
                    f"{self.path} was replaced or changed during the training; resume it with the file as it was, or "
                    "train on the new file in another `out`"
                )
            dataset = PyramidDataset(self.path, point.resolution, mirror=recipe.mirror, labels=labels)
            with closing(load(dataset, point.minibatch, self.order)) as batches:
                while (now().level, now().minibatch) == (point.level, point.minibatch):
                    yield next(batches)

    def examples(self, count: int) -> Pixels:
        """Return the first `count` images of a fixed permutation, uint8 [count, C, R, R]; fewer if there are fewer."""
        numbers = np.random.default_rng((self.recipe.seed, 1)).permutation(self.identity.images)[:count]
        return PyramidDataset(self.path, self.recipe.net.resolution, memory_bytes=0).read(numbers)


def _label_source(data: Path) -> LabelSource:
    """Return where the labels are; a file of labels next to the data takes precedence over attributes in it."""
    with PyramidFile(data) as file:
        return "file" if os.path.lexists(labels_path(data)) or file.photos.get("attributes") is None else "attributes"


def check_data(data: Path, recipe: ProGANRecipe) -> tuple[DataIdentity, Tensor | None]:
    """Return the identity of an HDF5 file and the labels of all images; raise if the recipe cannot use it.

    The labels are float32 [N, classes]; None for networks without labels.

    Raises:
        FormatError: there is no such file, or it has no usable levels or labels.
        TrainingError: resolution, channels or number of classes do not fit the recipe.
    """
    net = recipe.net
    with PyramidFile(data) as file:
        if file.resolution < net.resolution:
            raise TrainingError(
                f"{data} has images of {file.resolution}x{file.resolution}, the recipe trains to {net.resolution}; "
                f"set net.resolution = {file.resolution}, or use data of a higher resolution"
            )
        if file.channels != net.colours:
            raise TrainingError(
                f"{data} has {file.channels} channels, the recipe has net.colours = {net.colours}; "
                f"set net.colours = {file.channels}"
            )
        labels, digest = None, None
        if net.labels:
            labels, _ = labels_for_training(data, _label_source(data), file.count)
            if labels.shape[1] != net.labels:
                raise TrainingError(
                    f"{data} has {labels.shape[1]} labels for each image, the recipe has net.labels = {net.labels}; "
                    f"set net.labels = {labels.shape[1]}"
                )
            digest = sha256(labels.tobytes())
        identity = DataIdentity(file.count, file.resolution, content_sha256(file), digest)
        return identity, None if labels is None else torch.from_numpy(labels)
