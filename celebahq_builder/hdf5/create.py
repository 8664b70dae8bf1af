"""Create a multi-resolution HDF5 file from any image set."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.codecs import Codec, Gzip
from celebahq_builder.hdf5.labels import encode_labels, labels_path, write_labels
from celebahq_builder.hdf5.layout import images_per_job
from celebahq_builder.hdf5.writer import UNFINISHED, Columns, LevelDataset, Packed, PyramidWriter, pack
from celebahq_builder.image_set import ImageSet, Labels, NamedImage
from celebahq_builder.imaging.pyramid import levels
from celebahq_builder.storage import staging

Texts = dict[str, list[str]]
"""Columns of text known of some images."""


class WriteJournal:
    """Notes what is written to a file; opened anew for each.

    Args:
        path: of the journal.
    """

    def __init__(self, path: Path) -> None:
        self.file: BinaryIO = path.open("wb", buffering=0)

    def add(self, packed: Packed, texts: Texts, datasets: Sequence[LevelDataset]) -> None:
        """Note a job that is in the file already."""
        noted: list[Any] = []
        for content, dataset in zip(packed.levels, datasets, strict=True):
            if isinstance(content, list):
                places = dataset.last(len(content))
                noted.append([[p.offset, p.size, zlib.crc32(c)] for p, c in zip(places, content, strict=True)])
            else:
                noted.append(base64.b64encode(content.tobytes()).decode())
        line = json.dumps({"levels": noted, "sha256": packed.sha256, "texts": texts}).encode()
        self.file.write(b"%08x %s\n" % (zlib.crc32(line), line))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()


def recover(journal: Path, images: Path, resolution: int, channels: int) -> Iterator[tuple[Packed, Texts]]:
    """Yield the jobs of an unfinished file, from the first to the last that is whole.

    Args:
        journal: of the file.
        images: the unfinished HDF5 file; not read by HDF5.
        resolution: of its largest level.
        channels: of its images.
    """
    with journal.open("rb") as lines, images.open("rb", buffering=0) as file:
        for line in lines:
            sound = line[:-1].split(b" ", 1)
            if len(sound) != 2 or not line.endswith(b"\n") or b"%08x" % zlib.crc32(sound[1]) != sound[0]:
                return
            noted = json.loads(sound[1])
            try:
                contents = [
                    np.frombuffer(base64.b64decode(level), np.uint8).reshape(-1, channels, r, r)
                    if isinstance(level, str)
                    else [_chunk(file, *place) for place in level]
                    for r, level in zip(levels(resolution), noted["levels"], strict=True)
                ]
            except _NotTheNotedError:
                return
            yield Packed(tuple(contents), noted["sha256"]), noted["texts"]


class _NotTheNotedError(Exception):
    """A chunk that never reached the disk."""


def _chunk(file: BinaryIO, offset: int, size: int, checksum: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if zlib.crc32(data) != checksum:
        raise _NotTheNotedError
    return data


log = logging.getLogger(__name__)

JOURNAL = "journal"


class ResumedWriter:
    """A `PyramidWriter` that keeps a journal; made by `resumed_writer`."""

    def __init__(self, writer: PyramidWriter, journal: WriteJournal) -> None:
        self.writer, self.journal = writer, journal

    @property
    def done(self) -> int:
        """Images that the file has."""
        return self.writer.done

    def write(self, packed: Packed, columns: Mapping[str, Sequence[str]] | None = None) -> None:
        """Store the images that follow; see `PyramidWriter.write`."""
        self.writer.write(packed, columns)
        with self.writer.storing():
            self.journal.add(packed, {name: list(texts) for name, texts in (columns or {}).items()}, self.writer.levels)

    def finish(self, columns: Columns, attributes: Mapping[str, Any]) -> None:
        """Close the file and give it its name; see `PyramidWriter.finish`."""
        self.writer.finish(columns, attributes)


@contextlib.contextmanager
def resumed_writer(
    folder: Path, path: Path, *, count: int, resolution: int, channels: int, codec: Codec
) -> Iterator[ResumedWriter]:
    """Open a writer that has what an earlier one left in the same folder.

    Args:
        folder: for the unfinished file; the caller sees to it that only one process uses it, and that whatever decides
            the images is the same each time.
        path: of the file when it is finished.
        count: of the images.
        resolution: of the largest level.
        channels: 3, or 1 for grey.
        codec: of all levels.

    Raises:
        DiskFull: no space left; what the folder holds is no worse for it.
    """
    new, left = folder / "new", folder / "left"
    _prepare(new, left)
    size = {"count": count, "resolution": resolution, "channels": channels}
    with PyramidWriter(path, **size, codec=codec, within=new) as writer, WriteJournal(new / JOURNAL) as journal:
        resumed = ResumedWriter(writer, journal)
        if left.exists():
            for packed, texts in recover(left / JOURNAL, left / UNFINISHED, resolution, channels):
                resumed.write(packed, texts)
            log.info("%s: %d of %d images are there already", folder, resumed.done, count)
            _delete(left)
        yield resumed


def _prepare(new: Path, left: Path) -> None:
    """Leave what an earlier command has done in `left`, if there is any, and an empty folder for a new file."""
    if left.exists():  # killed before all of it was taken over, so it holds more than the new one
        shutil.rmtree(new, ignore_errors=True)
    elif (new / JOURNAL).exists():
        new.rename(left)
    if left.exists():
        needed, free = (left / UNFINISHED).stat().st_size, shutil.disk_usage(left).free
        if needed > free:
            log.info("%s: begun anew, as %d bytes are too few to go on with %d", left.parent, free, needed)
            _delete(left)
    new.mkdir(parents=True, exist_ok=True)


def _delete(left: Path) -> None:
    """Delete a folder, of which a kill leaves no part under its name."""
    gone = left.with_name("gone")
    shutil.rmtree(gone, ignore_errors=True)
    left.rename(gone)
    shutil.rmtree(gone)


OWN_COLUMNS = ("file", "sha256", "label_names")
"""What is written of each data set; see `write_images`."""


def write_images(
    images: ImageSet,
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

    The images are read here, one after another; their levels are built and compressed by other threads. Memory
    depends on the number of workers, not on that of images. The bytes depend on neither.

    Args:
        images: any data set.
        path: of the file; labels go to ``<stem>-labels.npy``, float32 [N, classes].
        codec: compression of all levels.
        workers: threads that build and compress the levels; 1 does it in the caller's.
        columns: for the group ``photos``: arrays, or lists of text, of N rows each. The images' names (``file``),
            the hashes of their pixels (``sha256``) and the names of the labels (``label_names``) are added here.
        attributes: of the file; tables and lists are stored as JSON.
        advance: called with the number of images written since the last call.
        plan: all that decides the file's bytes. A kill or Ctrl-C then leaves the folder ``PATH.partial``, from which
            the next call of the same plan goes on; None keeps nothing.
        go_on: called with the number of images that an earlier call has written.

    Raises:
        FormatError: the file exists, the data set is not what it says, a column has another number of rows, or what
            an earlier call has left is of another plan; else nothing remains of the file.
        DiskFull: no space left; nothing remains of the file.
        WorkspaceLocked: another process writes the same file by a plan.
    """
    columns = dict(columns or {})
    labels = images.labels
    _check_target(path)
    for name in columns:
        if name in OWN_COLUMNS:
            raise FormatError(f"column {name} of {path} is written from the images themselves; leave it out")
    if labels is not None:
        if labels.ndim != 2 or len(labels) != images.count:
            raise FormatError(f"labels for {path} have shape {list(labels.shape)}, expected [{images.count}, classes]")
        _are_there(labels_path(path), encode_labels(labels))
        if images.label_names:
            columns["label_names"] = list(images.label_names)
    size = {"count": images.count, "resolution": images.resolution, "channels": images.channels}
    with contextlib.ExitStack() as last, _writer(path, plan, **size, codec=codec) as writer:
        go_on(writer.done)
        jobs = _jobs(images, codec, writer.done)
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
    if labels is None or _are_there(labels_path(path), encode_labels(labels)):
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
    images: tuple[NamedImage, ...]
    resolution: int
    channels: int
    codec: Codec


def _jobs(images: ImageSet, codec: Codec, start: int) -> Iterator[_Job]:
    channels, side = images.channels, images.resolution
    stream = iter(images.images(start))
    while at_once := tuple(itertools.islice(stream, images_per_job(side, channels))):
        for image in at_once:
            if image.pixels.shape != (channels, side, side) or image.pixels.dtype != np.uint8:
                raise FormatError(
                    f"{image.name} is {image.pixels.dtype} of shape {list(image.pixels.shape)}, expected uint8 "
                    f"of {[channels, side, side]} as the data set says"
                )
        yield _Job(at_once, side, channels, codec)


def _pack(job: _Job) -> tuple[list[str], Packed]:
    pixels = [image.pixels for image in job.images]
    return [image.name for image in job.images], pack(pixels, job.resolution, job.channels, job.codec)


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
