"""CIFAR-10 as its authors publish it; its pickles are read without running what they name."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.arrays import LabelledArrays
from celebahq_builder.formats.format import Format

# --- Pickles


class _Type:
    """Replaces numpy.dtype; `name` is that of the array protocol, for instance ``u1``."""

    def __init__(self, name: object, *_: object) -> None:
        self.name = name.decode("latin-1") if isinstance(name, bytes) else str(name)

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and alignment, which single bytes do not have."""


class _Array:
    """Replaces numpy.ndarray; `state` is the pickled one: ``(1, shape, type, fortran order, bytes)``."""

    state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def to_numpy(self) -> NDArray[np.uint8]:
        _, shape, kind, fortran, data = self.state
        if not isinstance(kind, _Type) or kind.name != "u1" or fortran or not isinstance(data, bytes):
            raise ValueError("an array that is not of bytes in C order")
        if any(not isinstance(n, int) or n < 0 for n in shape) or math.prod(shape) != len(data):
            raise ValueError(f"an array of shape {shape} that has {len(data)} bytes")
        return np.frombuffer(data, np.uint8).reshape(shape)


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _encode(text: object, encoding: object) -> bytes:
    """Return bytes that Python 3 has pickled with a protocol of Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("bytes in an unknown encoding")
    return text.encode("latin-1")


REPLACEMENTS = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
}
"""The only names that a pickle may contain, and what is used in their place."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in REPLACEMENTS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no data set needs; it may be an attack")
        return REPLACEMENTS[module, name]


def read_pickle(data: bytes) -> dict[str, Any]:
    """Return the dict in a pickle; texts of Python 2 become str in keys, and bytes elsewhere.

    It can contain dicts, lists, numbers, texts, bytes, and read-only arrays of uint8.

    Raises:
        ValueError: the pickle is damaged, or contains or names anything else.
    """
    try:
        for code, argument, _ in pickletools.genops(data):
            if "PUT" in code.name and not 0 <= int(argument or 0) <= len(data):
                raise ValueError(f"a memo of {argument} places")  # an index decides how much memory the memo takes
        table = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        if not isinstance(table, dict):
            raise ValueError(f"it holds a {type(table).__name__}, expected a dict")
        named = {key.decode() if isinstance(key, bytes) else str(key): value for key, value in table.items()}
        return {key: value.to_numpy() if isinstance(value, _Array) else value for key, value in named.items()}
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


# --- Files

BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
"""The training images, which the ProGAN authors' tool takes."""

BATCH_IMAGES, CLASSES, SIDE_PX = 10_000, 10, 32

IMAGE_BYTES = 3 * SIDE_PX * SIDE_PX

SPARE_BYTES = 2_000_000
"""Maximum size of labels and file names in a batch of the Python version; they take half of it."""

META_BYTES = 100_000
"""Maximum size of the file with the names of the classes."""

REMEDY = "take cifar-10-python.tar.gz or cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html"


def read(path: Path, per_batch: int = BATCH_IMAGES) -> LabelledArrays:
    """Read the training images of CIFAR-10, uint8 [3, 32, 32] named ``data_batch_1/00000``.

    Args:
        path: the folder of the Python or the binary version, its parent folder, or the archive.
        per_batch: images in each of the five batches.

    Raises:
        FormatError: it is not CIFAR-10, incomplete, or damaged.
    """
    sizes = {name: per_batch * (1 + IMAGE_BYTES) + SPARE_BYTES for one in BATCHES for name in (one, f"{one}.bin")}
    sizes |= {"batches.meta": META_BYTES, "batches.meta.txt": META_BYTES}
    files = (_read_archive if path.is_file() else _read_folder)(path, sizes)
    binary = f"{BATCHES[0]}.bin" in files
    ending, meta = (".bin", "batches.meta.txt") if binary else ("", "batches.meta")
    names = [f"{name}{ending}" for name in BATCHES]
    missing = [name for name in (*names, meta) if name not in files]
    if missing:
        has = ", ".join(sorted(files)) or "none of CIFAR-10's files"
        raise FormatError(f"{path} is not CIFAR-10, or incomplete: it lacks {missing[0]}, and has {has}; {REMEDY}")
    pixels = np.empty((len(BATCHES), per_batch, 3, SIDE_PX, SIDE_PX), np.uint8)
    classes = np.empty((len(BATCHES), per_batch), np.uint8)
    for i, name in enumerate(names):
        parse = _parse_binary if binary else _parse_pickle
        rows, values = parse(f"{path}: {name}", files.pop(name), per_batch)
        for row, value in enumerate(values):
            if not isinstance(value, int) or not 0 <= value < CLASSES:
                expected = f"expected a class of 0 to {CLASSES - 1}, got {value!r}"
                raise FormatError(f"{path}: {name}, row {row}: {expected}; {REMEDY}")
        pixels[i], classes[i] = rows.reshape(pixels.shape[1:]), values
    return LabelledArrays(
        pixels.reshape(-1, 3, SIDE_PX, SIDE_PX),
        classes.reshape(-1),
        _class_names(f"{path}: {meta}", files[meta], binary),
        lambda number: f"{BATCHES[number // per_batch]}/{number % per_batch:05d}",
    )


