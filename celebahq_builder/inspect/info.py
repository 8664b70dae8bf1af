"""The contents of an HDF5 file as lines of text."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.hdf5 import codecs
from celebahq_builder.hdf5.labels import labels_path
from celebahq_builder.hdf5.reader import PyramidFile

BARS = 20
"""At most; the limits are round numbers."""

WIDTH = 40
"""Characters of the longest bar."""


def histogram_lines(values: NDArray[np.float64]) -> Iterator[str]:
    """Yield a line per bin: its limits, how many values, and a bar; bins are 1, 2 or 5 times a power of ten wide.

    A value on a limit belongs to the bin above it. The bar of a bin that has any value has a character at least.

    Args:
        values: finite, at least one.
    """
    step, decimals = _step(float(values.max() - values.min()))
    bins = np.floor(np.round(values / step, 9)).astype(np.int64)  # 0.3 / 0.1 is less than 3
    first = int(bins.min())
    counts = np.bincount(bins - first)
    width = len(f"{(first + len(counts)) * step:.{decimals}f}")
    for i, count in enumerate(counts.tolist(), first):
        bar = "#" * max(round(WIDTH * count / int(counts.max())), min(count, 1))
        limits = f"{i * step:{width}.{decimals}f} to {(i + 1) * step:{width}.{decimals}f}"
        yield f"  {limits}  {count:{len(str(counts.max()))}}  {bar}".rstrip()


def _step(span: float) -> tuple[float, int]:
    """Return a round width so that `BARS` bins are enough, and the decimals its multiples need."""
    raw = max(span / (BARS - 1), 1e-6)
    power = math.floor(math.log10(raw))
    for factor in (1, 2, 5):
        if factor * 10.0**power >= raw * (1 - 1e-9):
            return factor * 10.0**power, max(-power, 0)
    return 10.0 ** (power + 1), max(-power - 1, 0)


FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32001: "Blosc", 32004: "LZ4", 32015: "Zstandard", 32026: "Blosc2"}
"""Names of HDF5's filters by their registered numbers (The HDF Group, "Registered Filter Plugins")."""

DEFLATE = 1

NAMES = {"attribute_names": "attributes", "label_names": "label names"}
"""What lies with the columns but has a row per attribute or class, and how it is called."""


def inspect_hdf5(path: Path) -> Iterator[str]:
    """Yield levels, sizes, sources, scores and origin of a multi-resolution HDF5 file.

    Raises:
        FormatError: not such a file.
    """
    with PyramidFile(path) as pyramid:
        try:
            yield from _heading(path, pyramid)
            yield from _levels(pyramid)
            yield from _labels(path)
            yield from _photos(pyramid)
            yield from _attributes(pyramid.file)
        except (OSError, UnicodeDecodeError) as error:
            reason = printable(str(error))
            raise FormatError(f"{path} is damaged: {reason}; build it again, or get another copy") from None


def _heading(path: Path, pyramid: PyramidFile) -> Iterator[str]:
    top = pyramid.level(pyramid.resolution)
    channels = int(top.shape[1]) if top.ndim == 4 else 0
    colour = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    side = f"{pyramid.resolution}x{pyramid.resolution}"
    yield f"{path}: {pyramid.count} images, {side} {colour}, {path.stat().st_size / 1e6:.1f} MB"


def _levels(pyramid: PyramidFile) -> Iterator[str]:
    stored_bytes = raw_bytes = 0
    for r in pyramid.resolutions:
        data = pyramid.level(r)
        stored = data.id.get_storage_size()
        raw = data.size * data.dtype.itemsize
        stored_bytes, raw_bytes = stored_bytes + stored, raw_bytes + raw
        kind = f"{data.dtype} {list(data.shape)}, chunks {list(data.chunks or ())}, {_compression(data)}"
        yield f"  {data.name[1:]:14} {kind}, {stored / 1e6:.2f} MB, {stored / max(raw, 1):.0%} of raw"
        yield from _gaps(data)
    share = stored_bytes / max(raw_bytes, 1)
    yield f"all levels: {stored_bytes / 1e6:.1f} MB stored, {raw_bytes / 1e6:.1f} MB raw, {share:.0%}"


