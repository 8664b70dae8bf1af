"""MNIST, and MNIST-RGB: three random digits as the channels of one image."""

from __future__ import annotations

import contextlib
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
from celebahq_builder.image_set import Labels, NamedImage, Pixels

CLASSES, SIDE_PX, BORDER_PX = 10, 28, 2

IMAGE_BYTES = SIDE_PX * SIDE_PX

TRAINING, TEST = "train", "t10k"
"""The 60,000 training images, which the ProGAN authors' tool takes, and the 10,000 of the test set."""

FOLDERS = ("", "raw", "MNIST/raw")
"""Where the files may lie below the folder given; torchvision unpacks into the last of them."""

BLOCK_BYTES = 1 << 20

REMEDY = (
    "take train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz of MNIST "
    "from https://ossci-datasets.s3.amazonaws.com/mnist/"
)

DAMAGE = (OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class Mnist:
    """The images of a pair of idx files, grey, in their order; read from the file as they are asked for."""

    path: Path
    split: str
    classes: NDArray[np.uint8]
    label_names: tuple[str, ...] = tuple("0123456789")
    resolution: int = SIDE_PX + 2 * BORDER_PX
    channels: int = 1

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.classes)

    @property
    def labels(self) -> Labels:
        """One-hot, float32 [N, 10]."""
        return np.eye(CLASSES, dtype=np.float32)[self.classes]

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images from number `start` on, uint8 [1, 32, 32], named by set and row: ``train/00000``."""
        with _damage_told(self.path), _opened(self.path) as file:
            file.seek(16 + start * IMAGE_BYTES)
            for row in range(start, self.count):
                pixels = np.frombuffer(_read(self.path, file, IMAGE_BYTES), np.uint8).reshape(1, SIDE_PX, SIDE_PX)
                yield NamedImage(
                    np.pad(pixels, ((0, 0), (BORDER_PX, BORDER_PX), (BORDER_PX, BORDER_PX))), f"{self.split}/{row:05d}"
                )


def read(path: Path, split: str = TRAINING) -> Mnist:
    """Read a set of MNIST, or of another collection that comes in such files (Fashion-MNIST, KMNIST).

    Both files are read through once, so that they are known to be whole.

    Args:
        path: the folder that holds them.
        split: ``train`` or ``t10k``.

    Raises:
        FormatError: they are missing, or not whole, or do not fit each other.
    """
    images, labels = _find(path, split, "images", 3), _find(path, split, "labels", 1)
    with _damage_told(images), _opened(images) as file:
        count, height, width = _sizes(images, file, 3)
        if (height, width) != (SIDE_PX, SIDE_PX):
            raise FormatError(f"{images}: expected images of {SIDE_PX} x {SIDE_PX}, got {width} x {height}; {REMEDY}")
        if not count:
            raise FormatError(f"{images} has no images; {REMEDY}")
        _check_length(images, file, count * IMAGE_BYTES)
    with _damage_told(labels), _opened(labels) as file:
        (rows,) = _sizes(labels, file, 1)
        if rows != count:
            raise FormatError(f"{labels} has {rows} classes, {images} {count} images; expected as many; {REMEDY}")
        classes = np.frombuffer(_read(labels, file, rows), np.uint8)
        _check_length(labels, file, 0)
    if (high := int(classes.max())) >= CLASSES:
        row = int(np.flatnonzero(classes == high)[0])
        raise FormatError(f"{labels}, row {row}: expected a class of 0 to {CLASSES - 1}, got {high}; {REMEDY}")
    return Mnist(images, split, classes)


def _find(path: Path, split: str, what: str, axes: int) -> Path:
    """Return one of the files; some unpack it with a dot in place of the first hyphen of its ending."""
    if not path.is_dir():
        raise FormatError(f"{path} is not a folder; expected one with MNIST's files: {REMEDY}")
    names = [f"{split}-{what}{mark}idx{axes}-ubyte{gz}" for mark in "-." for gz in ("", ".gz")]
    candidates = [path / folder / name for folder in FOLDERS for name in names]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        has = ", ".join(sorted(one.name for one in path.iterdir())[:8]) or "nothing"
        raise FormatError(f"{path} lacks {names[0]} or {names[1]}; it has {has}; {REMEDY}")
    return found


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb"))


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise FormatError(f"{path} cannot be read, or is cut short: {error}; {REMEDY}") from None


def _read(path: Path, file: IO[bytes], size: int) -> bytes:
    """Return so many bytes, asking for no more at a time than are there: the number may be a damaged one."""
    data = bytearray()
    while len(data) < size:
        block = file.read(min(size - len(data), BLOCK_BYTES))
        if not block:
            raise FormatError(f"{path} is cut short: {size - len(data)} bytes are missing; {REMEDY}")
        data += block
    return bytes(data)


def _sizes(path: Path, file: IO[bytes], axes: int) -> tuple[int, ...]:
    """Return the sizes along the axes, from the header."""
    magic, expected = _read(path, file, 4), bytes((0, 0, 8, axes))
    if magic != expected:
        raise FormatError(
            f"{path} is no idx file of bytes with {axes} axes: it starts with {magic.hex(' ')}, "
            f"expected {expected.hex(' ')}; {REMEDY}"
        )
    return struct.unpack(f">{axes}I", _read(path, file, 4 * axes))


def _check_length(path: Path, file: IO[bytes], size: int) -> None:
    """Read the rest of a file, and raise if it has not just so many bytes."""
    got = 0
    while block := file.read(BLOCK_BYTES):
        got += len(block)
        if got > size:
            break
    if got != size:
        more = "more" if got > size else f"{got}"
        raise FormatError(
            f"{path}: expected {size} bytes after those its header announces so far, got {more}; {REMEDY}"
        )


COUNT, SEED = 1_000_000, 123
"""The ProGAN authors'."""


@dataclass(frozen=True)
class MnistRgb:
    """Stacked digits; those of MNIST are held in memory, 61 MB."""

    digits: Pixels
    """uint8 [n, 32, 32]."""
    count: int
    seed: int
    channels: int = 3
    labels: None = None
    """With 1000 classes they would take 4 GB."""
    label_names: tuple[str, ...] = ()
    resolution: int = SIDE_PX + 2 * BORDER_PX

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images from number `start` on, named by the digits they are made of: ``0000012/7-41-3``."""
        drawn = np.random.RandomState(self.seed)
        for number in range(self.count):
            rows = drawn.randint(len(self.digits), size=3)
            if number >= start:
                yield NamedImage(self.digits[rows], f"{number:07d}/{'-'.join(map(str, rows))}")


def read_mnist_rgb(path: Path, count: int = COUNT, seed: int = SEED) -> MnistRgb:
    """Stack the training digits of MNIST, uint8 [3, 32, 32] an image.

    Args:
        path: the folder of MNIST's files; see `mnist.read`.
        count: how many images.
        seed: of the draw.

    Raises:
        FormatError: as `mnist.read` does.
    """
    digits = np.concatenate([image.pixels for image in read(path).images()])
    return MnistRgb(digits, count, seed)
