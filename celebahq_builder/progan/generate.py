"""Images from a trained generator: as PNG files, as an HDF5 file to evaluate, or on one sheet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from celebahq_builder import __version__
from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.codecs import Gzip
from celebahq_builder.hdf5.create import write_images
from celebahq_builder.image_set import Labels, NamedImage
from celebahq_builder.imaging.image_io import encode_png
from celebahq_builder.models.generator_file import digest, load_generator
from celebahq_builder.models.progan import Generator
from celebahq_builder.progan import image_grid
from celebahq_builder.storage import new_files

BLOCK = 64
"""Latents drawn together; an image depends on the seed and its number alone."""


class Generated:
    """Images of a generator as a data set: number i is always the same, however many there are.

    Args:
        path: of a run, or of its generator.safetensors.
        count: how many.
        seed: of the latents.
        device: to generate on.
        label: of all images, where the generator takes labels; None: one after the other.

    Raises:
        WeightsError: no generator there, or it has no such label.
    """

    channels: int
    labels: Labels | None
    label_names: tuple[str, ...] = ()

    def __init__(self, path: Path, count: int, seed: int, device: torch.device, label: int | None = None) -> None:
        self.generator, self.level, self.alpha = load_generator(path, device)
        self.count, self.seed = count, seed
        self.plan = {
            "builder": __version__,
            "generator": digest(
                {name: value.cpu().contiguous() for name, value in self.generator.state_dict().items()}
            ),
            "alpha": self.alpha,
            "level": self.level,
            "count": count,
            "seed": seed,
            "label": label,
            "device": device.type,
        }
        """All that decides the pixels."""
        self.resolution = 1 << self.level
        self.channels = self.generator.architecture.colours
        labels = image_grid.fixed_labels(self.generator, count, label)
        self.labels = None if labels is None else labels.numpy()

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images from number `start` on."""
        for block in range(start // BLOCK, -(-self.count // BLOCK)):
            first, last = block * BLOCK, min(self.count, (block + 1) * BLOCK)
            z = latents(self.generator, block, self.seed)[: last - first]
            labels = None if self.labels is None else torch.from_numpy(self.labels[first:last])
            made = image_grid.generated(
                self.generator, z, self.level, self.alpha, labels
            )  # a part would differ in rounding
            yield from (NamedImage(made[n - first], f"{n:06d}") for n in range(max(start, first), last))


def latents(generator: Generator, block: int, seed: int) -> torch.Tensor:
    """Return a block of latents, float32 [64, latent]."""
    drawn = np.random.default_rng((seed, block)).standard_normal((BLOCK, generator.architecture.latent))
    return torch.from_numpy(drawn.astype(np.float32))


def check_target(out: Path, *, sheet: bool) -> None:
    """Raise if images cannot be written there, or not as the name says.

    Raises:
        FormatError: `out` exists, or its name is of another kind of file than what is to be written.
    """
    suffix = out.suffix.lower()
    if sheet and suffix != ".png":
        raise FormatError(f"{out}: a sheet is a PNG file; give --out FILE.png")
    if not sheet and suffix in (".png", ".jpg", ".jpeg", ".hdf5", ".mp4", ".zip"):
        raise FormatError(f"{out}: images go to a folder or to FILE.h5; one sheet of them is made by --grid 15x8")
    if os.path.lexists(out) and (sheet or suffix == ".h5" or not out.is_dir() or any(out.iterdir())):
        raise FormatError(f"{out} exists; nothing is overwritten: give another --out")


def generate(images: Generated, out: Path, advance: Callable[[int], None]) -> None:
    """Write generated images: to an HDF5 file if `out` ends in .h5, else as PNG files into a new folder.

    After an error nothing is left; a killed command starts again.

    Raises:
        FormatError: `out` exists.
        DiskFull: no space left.
    """
    if out.suffix == ".h5":
        write_images(images, out, codec=Gzip(), advance=advance)
        return
    check_target(out, sheet=False)
    with new_files() as files:
        for image in images.images():
            files.write(out / f"{image.name}.png", encode_png(image.pixels))
            advance(1)


def sheet(images: Generated, columns: int, out: Path) -> None:
    """Write all images on one sheet, row by row, as a PNG file.

    Raises:
        FormatError: `out` exists.
    """
    check_target(out, sheet=True)
    made = np.stack([image.pixels for image in images.images()])
    with new_files() as files:
        files.write(out, image_grid.png_bytes(image_grid.tiled(made, columns)))