def _compression(data: h5py.Dataset) -> str:
    """Return the filters of a dataset; h5py itself knows only those of HDF5.

    The level of gzip is what the file says of it. Files of this package say 4 also where another program than zlib
    was at work, whose levels are its own (`codecs.Gzip`): of these none is told.
    """
    untold = codecs.STATED_LEVEL if "format_version" in data.file.attrs else None
    plist = data.id.get_create_plist()
    names = []
    for i in range(plist.get_nfilters()):
        code, _, values, name = plist.get_filter(i)
        known = FILTERS.get(code) or printable(name.decode("utf-8", "replace").rstrip("\0")) or f"filter {code}"
        names.append(f"{known} {values[0]}" if code == DEFLATE and values and values[0] != untold else known)
    return " + ".join(names) or "uncompressed"


def _gaps(data: h5py.Dataset) -> Iterator[str]:
    """Say where images were announced but never written, as by a writer that was killed."""
    if data.chunks is None or data.ndim != 4:
        return
    expected = int(np.prod([-(-n // side) for n, side in zip(data.shape, data.chunks, strict=True)]))
    found = data.id.get_num_chunks()
    if found < expected:
        yield f"  incomplete: {found} of {expected} chunks were written; images of the others read as black"


def _labels(path: Path) -> Iterator[str]:
    """Say what labels lie beside the file, as the ProGAN authors' tool puts them."""
    beside = labels_path(path)
    if beside.is_file():
        try:
            labels = np.load(beside, mmap_mode="r", allow_pickle=False)
            yield f"labels: {beside.name}, {labels.dtype} {list(labels.shape)}"
        except (OSError, ValueError, EOFError):
            yield f"labels: {beside.name} is not a file of numpy's"


def _photos(pyramid: PyramidFile) -> Iterator[str]:
    group = pyramid.file.get("photos")
    if not isinstance(group, h5py.Group):
        return
    files, splits = pyramid.column("file"), pyramid.column("split")
    if files is not None and len(files):
        distinct = len(set(files))
        among = f", {distinct} different ones" if distinct < len(files) else ""
        yield printable(f"sources: {files[0]} ... {files[-1]}{among}")
    yield from _scores(pyramid)
    if splits is not None and any(splits):
        yield "splits: " + ", ".join(f"{name or 'none'} {n}" for name, n in sorted(Counter(splits).items()))
    for name, words in NAMES.items():
        names = pyramid.column(name)
        if names is not None:
            yield printable(f"{words}: {', '.join(map(str, names))}")
    columns = [name for name, column in group.items() if name not in NAMES and isinstance(column, h5py.Dataset)]
    yield printable(f"known of each image: {', '.join(columns)}")


def _scores(pyramid: PyramidFile) -> Iterator[str]:
    column = pyramid.column("score")
    if column is None or isinstance(column, list) or column.ndim != 1 or not len(column):
        return
    scores: NDArray[np.float64] = column.astype(np.float64)
    known = scores[np.isfinite(scores)]
    if len(known):
        low, middle, high = np.percentile(known, [0, 50, 100])
        without = f", {len(scores) - len(known)} without" if len(known) < len(scores) else ""
        yield f"scores: {low:.4f} to {high:.4f}, median {middle:.4f}{without}"
        best, worst = int(np.nanargmax(_finite(scores))), int(np.nanargmin(_finite(scores)))
        columns = [one for one in map(pyramid.column, ("id", "file")) if one is not None and len(one) == len(scores)]
        called = [f"image {n}" + (f" ({columns[0][n]})" if columns else "") for n in (best, worst)]
        yield printable(f"  best {called[0]}, worst {called[1]}")
        yield from histogram_lines(known)


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)


def _attributes(file: h5py.File) -> Iterator[str]:
    for name, value in sorted(file.attrs.items()):
        text = value if isinstance(value, str) else json.dumps(np.asarray(value).tolist(), default=str)
        yield printable(f"{name}: {text}")
