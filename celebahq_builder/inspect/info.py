"""The contents of an HDF5 file as lines of text."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.hdf5 import codecs
from celebahq_builder.hdf5.labels import labels_header, labels_path
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.image_set import ImagePyramid
from celebahq_builder.progress import size

FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32001: "Blosc", 32004: "LZ4", 32015: "Zstandard", 32026: "Blosc2"}
"""Names of HDF5 filters by their registered numbers (The HDF Group, "Registered Filter Plugins")."""

DEFLATE = 1

NAMES = {"attribute_names": "attributes", "label_names": "label names"}
"""Columns with one row per attribute or class instead of one per image, and their titles."""


def inspect_hdf5(path: Path) -> Iterator[str]:
    """Yield levels, sizes, sources, scores and attributes of a multi-resolution HDF5 file.

    Raises:
        FormatError: the file has another format, or is damaged.
    """
    with PyramidFile(path) as pyramid:
        try:
            yield from _levels(path, pyramid)
            yield from _labels(path)
            yield from _photos(pyramid)
            for name, value in sorted(pyramid.file.attrs.items()):
                text = value if isinstance(value, str) else json.dumps(np.asarray(value).tolist(), default=str)
                yield printable(f"{name}: {text}")
        except (OSError, UnicodeDecodeError) as error:
            reason = printable(str(error))
            raise FormatError(f"{path} is damaged: {reason}; build it again, or get another copy") from None


def inspect_images(images: ImagePyramid) -> Iterator[str]:
    """Yield size, sources, scores and columns of images that are in no HDF5 file yet."""
    side = f"{images.resolution}x{images.resolution}"
    yield printable(f"{images.path}: {images.count} images so far, {side} RGB, as PNG files; no HDF5 file yet")
    yield from _photos(images)


def _levels(path: Path, pyramid: PyramidFile) -> Iterator[str]:
    colour = {1: "grey", 3: "RGB"}[pyramid.channels]
    side = f"{pyramid.resolution}x{pyramid.resolution}"
    yield f"{printable(str(path))}: {pyramid.count} images, {side} {colour}, {size(path.stat().st_size)}"
    stored_bytes = raw_bytes = 0
    for r in pyramid.resolutions:
        data = pyramid.level(r)
        stored, raw = data.id.get_storage_size(), data.size * data.dtype.itemsize
        stored_bytes, raw_bytes = stored_bytes + stored, raw_bytes + raw
        kind = f"{data.dtype} {list(data.shape)}, chunks {list(data.chunks or ())}, {_compression(data)}"
        yield f"  {data.name[1:]:14} {kind}, {size(stored)}, {stored / max(raw, 1):.0%} of raw"
        if data.chunks is not None:  # chunks are missing after a writer was killed
            expected = math.prod(-(-n // side) for n, side in zip(data.shape, data.chunks, strict=True))
            if (found := data.id.get_num_chunks()) < expected:
                yield f"  incomplete: {found} of {expected} chunks were written; images of the others read as black"
    share = stored_bytes / max(raw_bytes, 1)
    yield f"all levels: {size(stored_bytes)} stored, {size(raw_bytes)} raw, {share:.0%}"


def _compression(data: h5py.Dataset) -> str:
    """Return the filters of a dataset; `h5py.Dataset.compression` knows only the filters of HDF5 itself.

    The level of gzip is shown as the file has it. Files of this package always have level 4, whichever compressor
    wrote them (`codecs.Gzip`); this level is not shown.
    """
    hidden = codecs.STATED_LEVEL if "format_version" in data.file.attrs else None
    plist = data.id.get_create_plist()
    names = []
    for i in range(plist.get_nfilters()):
        code, _, values, name = plist.get_filter(i)
        known = FILTERS.get(code) or printable(name.decode("utf-8", "replace").rstrip("\0")) or f"filter {code}"
        names.append(f"{known} {values[0]}" if code == DEFLATE and values and values[0] != hidden else known)
    return " + ".join(names) or "uncompressed"


def _labels(path: Path) -> Iterator[str]:
    """Yield the labels in the file beside the HDF5 file, where the ProGAN authors' tool writes them."""
    labels_file = labels_path(path)
    if os.path.lexists(labels_file):
        try:
            dtype, shape = labels_header(labels_file)
            yield printable(f"labels: {labels_file.name}, {dtype} {list(shape)}")
        except FormatError:
            yield f"labels: {printable(labels_file.name)} is not a NumPy file"


