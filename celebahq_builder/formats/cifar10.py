"""CIFAR-10 as its authors publish it: the Python or the binary version, unpacked or as the ``.tar.gz`` it comes in.

    cifar-10-batches-py/   data_batch_1 ... data_batch_5, test_batch, batches.meta: pickles of Python 2
    cifar-10-batches-bin/  data_batch_1.bin ... data_batch_5.bin, test_batch.bin, batches.meta.txt: rows of 3073 bytes,
                           the class, then 1024 each of red, green and blue

Source: https://www.cs.toronto.edu/~kriz/cifar.html. Both versions hold the same pictures in the same order, and are
read to the same result. The whole of CIFAR-10 is 154 MB, and held in memory: all of it is checked before any is used.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats import pickled
from celebahq_builder.formats.pictures import Labels, Picture, Pixels

TRAINING = tuple(f"data_batch_{i}" for i in range(1, 6))
"""The 50,000 training pictures, which the ProGAN authors' tool takes; there is a ``test_batch`` of 10,000 besides."""

PER_BATCH = 10_000

CLASSES, SIDE_PX = 10, 32

PICTURE_BYTES = 3 * SIDE_PX * SIDE_PX

SPARE_BYTES = 2_000_000
"""What a batch of the Python version may have beside its pixels: labels and file names take half of it."""

REMEDY = "take cifar-10-python.tar.gz or cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html"

Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Pixels [n, 3, 32, 32] and classes [n]."""

DAMAGE = (tarfile.TarError, zlib.error, EOFError, OSError)


@dataclass(frozen=True)
class Cifar10:
    """The pictures of some batches, in the order of the batches and their rows."""

    batches: Mapping[str, Batch]
    """By name."""
    label_names: tuple[str, ...]
    resolution: int = SIDE_PX
    channels: int = 3

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return sum(len(classes) for _, classes in self.batches.values())

    @property
    def labels(self) -> Labels:
        """One-hot, float32 [N, 10]."""
        classes = np.concatenate([classes for _, classes in self.batches.values()])
        return np.asarray(np.eye(CLASSES, dtype=np.float32)[classes])

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Yield the pictures from number `start` on, named by batch and row: ``data_batch_1/00000``."""
        for name, (pixels, _) in self.batches.items():
            for row in range(start, len(pixels)):
                yield Picture(pixels[row], f"{name}/{row:05d}")
            start = max(start - len(pixels), 0)


def read(path: Path, batches: Sequence[str] = TRAINING, per_batch: int = PER_BATCH) -> Cifar10:
    """Read batches of CIFAR-10.

    Pickles are read without running what they name (see `formats.pickled`).

    Args:
        path: the folder of either version, one that holds it, or the archive.
        batches: which of them, without ``.bin``.
        per_batch: pictures in each.

    Raises:
        FormatError: it is not CIFAR-10, or not whole.
    """
    names = [*batches, "batches.meta"]
    files = _in_archive(path, names, per_batch) if path.is_file() else _in_folder(path, names, per_batch)
    binary = f"{batches[0]}.bin" in files
    names = [f"{name}.bin" for name in batches] + ["batches.meta.txt"] if binary else names
    missing = [name for name in names if name not in files]
    if missing:
        has = ", ".join(sorted(files)) or "none of CIFAR-10's files"
        raise FormatError(f"{path} is not CIFAR-10, or not whole: it lacks {missing[0]}, and has {has}; {REMEDY}")
    *of_batches, meta = names
    take = _from_rows if binary else _from_pickle
    held = {}
    for name, file in zip(batches, of_batches, strict=True):
        held[name] = take(f"{path}: {file}", files.pop(file), per_batch)
    label_names = _names(f"{path}: {meta}", files[meta], binary)
    return Cifar10(held, label_names)


def _limit(name: str, per_batch: int) -> int:
    """Return how many bytes are read of a file: more than any sound one has."""
    return 100_000 if name.startswith("batches.meta") else per_batch * (1 + PICTURE_BYTES) + SPARE_BYTES


def _wanted(names: Sequence[str]) -> set[str]:
    return {*names, *(f"{name}.bin" for name in names), "batches.meta.txt"}


