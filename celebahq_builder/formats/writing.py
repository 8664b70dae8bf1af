"""A data set of any format into a new multi-resolution HDF5 file."""

from __future__ import annotations

import contextlib
import itertools
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
from celebahq_builder.formats.hdf5_resumed import ResumedWriter, resumed_writer
from celebahq_builder.formats.hdf5_writer import Columns, PyramidWriter
from celebahq_builder.formats.labels import labels_file, labels_path, write_labels
from celebahq_builder.formats.packing import Packed, pack
from celebahq_builder.formats.pictures import Labels, Picture, PictureSet
from celebahq_builder.formats.staging import staging

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
    plan: Mapping[str, Any] | None = None,
    go_on: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a data set to a new HDF5 file, and its labels, where it has any, beside it.

    The pictures are read here, one after another; their levels are built and compressed by other threads. Memory
    depends on the number of workers, not on that of pictures. The bytes depend on neither.

    Args:
        pictures: any data set.
        path: of the file; labels go to ``<stem>-labels.npy``, float32 [N, classes].
        codec: compression of all levels.
        workers: threads that build and compress the levels; 1 does it in the caller's.
        columns: for the group ``photos``: arrays, or lists of text, of N rows each. The pictures' names (``file``),
            the hashes of their pixels (``sha256``) and the names of the labels (``label_names``) are added here.
        attributes: of the file; tables and lists are stored as JSON.
        advance: called with the number of pictures written since the last call.
        plan: all that decides the file's bytes. A kill or Ctrl-C then leaves the folder ``PATH.partial``, from which
            the next call of the same plan goes on; None keeps nothing.
        go_on: called with the number of pictures that an earlier call has written.

    Raises:
        FormatError: the file exists, the data set is not what it says, a column has another number of rows, or what
            an earlier call has left is of another plan; else nothing remains of the file.
        DiskFull: no space left; nothing remains of the file.
        WorkspaceLocked: another process writes the same file by a plan.
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
        _are_there(labels_path(path), labels_file(labels))
        if pictures.label_names:
            columns["label_names"] = list(pictures.label_names)
    size = {"count": pictures.count, "resolution": pictures.resolution, "channels": pictures.channels}
    with contextlib.ExitStack() as last, _writer(path, plan, **size, codec=codec) as writer:
        go_on(writer.done)
        jobs = _jobs(pictures, codec, writer.done)
        for names, packed in parallel.run_threads(_pack, jobs, workers=workers):
            writer.write(packed, {"file": names})
            advance(len(names))
        _check_target(path)
        last.enter_context(_labels_beside(path, labels))
        writer.finish(columns, attributes or {})


@contextlib.contextmanager
def _writer(path: Path, plan: Mapping[str, Any] | None, **shape: Any) -> Iterator[PyramidWriter | ResumedWriter]:
    """Open a writer of a file, which gets its name at the end at the latest."""
    if plan is None:
        with PyramidWriter(path, **shape) as writer:
            yield writer
        return
    with staging(path, dict(plan)) as stage, resumed_writer(stage.root, stage.data, **shape) as resumed:
        yield resumed


@contextlib.contextmanager
def _labels_beside(path: Path, labels: Labels | None) -> Iterator[None]:
    """Write the labels of a file that is finished meanwhile; if it is not, they go again, unless they were there."""
    if labels is None or _are_there(labels_path(path), labels_file(labels)):
        yield
        return
    try:
        write_labels(path, labels)
        yield
    except BaseException:
        if not path.exists():
            labels_path(path).unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class _Job:
    pictures: tuple[Picture, ...]
    resolution: int
    channels: int
    codec: Codec


def _jobs(pictures: PictureSet, codec: Codec, start: int) -> Iterator[_Job]:
    channels, side = pictures.channels, pictures.resolution
    stream = iter(pictures.pictures(start))
    while at_once := tuple(itertools.islice(stream, pictures_per_job(side, channels))):
        for picture in at_once:
            if picture.pixels.shape != (channels, side, side) or picture.pixels.dtype != np.uint8:
                raise FormatError(
                    f"{picture.name} is {picture.pixels.dtype} of shape {list(picture.pixels.shape)}, expected uint8 "
                    f"of {[channels, side, side]} as the data set says"
                )
        yield _Job(at_once, side, channels, codec)


def _pack(job: _Job) -> tuple[list[str], Packed]:
    pixels = [picture.pixels for picture in job.pictures]
    return [picture.name for picture in job.pictures], pack(pixels, job.resolution, job.channels, job.codec)


def _check_target(path: Path) -> None:
    if path.exists():
        raise FormatError(f"{path} exists already; give another name, or delete it first")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise FormatError(f"{path} cannot be written: {path.parent} is no folder that can be written to")


def _are_there(path: Path, expected: bytes) -> bool:
    """Return whether a file holds these labels already, as after a run that was killed at its very end.

    Raises:
        FormatError: it holds others.
    """
    if not path.exists():
        return False
    if path.read_bytes() != expected:
        raise FormatError(f"{path} exists already, with other labels; give another name, or delete it first")
    return True