def _read_folder(path: Path, sizes: dict[str, int]) -> dict[str, bytes]:
    """Return the files of one version, of the Python version if there are both."""
    if not path.is_dir():
        raise FormatError(f"{path} does not exist; expected a folder or archive of CIFAR-10: {REMEDY}")
    for folder in (path, path / "cifar-10-batches-py", path / "cifar-10-batches-bin"):
        try:
            found = {}
            for file in (folder / name for name in sizes):
                if file.is_file():
                    with file.open("rb") as opened:
                        found[file.name] = opened.read(sizes[file.name])
        except OSError as error:
            raise FormatError(f"{folder} cannot be read: {error}") from None
        if found:
            return found
    return {}


def _read_archive(path: Path, sizes: dict[str, int]) -> dict[str, bytes]:
    """Return the files of an archive, read in one pass: going back would mean to unpack it again."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if member.isfile() and name in sizes and (opened := archive.extractfile(member)):
                    found[name] = opened.read(sizes[name])
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        what = f"{path}, {path.stat().st_size} bytes,"
        raise FormatError(f"{what} is not an archive of CIFAR-10, or cut short ({error}); {REMEDY}") from None
    return found


def _parse_binary(where: str, data: bytes, per_batch: int) -> tuple[NDArray[np.uint8], list[Any]]:
    """Return pixels and classes of a batch of the binary version."""
    expected = per_batch * (1 + IMAGE_BYTES)
    if len(data) != expected:
        got = f"{len(data)} bytes" if len(data) < expected + SPARE_BYTES else "more"
        rows_text = f"{per_batch} rows of {1 + IMAGE_BYTES}"
        raise FormatError(f"{where}: expected {expected} bytes, {rows_text}, got {got}; {REMEDY}")
    rows = np.frombuffer(data, np.uint8).reshape(per_batch, 1 + IMAGE_BYTES)
    return rows[:, 1:], rows[:, 0].tolist()


def _parse_pickle(where: str, data: bytes, per_batch: int) -> tuple[NDArray[np.uint8], list[Any]]:
    """Return pixels and classes of a batch of the Python version."""
    table = _table(where, data)
    pixels, classes = table.get("data"), table.get("labels")
    if not isinstance(pixels, np.ndarray) or not isinstance(classes, list):
        raise FormatError(f"{where}: expected data and labels, got {', '.join(sorted(table))}; {REMEDY}")
    shape = (per_batch, IMAGE_BYTES)
    if pixels.shape != shape or len(classes) != per_batch:
        got = f"{list(pixels.shape)} and {len(classes)}"
        raise FormatError(f"{where}: expected data {list(shape)} and {per_batch} labels, got {got}; {REMEDY}")
    return pixels, classes


def _table(where: str, data: bytes) -> dict[str, Any]:
    try:
        return read_pickle(data)
    except ValueError as error:
        raise FormatError(f"{where} is not a pickle of CIFAR-10: {error}; {REMEDY}") from None


def _class_names(where: str, data: bytes, binary: bool) -> tuple[str, ...]:
    if binary:
        names = [line for line in data.decode("utf-8", "replace").split("\n") if line.strip()]
    else:
        stored = _table(where, data).get("label_names")
        names = [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in stored or ()]
    if len(names) != CLASSES:
        raise FormatError(f"{where}: expected the names of {CLASSES} classes, got {len(names)}; {REMEDY}")
    return tuple(name.strip() for name in names)


def _is_archive(path: Path) -> bool:
    return path.is_file() and "cifar" in path.name and path.suffix != ".tar" and tarfile.is_tarfile(path)


FORMAT = Format("cifar10", read, names=("cifar-10-batches*", "data_batch_*"), recognise=_is_archive)
