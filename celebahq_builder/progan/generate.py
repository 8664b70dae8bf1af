"""Images from a trained generator: latents, labels, and files of generated images."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from celebahq_builder.errors import FormatError, WeightsError
from celebahq_builder.hdf5.codecs import Gzip
from celebahq_builder.hdf5.create import write_images
from celebahq_builder.image_set import Labels, NamedImage, Pixels
from celebahq_builder.imaging.image_grid import image_grid, png_bytes
from celebahq_builder.imaging.image_io import encode_png
from celebahq_builder.limits import MAX_IMAGE_PIXELS
from celebahq_builder.models.generator_file import TrainedGenerator, load_generator
from celebahq_builder.models.progan import GeneratorNetwork
from celebahq_builder.parallel import devices
from celebahq_builder.storage import check_free, check_staging_target, new_files, staging, write_atomic

BLOCK = 64
"""Latents that are drawn together; an image depends on the seed and its number only."""

BATCH_PIXELS = 2**21
"""Pixels of the images that pass the network together."""


def grid_latents(generator: GeneratorNetwork, count: int, seed: int) -> Tensor:
    """Return the latents of a run's image grids, float32 [count, latent]; they depend on the seed only."""
    return _normal((seed, 0xF1DE), count, generator)


def _normal(seed: tuple[int, int], count: int, generator: GeneratorNetwork) -> Tensor:
    drawn = np.random.default_rng(seed).standard_normal((count, generator.architecture.latent))
    return torch.from_numpy(drawn.astype(np.float32))


def cyclic_labels(generator: GeneratorNetwork, count: int, label: int | None = None, start: int = 0) -> Tensor | None:
    """Return labels 0, 1, 2, ..., 0, 1, ..., one-hot, float32 [count, classes]; None for a network without labels.

    Args:
        label: the label of all images, instead of one after the other.

    Raises:
        WeightsError: the generator does not have that label.
    """
    classes = generator.architecture.labels
    if label is not None and not 0 <= label < classes:
        has = f"labels 0 to {classes - 1}" if classes else "no labels"
        raise WeightsError(f"label {label} does not exist: the generator was trained with {has}")
    if not classes:
        return None
    numbers = torch.arange(start, start + count) % classes
    return torch.eye(classes)[numbers if label is None else torch.full((count,), label)]