def _in_folder(path: Path, names: Sequence[str], per_batch: int) -> dict[str, bytes]:
    """Return the files of one version, the Python version first."""
    found: dict[str, bytes] = {}
    if not path.is_dir():
        raise FormatError(f"{path} does not exist; expected a folder or archive of CIFAR-10: {REMEDY}")
    for folder in (path, path / "cifar-10-batches-py", path / "cifar-10-batches-bin"):
        try:
            for file in sorted(folder.glob("*")) if not found else ():
                if file.name in _wanted(names) and file.is_file():
                    with file.open("rb") as opened:
                        found[file.name] = opened.read(_limit(file.name, per_batch))
        except OSError as error:
            raise FormatError(f"{folder} cannot be read: {error}") from None
    return found


def _in_archive(path: Path, names: Sequence[str], per_batch: int) -> dict[str, bytes]:
    """Return the files in an archive, in one pass: going back in it means to unpack it again."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if member.isfile() and name in _wanted(names):
                    opened = archive.extractfile(member)
                    found[name] = opened.read(_limit(name, per_batch)) if opened else b""
    except DAMAGE as error:
        size = path.stat().st_size
        raise FormatError(
            f"{path}, {size} bytes, is not an archive of CIFAR-10, or cut short ({error}); {REMEDY}"
        ) from None
    return found


def _from_rows(where: str, data: bytes, per_batch: int) -> Batch:
    """Return pixels and classes of a batch of the binary version."""
    expected = per_batch * (1 + PICTURE_BYTES)
    if len(data) != expected:
        got = f"{len(data)} bytes" if len(data) < expected + SPARE_BYTES else "more"
        raise FormatError(
            f"{where}: expected {expected} bytes, {per_batch} rows of {1 + PICTURE_BYTES}, got {got}; {REMEDY}"
        )
    rows = np.frombuffer(data, np.uint8).reshape(per_batch, 1 + PICTURE_BYTES)
    return _pixels(rows[:, 1:]), _checked(where, rows[:, 0].tolist())


def _from_pickle(where: str, data: bytes, per_batch: int) -> Batch:
    """Return pixels and classes of a batch of the Python version."""
    table = _table(where, data)
    pixels, classes = table.get("data"), table.get("labels")
    if not isinstance(pixels, np.ndarray) or not isinstance(classes, list):
        raise FormatError(f"{where}: expected data and labels, got {', '.join(sorted(table))}; {REMEDY}")
    shape = (per_batch, PICTURE_BYTES)
    if pixels.shape != shape or len(classes) != per_batch:
        got = f"{list(pixels.shape)} and {len(classes)}"
        raise FormatError(f"{where}: expected data {list(shape)} and {per_batch} labels, got {got}; {REMEDY}")
    return _pixels(pixels), _checked(where, classes)


def _table(where: str, data: bytes) -> dict[str, Any]:
    try:
        return pickled.read(data)
    except ValueError as error:
        raise FormatError(f"{where} is not a pickle of CIFAR-10: {error}; {REMEDY}") from None


def _pixels(rows: NDArray[np.uint8]) -> Pixels:
    return np.array(rows).reshape(-1, 3, SIDE_PX, SIDE_PX)


def _checked(where: str, classes: Sequence[Any]) -> NDArray[np.uint8]:
    """Return the classes as an array, each of them 0 to 9."""
    for row, value in enumerate(classes):
        if not isinstance(value, int) or not 0 <= value < CLASSES:
            raise FormatError(f"{where}, row {row}: expected a class of 0 to {CLASSES - 1}, got {value!r}; {REMEDY}")
    return np.array(classes, np.uint8)


def _names(where: str, data: bytes, binary: bool) -> tuple[str, ...]:
    """Return the names of the classes."""
    if binary:
        names = [line for line in data.decode("utf-8", "replace").split("\n") if line.strip()]
    else:
        kept = _table(where, data).get("label_names")
        names = [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in kept or ()]
    if len(names) != CLASSES:
        raise FormatError(f"{where}: expected the names of {CLASSES} classes, got {len(names)}; {REMEDY}")
    return tuple(name.strip() for name in names)
