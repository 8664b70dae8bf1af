"""Write the selected images into the multi-resolution HDF5 file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError, WorkspaceError
from celebahq_builder.hdf5.codecs import Codec, codec
from celebahq_builder.hdf5.labels import attribute_labels, labels_path, write_labels
from celebahq_builder.hdf5.layout import images_per_job
from celebahq_builder.hdf5.writer import Packed, PyramidWriter, pack
from celebahq_builder.imaging.image_io import Pixels, decode_png
from celebahq_builder.outcome import Kept
from celebahq_builder.storage import sha256

VERSION = 3


@dataclass(frozen=True)
class PackSettings:
    """Order, compression and labels."""

    order: Literal["photo", "rank", "shuffled"] = "photo"
    """``photo``: as in the source; ``rank``: best first; ``shuffled``: by the run's seed."""
    compression: Literal["gzip", "none", "blosc2"] = "gzip"
    """``gzip``: every HDF5 reads it; ``blosc2``: smaller, for readers with the package hdf5plugin; docs/hdf5.md."""
    level: int = 0
    """0: what suits the compression best; 1 (fast) to 9 (small): of zlib for gzip, of Zstandard for blosc2."""
    labels: bool = False
    """Write the photos' attributes beside the file: ``<stem>-labels.npy``, float32 [N, attributes] of 0 and 1."""

    def __post_init__(self) -> None:
        try:
            self.codec()
        except FormatError as error:
            raise ValueError(f"pack: {error}") from None

    def codec(self) -> Codec:
        """Return the codec of all levels."""
        return codec(self.compression, self.level)


@dataclass(frozen=True)
class _Job:
    images: tuple[tuple[Path, str], ...]
    """Path and SHA-256 of each PNG."""
    resolution: int
    codec: Codec


def in_order(selected: Sequence[Kept], order: str, seed: int) -> list[Kept]:
    """Return the photos, given best first, in the order they are stored in."""
    if order == "rank":
        return list(selected)
    by_photo = sorted(selected, key=lambda kept: int(kept.record["index"]))
    if order == "photo":
        return by_photo
    shuffled = np.random.default_rng(seed).permutation(len(by_photo))
    return [by_photo[i] for i in shuffled]


def write(
    path: Path,
    photos: Sequence[Kept],
    images: Path,
    settings: PackSettings,
    *,
    resolution: int,
    attribute_names: Sequence[str],
    attributes: dict[str, Any],
    workers: int,
    advance: Callable[[int], None],
) -> None:
    """Write the images of `photos`, in this order, to the HDF5 file `path`, and their labels where asked for.

    Args:
        images: folder that the records' image paths are relative to.
        attribute_names: names of the photos' attributes, where the source has them.
        attributes: stored with the file.
        workers: threads that decode the images, build and compress the levels; the caller's writes.
        advance: called with the number of images written since the last call.

    Raises:
        WorkspaceError: an aligned image was altered or deleted.
        DiskFull: no space left; nothing remains of the file.
    """
    own, at_once = settings.codec(), images_per_job(resolution)
    jobs = (
        _Job(tuple(_image(kept, images) for kept in photos[start : start + at_once]), resolution, own)
        for start in range(0, len(photos), at_once)
    )
    columns = _columns(photos, attribute_names)
    with PyramidWriter(path, count=len(photos), resolution=resolution, channels=3, codec=own) as writer:
        for packed in parallel.run_threads(_pack, jobs, workers=workers):
            writer.write(packed)
            advance(len(packed.sha256))
        if settings.labels:
            write_labels(path, attribute_labels(columns["attributes"]))
        try:
            writer.finish(columns, attributes)
        except BaseException:
            labels_path(path).unlink(missing_ok=True)
            raise


def _image(kept: Kept, images: Path) -> tuple[Path, str]:
    return images / kept.record["image"]["path"], kept.record["image"]["sha256"]


def _pack(job: _Job) -> Packed:
    return pack(_images(job), job.resolution, 3, job.codec)


def _images(job: _Job) -> Iterator[Pixels]:
    for path, expected in job.images:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise WorkspaceError(f"{path}: {error.strerror}; --redo align makes the images again") from None
        if sha256(data) != expected:
            raise WorkspaceError(f"{path} was altered since it was made; --redo align makes the images again")
        yield decode_png(data)


def _columns(photos: Sequence[Kept], attribute_names: Sequence[str]) -> dict[str, Any]:
    """Return what is known of the photos, a column each."""
    records = [kept.record for kept in photos]
    columns: dict[str, Any] = {
        "file": [kept.photo for kept in photos],
        "id": [record["id"] for record in records],
        "rank": np.array([record["rank"] for record in records], np.int32),
        "score": np.array([record["score"] for record in records], np.float64),
        "landmarks": np.array([record["landmarks"] for record in records], np.float32).reshape(-1, 5, 2),
        "quad": np.array([record["quad"] for record in records], np.float64).reshape(-1, 4, 2),
        "zoom": np.array([record["zoom"] for record in records], np.float64),
        "split": [record["split"] for record in records],
    }
    if all("inside" in record for record in records):
        columns["inside"] = np.array([record["inside"] for record in records], np.float64)
    if records and all("official_index" in record for record in records):
        columns["official_index"] = np.array([record["official_index"] for record in records], np.int32)
    if attribute_names:
        columns["attributes"] = np.array([record["attributes"] for record in records], np.int8)
        columns["attribute_names"] = list(attribute_names)
    return columns