@contextmanager
def _float32() -> Iterator[None]:
    """Compute in float32 on a GPU, also while a training computes in TF32.

    TF32 keeps 10 bits of a factor: images would differ from those of a CPU by some of the 256 levels.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = before


@torch.inference_mode()
@_float32()
def generate_images(
    generator: GeneratorNetwork, latents: Tensor, level: int, alpha: float = 1.0, labels: Tensor | None = None
) -> Pixels:
    """Return generated images, uint8 [N, C, r, r]; values from -1 to 1 become 0 to 255, others are clipped.

    Those of a GPU equal those of a CPU within one level.

    Args:
        generator: in evaluation mode.
        latents: float32 [N, latent].
        level: log2 of the resolution r.
        alpha: weight of that level against the one below, from 0 to 1.
        labels: float32 [N, classes], for a network with labels.

    Raises:
        WeightsError: the generator returns values that are not finite.
    """
    device = next(generator.parameters()).device
    batch = max(1, BATCH_PIXELS >> (2 * level))
    made = []
    for start in range(0, len(latents), batch):
        part = slice(start, start + batch)
        images = generator(latents[part].to(device), level, alpha, None if labels is None else labels[part].to(device))
        if not bool(images.isfinite().all()):
            raise WeightsError(
                f"the generator returns NaN or infinity for some latents at {1 << level}x{1 << level}: its weights are "
                "damaged, or its training diverged; use those of an earlier checkpoint"
            )
        made.append(to_pixels(images).cpu())
    return torch.cat(made).numpy()


def generate_block(
    generator: GeneratorNetwork,
    level: int,
    alpha: float,
    seed: int,
    block: int,
    count: int = BLOCK,
    label: int | None = None,
) -> Pixels:
    """Return images number 64 `block` and following of a seed, at most `count`, uint8 [n, C, r, r].

    The other arguments are those of `generate_images` and `cyclic_labels`.
    """
    latents = _normal((seed, block), BLOCK, generator)[:count]
    labels = cyclic_labels(generator, len(latents), label, start=block * BLOCK)
    return generate_images(generator, latents, level, alpha, labels)


def to_pixels(images: Tensor) -> Tensor:
    """Return images in [-1, 1] as uint8, rounded to the nearest of 256 values.

    >>> to_pixels(torch.tensor([-2.0, -1.0, 0.0, 1.0])).tolist()
    [0, 0, 128, 255]
    """
    return ((images.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


class Generator:
    """A trained ProGAN generator.

    Attributes:
        network: the averaged generator network, in `eval` mode.
        resolution: side length of its images in px.
    """

    def __init__(self, trained: TrainedGenerator) -> None:
        self.network, self.level, self.alpha = trained.network, trained.level, trained.alpha
        self.resolution = 1 << self.level

    @classmethod
    def load(cls, path: Path | str, device: str = "auto") -> Self:
        """Load the generator of a run.

        Args:
            path: folder of a run, or its ``generator.safetensors``.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

        Raises:
            WeightsError: there is no usable generator.
        """
        return cls(load_generator(Path(path), torch.device(devices(device)[0])))

    def sample(self, count: int, seed: int = 0, label: int | None = None) -> Pixels:
        """Generate images; image i of a seed is always the same, for any count.

        Args:
            count: number of images.
            seed: seed of the latents.
            label: label of all images, if the generator has labels; None takes one label after the other.

        Returns:
            uint8 [count, C, R, R].
        """
        return np.concatenate(list(self.blocks(count, seed, label)))

    def blocks(self, count: int, seed: int, label: int | None) -> Iterator[Pixels]:
        """Yield the images of `sample`, at most `BLOCK` at once."""
        for first in range(0, count, BLOCK):
            yield generate_block(self.network, self.level, self.alpha, seed, first // BLOCK, count - first, label)


class GeneratedImages:
    """Images of a generator as an `ImageSet`: image i of a seed is always the same, for any `count`.

    Args:
        path: of a run, or of its ``generator.safetensors``.
        label: of all images, for a generator with labels; None: one label after the other.

    Raises:
        WeightsError: there is no usable generator, or it does not have that label.
    """

    label_names: tuple[str, ...] = ()

    def __init__(self, path: Path, count: int, seed: int, device: torch.device, label: int | None = None) -> None:
        self.generator = Generator(load_generator(path, device))
        self.count, self.seed, self.label = count, seed, label
        self.resolution = self.generator.resolution
        self.channels = self.generator.network.architecture.colours
        labels = cyclic_labels(self.generator.network, count, label)
        self.labels: Labels | None = None if labels is None else labels.numpy()

    def images(self) -> Iterator[NamedImage]:
        """Yield the images in order."""
        blocks = self.generator.blocks(self.count, self.seed, self.label)
        for number, pixels in enumerate(itertools.chain.from_iterable(blocks)):
            yield NamedImage(pixels, f"{number:06d}")


def check_target(out: Path, *, sheet: bool) -> None:
    """Raise a FormatError if `out` exists, or if its name does not fit what will be written.

    Args:
        out: folder of PNG files, HDF5 file, or PNG file of one sheet.
        sheet: true for one image of all images.
    """
    suffix = out.suffix.lower()
    if sheet and suffix != ".png":
        raise FormatError(f"{out}: an image grid is a PNG file; choose FILE.png as `out`")
    if not sheet and suffix in (".png", ".jpg", ".jpeg", ".hdf5", ".mp4", ".zip"):
        raise FormatError(f"{out}: expected a folder or FILE.h5; for all images in one PNG file, set `grid` (15x8)")
    if sheet or suffix == ".h5":
        check_free(out)
    else:
        check_staging_target(out, replace_empty=True)


def generate(images: GeneratedImages, out: Path, advance: Callable[[int], None]) -> None:
    """Write generated images to an HDF5 file if `out` ends in .h5, otherwise as PNG files to a new folder.

    The images are made in a folder OUT.partial, which gets the name `out` when all are there. After an error nothing is
    left. After a kill, the same command starts again.

    Args:
        out: file or folder; see `check_target`.
        advance: called with the number of images written since the last call.

    Raises:
        FormatError: `out` exists.
        DiskFull: no space is left.
    """
    if out.suffix == ".h5":
        write_images(images, out, codec=Gzip(), advance=advance)
        return
    check_target(out, sheet=False)
    with staging(out, {"holds": "generated images"}, replace_empty=True) as stage:
        if stage.data.exists():  # of a killed command, perhaps with other images
            shutil.rmtree(stage.data)
        stage.data.mkdir()
        paths = []
        for image in images.images():
            paths.append(stage.data / f"{image.name}.png")
            write_atomic(paths[-1], encode_png(image.pixels), parents=False)
            advance(1)
        stage.check(paths)


def check_grid(columns: int, rows: int, resolution: int) -> None:
    """Raise a FormatError if a grid of images of this resolution would be larger than `MAX_IMAGE_PIXELS`."""
    if (pixels := columns * rows * resolution**2) > MAX_IMAGE_PIXELS:
        raise FormatError(
            f"`grid` {columns}x{rows} of images of {resolution}x{resolution} has {pixels:,} pixels; choose a grid of "
            f"at most {MAX_IMAGE_PIXELS:,}"
        )


def write_sheet(images: GeneratedImages, columns: int, out: Path) -> None:
    """Write all images to one PNG file, row by row.

    Raises:
        FormatError: `out` exists, or the image would be too large.
        DiskFull: no space is left.
    """
    check_target(out, sheet=True)
    check_grid(columns, -(-images.count // columns), images.resolution)
    grid = image_grid((image.pixels for image in images.images()), columns)
    with new_files() as files:
        files.write(out, png_bytes(grid))
