"""Mutations of files on disk: HDF5 objects, Parquet columns, LMDB entries, and what may lie under a name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random

import h5py
import numpy as np

from benchmarks.fuzz.byte_mutations import NUMBERS, word
from benchmarks.fuzz.structured import contents, mutate

LARGE_BYTES = 1 << 28
"""Files beyond this size are not read by the fuzzer itself."""


def mutate_folder(folder: Path, patterns: tuple[str, ...], random: Random, others: Path | None = None) -> str:
    """Change one to three files below a folder; return a description.

    Args:
        folder: copy of good files.
        patterns: globs of the files that may be changed.
        random: source of all choices.
        others: another folder of good files, whose parts may be swapped in.
    """
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    said = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        path = random.choice(files)
        if not _is_small_file(path):
            continue  # an earlier mutation removed it, made it sparse or made it a link to a device
        kind = random.random()
        if kind < 0.08:
            change = odd_file(path, random)
        elif kind < 0.14:
            change = swap(path, random.choice(files), others, random)
        elif path.suffix in (".h5", ".parquet", ".mdb") and kind < 0.45:
            change = {".h5": hdf5, ".parquet": parquet, ".mdb": lmdb}[path.suffix](path, random)
        else:
            path.write_bytes(mutate(path.name, path.read_bytes(), random))
            change = "contents"
        said.append(f"{path.relative_to(folder)}: {change}")
    return "; ".join(said)


def _is_small_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size <= LARGE_BYTES


def _pipes(folder: str, names: list[str]) -> list[str]:
    return [one for one in names if Path(folder, one).is_fifo()]


def odd_file(path: Path, random: Random) -> str:
    """Replace a file by something else, or rename it."""
    kind = random.randrange(10)
    if kind == 0:
        path.write_bytes(b"")
        return "empty"
    if kind == 9:
        with path.open("r+b") as file:
            file.truncate(random.choice((1 << 30, 1 << 33, 1 << 36)))
        return "sparse"
    if kind in (1, 2):
        name = random.choice((word(random).replace("/", "_")[:200], path.name.upper(), "." + path.name, path.stem))
        try:
            path.rename(path.with_name(name.replace("\0", "") or "x"))
        except (OSError, ValueError):  # no such name is possible
            path.unlink()
        return f"renamed to {name!r}"
    path.unlink()
    if kind == 3:
        path.mkdir()
        return "folder"
    if kind == 4:
        os.mkfifo(path)
        return "named pipe"
    if kind == 5:
        path.symlink_to(random.choice(("/dev/zero", "/dev/urandom", "/proc/self/mem", "/proc/kcore")))
        return "link to a device"
    if kind == 6:
        path.symlink_to(random.choice((path.name, "nowhere", "..", "/")))
        return "link to itself, to nothing or to a folder"
    if kind == 7:
        shutil.copytree(path.parent, path.with_name("again"), symlinks=True, ignore=_pipes, dirs_exist_ok=True)
        return "removed, the folder repeated below itself"
    return "removed"


def swap(path: Path, other: Path, others: Path | None, random: Random) -> str:
    """Put a part of another good file into a file."""
    foreign = [one for one in sorted(others.rglob("*")) if one.is_file()] if others else []
    source = random.choice(foreign) if foreign and random.random() < 0.5 else other
    if not _is_small_file(source):
        return "nothing"
    data, part = path.read_bytes(), source.read_bytes()
    at = random.choice((0, 0, random.randrange(len(data) + 1)))
    path.write_bytes(random.choice((part, data[:at] + part[at:], part[:at] + data[at:])))
    return f"part of {source.name}"


def hdf5(path: Path, random: Random) -> str:
    """Replace an object of an HDF5 file by one that is valid HDF5 and that nobody expects."""
    try:
        with h5py.File(path, "r+") as file:
            names: list[str] = []
            file.visit(names.append)
            name = random.choice(names or ["data"])
            return f"{name}: {_hdf5_object(file, name, path, random)}"
    except Exception as error:  # damaged by an earlier mutation
        return f"nothing ({type(error).__name__})"


def _hdf5_object(file: h5py.File, name: str, path: Path, random: Random) -> str:
    old = file[name]
    shape = old.shape if isinstance(old, h5py.Dataset) else (3,)
    number = abs(random.choice(NUMBERS))
    kind = random.choice(
        ("group", "dtype", "shape", "huge", "scalar", "external storage", "virtual", "external link", "soft link")
        + ("loop", "attribute", "filter", "contiguous", "object", "remove", "empty", "compact")
    )
    if kind == "attribute":
        owner = random.choice((file, old))
        value = random.choice((number, word(random).replace("\0", ""), np.zeros((3, 3)), h5py.Empty("f4"), "[" * 9999))
        owner.attrs[random.choice([*owner.attrs, "recipe"])] = value
        return kind
    del file[name]
    if kind == "group":
        file.create_group(f"{name}/a/b")
    elif kind == "dtype":
        dtype = random.choice(("i1", "u2", "f4", "f8", "S3", "c8", ">u4", "V5", "bool"))
        file.create_dataset(name, shape, dtype)
    elif kind == "shape":
        axes = [random.choice((0, 1, 2, 3, 5, side)) for side in (*shape, 4)]
        file.create_dataset(name, axes[: random.randrange(1, len(axes) + 1)], "u1")
    elif kind == "huge":
        rest = shape[1:] if random.random() < 0.5 else (3, *([random.choice((4, 65536))] * 2))
        file.create_dataset(name, (min(number + 1, 2**40), *rest), "u1", chunks=(1, *rest), compression="gzip")
    elif kind == "scalar":
        file[name] = random.choice((1, "text", 2.5))
    elif kind == "external storage":
        file.create_dataset(name, shape, "u1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])
    elif kind == "virtual":
        layout = h5py.VirtualLayout(shape, "u1")
        layout[...] = h5py.VirtualSource(str(path), "elsewhere", shape)
        file.create_virtual_dataset(name, layout)
    elif kind == "external link":
        file[name] = h5py.ExternalLink(random.choice(("/etc/passwd", "other.h5", "/dev/zero", str(path))), "/data")
    elif kind == "soft link":
        file[name] = h5py.SoftLink(random.choice(("/nothing", f"/{name}", "/")))
    elif kind == "loop":
        file[name] = file["/"]
    elif kind == "filter":
        options = random.choice(({"fletcher32": True}, {"compression": "lzf"}, {"shuffle": True}, {"scaleoffset": 3}))
        file.create_dataset(name, shape, "u1", chunks=True, **options)
    elif kind == "contiguous":
        file.create_dataset(name, data=np.zeros(shape, "u1"))
    elif kind == "object":
        values = [word(random).replace("\0", "")] * (shape[0] if shape else 1)
        file.create_dataset(name, data=values, dtype=h5py.string_dtype())
    elif kind == "empty":
        file[name] = h5py.Empty("u1")
    elif kind == "compact":
        file.create_dataset(name, data=np.zeros(64, "u1"))
    return kind


def parquet(path: Path, random: Random) -> str:
    """Replace a column of a Parquet file by one of another type or with other contents."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except Exception as error:
        return f"nothing ({type(error).__name__})"
    at = random.randrange(table.num_columns)
    rows, name = table.num_rows, table.column_names[at]
    kind = random.randrange(9)
    image = {"bytes": b"\x89PNG", "path": "a.png"}
    values = {
        0: lambda: pa.array([None] * rows),
        1: lambda: pa.array([random.choice(NUMBERS[:12])] * rows),
        2: lambda: pa.array(["x" * (1 << 20)] * rows),
        3: lambda: pa.array([word(random)] * rows),
        4: lambda: pa.array([[1, 2]] * rows),
        5: lambda: pa.array([image] * rows),
        6: lambda: pa.array([random.randbytes(50)] * rows, pa.large_binary()),
        7: lambda: pa.array([bytes(1 << 30)] + [b""] * (rows - 1), pa.large_binary()),
        8: lambda: pa.array(["a"] * rows).dictionary_encode(),
    }[kind]()
    changed = table.set_column(at, random.choice((name, word(random), "image")), values)
    pq.write_table(changed, path, compression="zstd")
    return f"column {name}, kind {kind}"


def lmdb(path: Path, random: Random) -> str:
    """Change a key or a value of an LMDB."""
    import lmdb as library

    kind = random.randrange(4)
    try:
        with (
            library.open(str(path.parent), map_size=1 << 26) as environment,
            environment.begin(write=True) as transaction,
        ):
            key = random.choice([key for key, _ in transaction.cursor()])
            value = bytes(transaction.get(key))
            if kind <= 1:
                transaction.put(key, contents(random.choice(("a.png", "a.webp")), value, random))
            elif kind == 2:
                transaction.delete(key)
            else:
                new = word(random).encode("utf-8", "surrogatepass")[:400]
                transaction.put(random.choice((new, b"length", random.randbytes(9))) or b"x", value)
    except Exception as error:
        return f"nothing ({type(error).__name__})"
    return f"entry, kind {kind}"
