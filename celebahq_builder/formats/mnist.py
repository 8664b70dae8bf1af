"""MNIST, other data sets in files of the same kind (Fashion-MNIST, KMNIST), and MNIST-RGB."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.arrays import LabelledArrays
from celebahq_builder.formats.format import Format
from celebahq_builder.image_set import NamedImage, Pixels

CLASSES, SIDE_PX, BORDER_PX = 10, 28, 2

TRAINING, TEST = "train", "t10k"
"""The 60,000 training images, which the ProGAN authors' tool takes, and the 10,000 of the test set."""

FOLDERS = ("", "raw", "MNIST/raw")
"""Places of the files below the given folder; torchvision unpacks into the last of them."""

BLOCK_BYTES = 1 << 20

REMEDY = (
    "take train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz of MNIST "
    "from https://ossci-datasets.s3.amazonaws.com/mnist/"
)


def read(path: Path, split: str = TRAINING) -> LabelledArrays:
    """Read MNIST as grey images, uint8 [1, 32, 32] with a black border of 2 px, named ``train/00000``.

    Args:
        path: the folder of the files.
        split: ``train`` or ``t10k``.

    Raises:
        FormatError: a file is missing, damaged or cut short, or the files do not belong together.
    """
    images_file, labels_file = _find(path, split, "images", 3), _find(path, split, "labels", 1)
    images = _read_idx(images_file, 3)
    if images.shape[1:] != (SIDE_PX, SIDE_PX):
        raise FormatError(
            f"{images_file}: expected images of {SIDE_PX} x {SIDE_PX}, got {images.shape[2]} x {images.shape[1]}; "
            f"{REMEDY}"
        )
    if not len(images):
        raise FormatError(f"{images_file} has no images; {REMEDY}")
    classes = _read_idx(labels_file, 1)
    if len(classes) != len(images):
        raise FormatError(
            f"{labels_file} has {len(classes)} classes, {images_file} {len(images)} images; expected the same number; "
            f"{REMEDY}"
        )
    if (high := int(classes.max())) >= CLASSES:
        row = int(np.flatnonzero(classes == high)[0])
        raise FormatError(f"{labels_file}, row {row}: expected a class of 0 to {CLASSES - 1}, got {high}; {REMEDY}")
    border = (BORDER_PX, BORDER_PX)
    pixels = np.pad(images, ((0, 0), border, border))[:, None]
    return LabelledArrays(pixels, classes, tuple("0123456789"), lambda number: f"{split}/{number:05d}")


def _find(path: Path, split: str, what: str, axes: int) -> Path:
    """Return a file; some programs unpack it with a dot in place of the first hyphen of its ending."""
    if not path.is_dir():
        raise FormatError(f"{path} is not a folder; expected one with MNIST's files: {REMEDY}")
    names = [f"{split}-{what}{mark}idx{axes}-ubyte{gz}" for mark in "-." for gz in ("", ".gz")]
    candidates = [path / folder / name for folder in FOLDERS for name in names]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        has = ", ".join(sorted(one.name for one in path.iterdir())[:8]) or "nothing"
        raise FormatError(f"{path} lacks {names[0]} or {names[1]}; it has {has}; {REMEDY}")
    return found


def _read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """Return the array of an idx file of bytes.

    Source: http://yann.lecun.com/exdb/mnist, "the IDX file format".
    """
    try:
        with cast(IO[bytes], gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")) as file:
            header, expected = file.read(4 + 4 * axes), bytes((0, 0, 8, axes))
            if header[:4] != expected[: len(header)]:
                raise FormatError(
                    f"{path} is not an idx file of bytes with {axes} axes: it starts with {header[:4].hex(' ')}, "
                    f"expected {expected.hex(' ')}; {REMEDY}"
                )
            if len(header) < 4 + 4 * axes:
                missing = 4 + 4 * axes - len(header)
                raise FormatError(f"{path} is cut short: {missing} bytes are missing; {REMEDY}")
            shape = struct.unpack(f">{axes}I", header[4:])
            size = int(np.prod(shape, dtype=object))
            data = bytearray()
            while len(data) <= size and (block := file.read(BLOCK_BYTES)):  # in blocks, as the size may be damaged
                data += block
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(f"{path} cannot be read, or is cut short: {error}; {REMEDY}") from None
    if len(data) != size:
        got = "more" if len(data) > size else f"{len(data)}"
        raise FormatError(f"{path}: expected {size} bytes after its header, got {got}; {REMEDY}")
    return np.frombuffer(data, np.uint8).reshape(shape)


@dataclass(frozen=True)
class MnistRgb:
    """An `ImageSet` of three random digits each, uint8 [3, 32, 32], without labels: 1000 classes would take 4 GB."""

    digits: Pixels
    """uint8 [n, 32, 32]."""
    count: int
    seed: int
    resolution: int = SIDE_PX + 2 * BORDER_PX
    channels: int = 3
    labels: None = None
    label_names: tuple[str, ...] = ()

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images from number `start` on, named by their digits: ``0000012/7-41-3``."""
        random = np.random.RandomState(self.seed)
        for number in range(self.count):
            rows = random.randint(len(self.digits), size=3)
            if number >= start:
                yield NamedImage(self.digits[rows], f"{number:07d}/{'-'.join(map(str, rows))}")


def read_mnist_rgb(path: Path, count: int = 1_000_000, seed: int = 123) -> MnistRgb:
    """Draw the digits of MNIST-RGB from those of MNIST; count and seed are those of the ProGAN authors' tool.

    Raises:
        FormatError: as `read` does.
    """
    return MnistRgb(read(path).pixels[:, 0], count, seed)


FORMAT = Format("mnist", read, names=("train-images*idx3*", "t10k-images*idx3*"))
