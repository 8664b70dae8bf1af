"""CIFAR-10 as its authors publish it; its pickles are read without executing the code that they name."""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.formats import Format
from celebahq_builder.formats.tar import members
from celebahq_builder.image_set import DataSet, NamedImage
from celebahq_builder.storage import read_file

# --- Pickles


class _Type:
    """Replaces numpy.dtype; `name` is that of the array protocol, for instance ``u1``."""

    def __init__(self, name: object, *_: object) -> None:
        self.name = name.decode("latin-1") if isinstance(name, bytes) else name


class _Array:
    """Replaces numpy.ndarray; `state` is the pickled one: ``(1, shape, type, fortran order, bytes)``."""

    def __init__(self, *_: object) -> None:
        self.state: object = None

    def to_numpy(self) -> NDArray[np.uint8]:
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise ValueError("an array without a state")
        _, shape, kind, fortran, data = self.state
        if not isinstance(kind, _Type) or kind.name != "u1" or fortran or not isinstance(data, bytes):
            raise ValueError("an array that is not of bytes in C order")
        if not isinstance(shape, tuple) or len(shape) > 4 or any(not isinstance(n, int) or n < 0 for n in shape):
            raise ValueError("an array without a shape")
        if math.prod(shape) != len(data):
            raise ValueError(f"an array of shape {shape} that has {len(data)} bytes")
        return np.frombuffer(data, np.uint8).reshape(shape)


