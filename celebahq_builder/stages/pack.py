"""Write the selected pictures into the multi-resolution HDF5 file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from celebahq_builder import parallel
from celebahq_builder.errors import WorkspaceError
from celebahq_builder.formats.hdf5 import BATCH, Chunks, PyramidWriter, compress_batch
from celebahq_builder.imaging.codec import decode_png
from celebahq_builder.outcome import Kept
from celebahq_builder.workspace import sha256

VERSION = 1


@dataclass(frozen=True)
class Settings:
    """Order and compression."""

    order: Literal["photo", "rank", "shuffled"] = "photo"
    """``photo``: as in the source; ``rank``: best first; ``shuffled``: by the run's seed."""
    gzip_level: int = 4
    """1 (fast) to 9 (small)."""

    def __post_init__(self) -> None:
        if not 1 <= self.gzip_level <= 9:
            raise ValueError(f"pack.gzip_level = {self.gzip_level} must be 1 to 9")


@dataclass(frozen=True)
class _Job:
    start: int
    resolution: int
    gzip_level: int
    images: tuple[tuple[Path, str], ...]
    """Path and SHA-256 of each PNG."""


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
    settings: Settings,
    *,
    resolution: int,
    attribute_names: Sequence[str],
    attributes: dict[str, Any],
    workers: int,
    advance: Callable[[int], None],
) -> None:
    """Write the pictures of `photos`, in this order, to the HDF5 file `path`.

    Args:
        images: folder that the records' image paths are relative to.
        attribute_names: names of the photos' attributes, where the source has them.
        attributes: stored with the file.
        workers: processes that build and compress the levels; this one writes.
        advance: called with the number of pictures written since the last call.

    Raises:
        WorkspaceError: an aligned picture was altered or deleted.
        DiskFull: no space left; nothing remains of the file.
    """
    jobs = [
        _Job(
            start,
            resolution,
            settings.gzip_level,
            tuple(_image(kept, images) for kept in photos[start : start + BATCH]),
        )
        for start in range(0, len(photos), BATCH)
    ]
    hashes: list[str] = []
    with PyramidWriter(path, resolution, len(photos), settings.gzip_level) as writer:
        for start, chunks, batch_hashes in parallel.run(_compress, jobs, workers=workers, ordered=True):
            writer.write_batch(start, chunks)
            hashes += batch_hashes
            advance(len(batch_hashes))
        writer.finish(_columns(photos, hashes, attribute_names), attributes)


def _image(kept: Kept, images: Path) -> tuple[Path, str]:
    return images / kept.record["image"]["path"], kept.record["image"]["sha256"]


def _compress(job: _Job) -> tuple[int, Chunks, list[str]]:
    def pictures() -> Any:
        for path, expected in job.images:
            try:
                data = path.read_bytes()
            except OSError as error:
                raise WorkspaceError(f"{path}: {error.strerror}; --redo align makes the pictures again") from None
            if sha256(data) != expected:
                raise WorkspaceError(f"{path} was altered since it was made; --redo align makes the pictures again")
            yield decode_png(data)

    return job.start, *compress_batch(pictures(), job.resolution, job.gzip_level)


def _columns(photos: Sequence[Kept], hashes: list[str], attribute_names: Sequence[str]) -> dict[str, Any]:
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
        "sha256": hashes,
    }
    if records and all("official_index" in record for record in records):
        columns["official_index"] = np.array([record["official_index"] for record in records], np.int32)
    if attribute_names:
        columns["attributes"] = np.array([record["attributes"] for record in records], np.int8)
        columns["attribute_names"] = list(attribute_names)
    return columns