def _photos(images: ImagePyramid) -> Iterator[str]:
    columns = images.photos
    if not columns:
        return
    files, splits = _names(images, "file"), _names(images, "split")
    if files:
        distinct = len(set(files))
        among = f", {distinct} different ones" if distinct < len(files) else ""
        yield printable(f"sources: {files[0]} ... {files[-1]}{among}")
    yield from _scores(images)
    if any(splits):
        yield "splits: " + ", ".join(f"{name or 'none'} {n}" for name, n in sorted(Counter(splits).items()))
    for name, title in NAMES.items():
        if names := _names(images, name):
            yield printable(f"{title}: {', '.join(names)}")
    yield printable(f"columns: {', '.join(name for name in columns if name not in NAMES)}")


def _names(images: ImagePyramid, name: str) -> list[str]:
    """Return a column as text; an empty list if there is none, or one of another shape or type."""
    column = images.photos.get(name)
    if isinstance(column, np.ndarray) and (column.ndim != 1 or column.dtype.kind not in "biuf"):
        return []
    return [] if column is None else [str(value) for value in column]


def _scores(images: ImagePyramid) -> Iterator[str]:
    column = images.photos.get("score")
    if not isinstance(column, np.ndarray) or column.ndim != 1 or column.dtype.kind not in "fiu":
        return
    scores = column.astype(np.float64)
    known = np.flatnonzero(np.isfinite(scores))
    if len(known):
        yield f"scores: {score_summary(scores)}"
        best, worst = known[scores[known].argmax()], known[scores[known].argmin()]
        columns = [names for names in (_names(images, "id"), _names(images, "file")) if len(names) == len(scores)]
        best, worst = (f"image {n}" + (f" ({columns[0][n]})" if columns else "") for n in (best, worst))
        yield printable(f"  best {best}, worst {worst}")
        yield from histogram_lines(scores[known])


# --- Scores as text ---------------------------------------------------------------------------------------------

BINS_MAX = 20
"""Bins of a histogram before their width is rounded up."""

BAR_WIDTH = 40
"""Characters of the longest bar."""


def score_summary(scores: NDArray[np.float64]) -> str:
    """Return range and median of the finite ones of scores [N], at least one, and the number of the others.

    >>> score_summary(np.array([0.25, 0.75, np.nan]))
    '0.2500 to 0.7500, median 0.5000, 1 without'
    """
    known = scores[np.isfinite(scores)]
    low, middle, high = np.percentile(known, [0, 50, 100])
    without = f", {len(scores) - len(known):,} without" if len(known) < len(scores) else ""
    return f"{low:.4f} to {high:.4f}, median {middle:.4f}{without}"


def histogram_lines(values: NDArray[np.float64]) -> Iterator[str]:
    """Yield one line per bin: limits, count and bar. Bins are 1, 2 or 5 times a power of ten wide.

    A value on a limit belongs to the bin above it. The bar of a bin with values has at least one character.

    Args:
        values: at least one finite value, [N].

    >>> list(histogram_lines(np.array([0.5, 0.5, 0.6])))[0]
    '  0.50 to 0.51  2  ########################################'
    """
    step, decimals = _round_step(float(values.max() - values.min()))
    bins = np.floor(np.round(values / step, 9)).astype(np.int64)  # 0.3 / 0.1 is less than 3
    first, counts = int(bins.min()), np.bincount(bins - bins.min()).tolist()
    width = len(f"{(first + len(counts)) * step:.{decimals}f}")
    most = max(counts)
    for i, count in enumerate(counts, first):
        bar = "#" * max(round(BAR_WIDTH * count / most), min(count, 1))
        limits = f"{i * step:{width}.{decimals}f} to {(i + 1) * step:{width}.{decimals}f}"
        yield f"  {limits}  {count:{len(str(most))}}  {bar}".rstrip()


def _round_step(span: float) -> tuple[float, int]:
    """Return a round bin width with which `BINS_MAX` bins cover a span, and the decimals of its multiples."""
    raw = max(span / (BINS_MAX - 1), 1e-6)
    power = math.floor(math.log10(raw))
    for factor in (1, 2, 5):
        if factor * 10.0**power >= raw * (1 - 1e-9):
            return factor * 10.0**power, max(-power, 0)
    return 10.0 ** (power + 1), max(-power - 1, 0)
