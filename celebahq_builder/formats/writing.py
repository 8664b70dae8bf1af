"""A data set of any format into a new multi-resolution HDF5 file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError
from celebahq_builder.formats.codecs import Codec, Gzip
from celebahq_builder.formats.hdf5_layout import pictures_per_job
from celebahq_builder.formats.hdf5_writer import Columns, PyramidWriter
from celebahq_builder.formats.labels import labels_file, labels_path, write_labels
from celebahq_builder.formats.packing import Packed, pack
from celebahq_builder.formats.pictures import PictureSet

OWN_COLUMNS = ("file", "sha256", "label_names")
"""What is written of each data set; see `write_pictures`."""


def write_pictures(
    pictures: PictureSet,
    path: Path,
    *,
    codec: Codec = Gzip(),  # noqa: B008 (it cannot be changed)
    workers: int = 1,
    columns: Columns | None = None,
    attributes: Mapping[str, Any] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a data set to a new HDF5 file, and its labels, where it has any, beside it.

    The pictures are read here, one after another; their levels are built and compressed by other processes. Memory
    depends on the number of workers, not on that of pictures. The bytes depend on neither.

    Args:
        pictures: any data set.
        path: of the file; labels go to ``<stem>-labels.npy``, float32 [N, classes].
        codec: compression of all levels.
        workers: processes that build and compress the levels; 1 does it here.
        columns: for the group ``photos``: arrays, or lists of text, of N rows each. The pictures' names (``file``),
            the hashes of their pixels (``sha256``) and the names of the labels (``label_names``) are added here.
        attributes: of the file; tables and lists are stored as JSON.
        advance: called with the number of pictures written since the last call.

    Raises:
        FormatError: the file exists, the data set is not what it says, or a column has another number of rows;
            nothing remains of the file.
        DiskFull: no space left; nothing remains of the file.
    """
    columns = dict(columns or {})
    labels = pictures.labels
    _check_target(path)
    for name in columns:
        if name in OWN_COLUMNS:
            raise FormatError(f"column {name} of {path} is written from the pictures themselves; leave it out")
    if labels is not None:
        if labels.ndim != 2 or len(labels) != pictures.count:
            raise FormatError(
                f"labels for {path} have shape {list(labels.shape)}, expected [{pictures.count}, classes]"
            )
        _check_labels(labels_path(path), labels_file(labels))
        if pictures.label_names:
            columns["label_names"] = list(pictures.label_names)
    size = {"count": pictures.count, "resolution": pictures.resolution, "channels": pictures.channels}
    with PyramidWriter(path, **size, codec=codec) as writer:
        jobs = _jobs(pictures, codec)
        for names, packed in parallel.run(_pack, jobs, workers=workers, ordered=True):
            writer.write(packed, {"file": names})
            advance(len(names))
        _check_target(path)
        if labels is not None:
            write_labels(path, labels)
        try:
            writer.finish(columns, attributes or {})
        except BaseException:
            if labels is not None:
                labels_path(path).unlink(missing_ok=True)
            raise


@dataclass(frozen=True)
class _Job:
    names: tuple[str, ...]
    pixels: bytes
    """uint8 [n, C, R, R]; as bytes they go through a pipe, as an array joblib would make a file of them."""
    resolution: int
    channels: int
    codec: Codec


def _jobs(pictures: PictureSet, codec: Codec) -> Iterator[_Job]:
    channels, side = pictures.channels, pictures.resolution
    at_once = pictures_per_job(side, channels)
    names: list[str] = []
    parts: list[bytes] = []
    for picture in pictures.pictures():
        if picture.pixels.shape != (channels, side, side) or picture.pixels.dtype != np.uint8:
            raise FormatError(
                f"{picture.name} is {picture.pixels.dtype} of shape {list(picture.pixels.shape)}, expected uint8 of "
                f"{[channels, side, side]} as the data set says"
            )
        names.append(picture.name)
        parts.append(picture.pixels.tobytes())
        if len(names) == at_once:
            yield _Job(tuple(names), b"".join(parts), side, channels, codec)
            names, parts = [], []
    if names:
        yield _Job(tuple(names), b"".join(parts), side, channels, codec)


def _pack(job: _Job) -> tuple[tuple[str, ...], Packed]:
    side = job.resolution
    pixels = np.frombuffer(job.pixels, np.uint8).reshape(len(job.names), job.channels, side, side)
    return job.names, pack(pixels, side, job.channels, job.codec)


def _check_target(path: Path) -> None:
    if path.exists():
        raise FormatError(f"{path} exists already; give another name, or delete it first")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise FormatError(f"{path} cannot be written: {path.parent} is no folder that can be written to")


def _check_labels(path: Path, expected: bytes) -> None:
    """Raise for labels of another data set; those of this one are what a run killed at its very end left."""
    if path.exists() and path.read_bytes() != expected:
        raise FormatError(f"{path} exists already, with other labels; give another name, or delete it first")
