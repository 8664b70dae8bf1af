"""CIFAR-10 as its authors publish it, read without running its pickles."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.image_set import Labels, NamedImage, Pixels


class _Type:
    """Stands in for numpy.dtype: `name` as in the array protocol, ``u1``."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name.decode("latin-1") if isinstance(name, bytes) else str(name)

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment: of no meaning for single bytes."""


class _Array:
    """Stands in for numpy.ndarray: its state as pickled, ``(1, shape, type, fortran order, bytes)``."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> NDArray[np.uint8]:
        """Return the array; ValueError if it is none of bytes in C order."""
        _, shape, kind, fortran, data = self.state
        if not isinstance(kind, _Type) or kind.name != "u1" or fortran or not isinstance(data, bytes):
            raise ValueError("an array that is not of bytes in C order")
        if any(not isinstance(n, int) or n < 0 for n in shape) or math.prod(shape) != len(data):
            raise ValueError(f"an array of shape {shape} that has {len(data)} bytes")
        return np.frombuffer(data, np.uint8).reshape(shape)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: Any, encoding: Any) -> bytes:
    """What Python 3 writes for bytes in the protocols of Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("bytes in an unknown encoding")
    return text.encode("latin-1")


ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
}
"""All that a pickle may name, and what it gets."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no data set needs; it may be an attack")
        return ADMITTED[module, name]


def read_pickle(data: bytes) -> dict[str, Any]:
    """Return the table that a pickle holds; text of Python 2 becomes str in the keys, bytes elsewhere.

    Only dicts, lists, numbers, text, bytes, and arrays of bytes can be in it (uint8; read-only).

    Raises:
        ValueError: it holds or names anything else, or is damaged; says what.
    """
    try:
        for code, argument, _ in pickletools.genops(data):
            if "PUT" in code.name and not 0 <= int(argument or 0) <= len(
                data
            ):  # the memo is as long as its largest index
                raise ValueError(f"a memo of {argument} places")
        table = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        if not isinstance(table, dict):
            raise ValueError(f"it holds no table but a {type(table).__name__}")
        named = {key.decode() if isinstance(key, bytes) else str(key): value for key, value in table.items()}
        return {key: value.pixels() if isinstance(value, _Array) else value for key, value in named.items()}
    except Exception as error:  # a damaged program fails in any way
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


TRAINING = tuple(f"data_batch_{i}" for i in range(1, 6))
"""The 50,000 training images, which the ProGAN authors' tool takes; there is a ``test_batch`` of 10,000 besides."""

PER_BATCH = 10_000

CLASSES, SIDE_PX = 10, 32

IMAGE_BYTES = 3 * SIDE_PX * SIDE_PX

SPARE_BYTES = 2_000_000
"""What a batch of the Python version may have beside its pixels: labels and file names take half of it."""

REMEDY = "take cifar-10-python.tar.gz or cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html"

Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Pixels [n, 3, 32, 32] and classes [n]."""

DAMAGE = (tarfile.TarError, zlib.error, EOFError, OSError)


@dataclass(frozen=True)
class Cifar10:
    """The images of some batches, in the order of the batches and their rows."""

    batches: Mapping[str, Batch]
    """By name."""
    label_names: tuple[str, ...]
    resolution: int = SIDE_PX
    channels: int = 3

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(len(classes) for _, classes in self.batches.values())

    @property
    def labels(self) -> Labels:
        """One-hot, float32 [N, 10]."""
        classes = np.concatenate([classes for _, classes in self.batches.values()])
        return np.asarray(np.eye(CLASSES, dtype=np.float32)[classes])

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images from number `start` on, named by batch and row: ``data_batch_1/00000``."""
        for name, (pixels, _) in self.batches.items():
            for row in range(start, len(pixels)):
                yield NamedImage(pixels[row], f"{name}/{row:05d}")
            start = max(start - len(pixels), 0)


def read(path: Path, batches: Sequence[str] = TRAINING, per_batch: int = PER_BATCH) -> Cifar10:
    """Read batches of CIFAR-10.

    Pickles are read without running what they name (see `formats.pickled`).

    Args:
        path: the folder of either version, one that holds it, or the archive.
        batches: which of them, without ``.bin``.
        per_batch: images in each.

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
    return 100_000 if name.startswith("batches.meta") else per_batch * (1 + IMAGE_BYTES) + SPARE_BYTES


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
    expected = per_batch * (1 + IMAGE_BYTES)
    if len(data) != expected:
        got = f"{len(data)} bytes" if len(data) < expected + SPARE_BYTES else "more"
        raise FormatError(
            f"{where}: expected {expected} bytes, {per_batch} rows of {1 + IMAGE_BYTES}, got {got}; {REMEDY}"
        )
    rows = np.frombuffer(data, np.uint8).reshape(per_batch, 1 + IMAGE_BYTES)
    return _pixels(rows[:, 1:]), _checked(where, rows[:, 0].tolist())


def _from_pickle(where: str, data: bytes, per_batch: int) -> Batch:
    """Return pixels and classes of a batch of the Python version."""
    table = _table(where, data)
    pixels, classes = table.get("data"), table.get("labels")
    if not isinstance(pixels, np.ndarray) or not isinstance(classes, list):
        raise FormatError(f"{where}: expected data and labels, got {', '.join(sorted(table))}; {REMEDY}")
    shape = (per_batch, IMAGE_BYTES)
    if pixels.shape != shape or len(classes) != per_batch:
        got = f"{list(pixels.shape)} and {len(classes)}"
        raise FormatError(f"{where}: expected data {list(shape)} and {per_batch} labels, got {got}; {REMEDY}")
    return _pixels(pixels), _checked(where, classes)


def _table(where: str, data: bytes) -> dict[str, Any]:
    try:
        return read_pickle(data)
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