def _encode(text: object, encoding: object) -> bytes:
    """Return bytes that Python 3 has pickled with a protocol of Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise ValueError("bytes in an unknown encoding")
    return text.encode("latin-1")


REPLACEMENTS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
}
"""The only names that a pickle may contain, and what is used in their place."""

STEPS_MAX = 200_000
"""Maximum number of opcodes in a pickle; those of CIFAR-10 have at most 90,000."""

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}

LITERALS: tuple[str, ...] = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT")
LITERALS += ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
"""Opcodes whose argument is a value."""


def _named(module: object, name: object) -> Callable[..., object]:
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a name that is not a text")
    if (module, name) not in REPLACEMENTS:
        raise ValueError(f"it names {module}.{name}, which no data set needs; it may be an attack")
    return REPLACEMENTS[module, name]


def _set(table: object, items: list[object]) -> None:
    """Add keys and values, in turn, to a dict; keys are simple, as hashing nested tuples can take forever."""
    if not isinstance(table, dict) or not all(isinstance(key, (str, bytes, int)) for key in items[::2]):
        raise ValueError("a dict whose keys are not texts or numbers")
    table.update(zip(items[::2], items[1::2], strict=True))


def _extend(values: object, items: list[object]) -> None:
    if not isinstance(values, list):
        raise ValueError("items of something that is not a list")
    values.extend(items)


def _interpret(data: bytes) -> object:
    """Return the value that a pickle describes; only the opcodes that a data set needs exist here.

    Nothing is copied: memory is a small multiple of the size of the pickle.
    """
    stack: list[object] = []
    outer: list[list[object]] = []
    memo: dict[int, object] = {}
    encodable = len(data)
    for step, (code, argument, _) in enumerate(pickletools.genops(data)):
        if step == STEPS_MAX:
            raise ValueError(f"more than {STEPS_MAX} steps")
        match code.name:
            case "STOP":
                return stack.pop()
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                outer.append(stack)
                stack = []
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(code.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "APPEND":
                item = stack.pop()
                _extend(stack[-1], [item])
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set(stack[-1], [key, value])
            case "DICT" | "LIST" | "TUPLE" | "APPENDS" | "SETITEMS" as name:
                items, stack = stack, outer.pop()
                if name == "APPENDS":
                    _extend(stack[-1], items)
                elif name == "SETITEMS":
                    _set(stack[-1], items)
                else:
                    stack.append({} if name == "DICT" else tuple(items) if name == "TUPLE" else items)
                    if name == "DICT":
                        _set(stack[-1], items)
            case "GLOBAL":
                stack.append(_named(*str(argument).split(" ", 1)))
            case "STACK_GLOBAL":
                name_on_stack, module = stack.pop(), stack.pop()
                stack.append(_named(module, name_on_stack))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                if not callable(function) or not isinstance(arguments, tuple):
                    raise ValueError("a call of something that is not a function")
                made = function(*arguments)
                encodable -= len(made) if isinstance(made, bytes) else 0
                if encodable < 0:
                    raise ValueError("one text many times")
                stack.append(made)
            case "BUILD":
                state, target = stack.pop(), stack[-1]
                if isinstance(target, _Array):
                    target.state = state
                elif not isinstance(target, _Type):  # its byte order and alignment do not matter to single bytes
                    raise ValueError("the state of something that is not an array")
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[int(argument or 0)] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[int(argument or 0)])
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(str(argument).encode("latin-1"))
            case name if name in CONSTANTS:
                stack.append(CONSTANTS[name])
            case name if name in LITERALS:
                stack.append(argument)
            case name:
                raise ValueError(f"the opcode {name}, which no data set needs")
    raise ValueError("no end")


def read_pickle(data: bytes) -> dict[str, object]:
    """Return the dict in a pickle; texts of Python 2 become str in keys, and bytes elsewhere.

    It can contain dicts, lists, numbers, texts, bytes, and read-only arrays of uint8.

    Raises:
        ValueError: the pickle is damaged, or contains or names anything else.
    """
    try:
        table = _interpret(data)
        if not isinstance(table, dict):
            raise ValueError(f"it holds a {type(table).__name__}, expected a dict")
        named = {key.decode() if isinstance(key, bytes) else str(key): value for key, value in table.items()}
        return {key: value.to_numpy() if isinstance(value, _Array) else value for key, value in named.items()}
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(printable(" ".join(str(error)[:300].split())) or type(error).__name__) from None


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


def read(path: Path, per_batch: int = BATCH_IMAGES) -> DataSet:
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
                got = str(value)[:20] if isinstance(value, int) and value.bit_length() < 64 else type(value).__name__
                expected = f"expected a class of 0 to {CLASSES - 1}, got {got}"
                raise FormatError(f"{path}: {name}, row {row}: {expected}; {REMEDY}")
        pixels[i], classes[i] = rows.reshape(pixels.shape[1:]), np.array(values, np.uint8)

    def images() -> Iterator[NamedImage]:
        for batch, rows in zip(BATCHES, pixels, strict=True):
            for row, image in enumerate(rows):
                yield NamedImage(image, f"{batch}/{row:05d}")

    label_names = _class_names(f"{path}: {meta}", files[meta], binary)
    labels = np.eye(CLASSES, dtype=np.float32)[classes.reshape(-1)]
    return DataSet(classes.size, SIDE_PX, 3, images, labels, label_names)


def _read_folder(path: Path, sizes: dict[str, int]) -> dict[str, bytes]:
    """Return the files of one version, of the Python version if there are both."""
    if not path.is_dir():
        raise FormatError(f"{path} does not exist; expected a folder or archive of CIFAR-10: {REMEDY}")
    for folder in (path, path / "cifar-10-batches-py", path / "cifar-10-batches-bin"):
        found = {}
        for file in (folder / name for name in sizes):
            try:
                found[file.name] = read_file(file, sizes[file.name])
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise FormatError(f"{file} cannot be read: {error.strerror}; {REMEDY}") from None
        if found:
            return found
    return {}


def _read_archive(path: Path, sizes: dict[str, int]) -> dict[str, bytes]:
    """Return the files of an archive, read in one pass: going back would mean to unpack it again."""
    found: dict[str, bytes] = {}
    try:
        for member in members(path):
            name = PurePosixPath(member.name).name
            if name in sizes:
                if member.size_bytes > sizes[name]:
                    size = f"{member.size_bytes} bytes; at most {sizes[name]} are read"
                    raise FormatError(f"{path}: {name} cannot be read: {size}")
                found[name] = member.file.read()
    except FormatError as error:
        raise FormatError(f"{path} is not an archive of CIFAR-10, or cut short: {error}; {REMEDY}") from None
    return found


def _parse_binary(where: str, data: bytes, per_batch: int) -> tuple[NDArray[np.uint8], list[object]]:
    """Return pixels and classes of a batch of the binary version."""
    expected = per_batch * (1 + IMAGE_BYTES)
    if len(data) != expected:
        rows_text = f"{per_batch} rows of {1 + IMAGE_BYTES}"
        raise FormatError(f"{where}: expected {expected} bytes, {rows_text}, got {len(data)} bytes; {REMEDY}")
    rows = np.frombuffer(data, np.uint8).reshape(per_batch, 1 + IMAGE_BYTES)
    return rows[:, 1:], rows[:, 0].tolist()


def _parse_pickle(where: str, data: bytes, per_batch: int) -> tuple[NDArray[np.uint8], list[object]]:
    """Return pixels and classes of a batch of the Python version."""
    table = _table(where, data)
    pixels, classes = table.get("data"), table.get("labels")
    if not isinstance(pixels, np.ndarray) or not isinstance(classes, list):
        raise FormatError(
            f"{where}: expected data and labels, got {printable(', '.join(sorted(table))[:200])}; {REMEDY}"
        )
    shape = (per_batch, IMAGE_BYTES)
    if pixels.shape != shape or len(classes) != per_batch:
        got = f"{list(pixels.shape)} and {len(classes)}"
        raise FormatError(f"{where}: expected data {list(shape)} and {per_batch} labels, got {got}; {REMEDY}")
    return pixels, classes


def _table(where: str, data: bytes) -> dict[str, object]:
    try:
        return read_pickle(data)
    except ValueError as error:
        raise FormatError(f"{where} is not a pickle of CIFAR-10: {error}; {REMEDY}") from None


def _class_names(where: str, data: bytes, binary: bool) -> tuple[str, ...]:
    if binary:
        names = [line for line in data.decode("utf-8", "replace").split("\n") if line.strip()]
    else:
        stored = _table(where, data).get("label_names")
        known = stored if isinstance(stored, list) else []
        names = [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one)[:80] for one in known]
    if len(names) != CLASSES:
        raise FormatError(f"{where}: expected the names of {CLASSES} classes, got {len(names)}; {REMEDY}")
    return tuple(name.strip() for name in names)


def _is_archive(path: Path) -> bool:
    return path.is_file() and "cifar" in path.name and path.suffix in (".gz", ".tgz")


FORMAT = Format("cifar10", read, names=("cifar-10-batches*", "data_batch_*"), recognize=_is_archive)
