"""Images from a trained generator: as PNG files, as an HDF5 file to evaluate, or on one sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.codecs import Gzip
from celebahq_builder.hdf5.create import write_images
from celebahq_builder.image_set import Labels, NamedImage
from celebahq_builder.imaging.image_io import encode_png
from celebahq_builder.models.generator_file import load_generator
from celebahq_builder.models.progan import Generator
from celebahq_builder.progan import image_grid
from celebahq_builder.storage import write_atomic

BLOCK = 64
"""Latents drawn together; an image depends on the seed and its number alone."""


class GeneratedImages:
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
        self.resolution = 1 << self.level
        self.channels = self.generator.architecture.colours
        labels = image_grid.fixed_labels(self.generator, count, label)
        self.labels = None if labels is None else labels.numpy()

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images from number `start` on."""
        for block in range(start // BLOCK, -(-self.count // BLOCK)):
            first, last = max(start, block * BLOCK), min(self.count, (block + 1) * BLOCK)
            z = latent_block(self.generator, block, self.seed)[first - block * BLOCK : last - block * BLOCK]
            labels = None if self.labels is None else torch.from_numpy(self.labels[first:last])
            made = image_grid.generate_images(self.generator, z, self.level, self.alpha, labels)
            yield from (NamedImage(pixels, f"{number:06d}") for number, pixels in enumerate(made, first))


def latent_block(generator: Generator, block: int, seed: int) -> torch.Tensor:
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
    if out.exists() and (sheet or suffix == ".h5" or not out.is_dir() or any(out.iterdir())):
        raise FormatError(f"{out} exists; nothing is overwritten: give another --out")


def generate(images: GeneratedImages, out: Path, advance: Callable[[int], None]) -> None:
    """Write generated images: to an HDF5 file if `out` ends in .h5, else as PNG files into a new folder.

    Raises:
        FormatError: `out` exists.
        DiskFull: no space left.
    """
    if out.suffix == ".h5":
        write_images(images, out, codec=Gzip(), advance=advance)
        return
    check_target(out, sheet=False)
    for image in images.images():
        write_atomic(out / f"{image.name}.png", encode_png(image.pixels))
        advance(1)


def write_sheet(images: GeneratedImages, columns: int, out: Path) -> None:
    """Write all images on one sheet, row by row, as a PNG file.

    Raises:
        FormatError: `out` exists.
    """
    check_target(out, sheet=True)
    made = np.stack([image.pixels for image in images.images()])
    image_grid.write_png(out, image_grid.tiled(made, columns))
