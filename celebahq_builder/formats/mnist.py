"""MNIST, and other data sets in files of the same kind (Fashion-MNIST, KMNIST)."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats import Format
from celebahq_builder.formats.tar import open_gzip
from celebahq_builder.image_set import DataSet, NamedImage
from celebahq_builder.limits import MAX_CHUNK_BYTES

CLASSES, SIDE_PX, BORDER_PX = 10, 28, 2

FOLDERS = ("", "raw", "MNIST/raw")
"""Places of the files below the given folder; torchvision unpacks into the last of them."""

BLOCK_BYTES = 1 << 20

REMEDY = (
    "take train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz of MNIST "
    "from https://ossci-datasets.s3.amazonaws.com/mnist/"
)


def read(path: Path) -> DataSet:
    """Read the training images of MNIST, which the ProGAN authors' tool takes.

    They are grey, uint8 [1, 32, 32] with a black border of 2 px, and named ``train/00000``.

    Raises:
        FormatError: a file is missing, damaged or cut short, or the files do not belong together.
    """
    images_file, labels_file = _find(path, "images", 3), _find(path, "labels", 1)
    images = _read_idx(images_file, 3)
    if images.shape[1:] != (SIDE_PX, SIDE_PX):
        size = f"{images.shape[2]} x {images.shape[1]}"
        raise FormatError(f"{images_file}: expected images of {SIDE_PX} x {SIDE_PX}, got {size}; {REMEDY}")
    if not len(images):
        raise FormatError(f"{images_file} has no images; {REMEDY}")
    classes = _read_idx(labels_file, 1)
    if len(classes) != len(images):
        counts = f"{len(classes)} classes, {images_file} {len(images)} images"
        raise FormatError(f"{labels_file} has {counts}; expected the same number; {REMEDY}")
    if (high := int(classes.max())) >= CLASSES:
        row = int(np.flatnonzero(classes == high)[0])
        raise FormatError(f"{labels_file}, row {row}: expected a class of 0 to {CLASSES - 1}, got {high}; {REMEDY}")
    border = (BORDER_PX, BORDER_PX)
    pixels = np.pad(images, ((0, 0), border, border))[:, None]
    return DataSet(
        len(pixels),
        pixels.shape[-1],
        1,
        images=lambda: (NamedImage(image, f"train/{number:05d}") for number, image in enumerate(pixels)),
        labels=np.eye(CLASSES, dtype=np.float32)[classes],
        label_names=tuple("0123456789"),
    )


def _find(path: Path, what: str, axes: int) -> Path:
    """Return the path of a file. Some programs write a dot in place of the first hyphen of its ending."""
    if not path.is_dir():
        raise FormatError(f"{path} is not a folder; expected one with MNIST's files: {REMEDY}")
    names = [f"train-{what}{mark}idx{axes}-ubyte{gz}" for mark in "-." for gz in ("", ".gz")]
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
        with path.open("rb") as raw, open_gzip(raw) if path.suffix == ".gz" else raw as file:
            header, expected = file.read(4 + 4 * axes), bytes((0, 0, 8, axes))
            if header[:4] != expected[: len(header)]:
                start = f"it starts with {header[:4].hex(' ')}, expected {expected.hex(' ')}"
                raise FormatError(f"{path} is not an idx file of bytes with {axes} axes: {start}; {REMEDY}")
            if len(header) < 4 + 4 * axes:
                missing = 4 + 4 * axes - len(header)
                raise FormatError(f"{path} is cut short: {missing} bytes are missing; {REMEDY}")
            shape = struct.unpack(f">{axes}I", header[4:])
            size = math.prod(shape)
            if size > MAX_CHUNK_BYTES:
                most = f"at most {MAX_CHUNK_BYTES} are read"
                raise FormatError(f"{path}: expected {size} bytes after its header, and {most}; {REMEDY}")
            data = bytearray()
            while len(data) <= size and (block := file.read(BLOCK_BYTES)):  # in blocks, as the size may be damaged
                data += block
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(f"{path} cannot be read, or is cut short: {error}; {REMEDY}") from None
    if len(data) != size:
        got = "more" if len(data) > size else f"{len(data)}"
        raise FormatError(f"{path}: expected {size} bytes after its header, got {got}; {REMEDY}")
    return np.frombuffer(data, np.uint8).reshape(shape)


FORMAT = Format("mnist", read, names=("train-images*idx3*",))
