"""Packing of the selected images into the multi-resolution HDF5 file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError, RecipeError, WorkspaceError
from celebahq_builder.hdf5 import images_per_job
from celebahq_builder.hdf5.codecs import Codec, codec
from celebahq_builder.hdf5.labels import labels_path, write_labels
from celebahq_builder.hdf5.writer import Columns, Packed, PyramidWriter, pack
from celebahq_builder.image_set import attribute_labels
from celebahq_builder.imaging.image_io import decode_png
from celebahq_builder.outcome import QualityScore
from celebahq_builder.pipeline.face import ImageRecord, PhotoRecord
from celebahq_builder.pipeline.results import read_records
from celebahq_builder.pipeline.stage import BuildInputs, DatasetContext, DatasetStage
from celebahq_builder.pipeline.stages.crop import CropRecord
from celebahq_builder.pipeline.stages.select import SelectRecord
from celebahq_builder.progress import Progress
from celebahq_builder.run_directory.state import StageCounts, Table
from celebahq_builder.run_directory.workspace import StageFolder, Workspace

PYRAMID_BYTES = {"none": 4.0, "gzip": 2.7, "blosc2": 2.4}
"""Bytes of all levels of an image per pixel of the largest level, by compression; measured with the real CelebA-HQ."""


@dataclass(frozen=True)
class PackSettings:
    """Order, compression and labels."""

    order: Literal["photo", "rank", "shuffled"] = "photo"
    """``photo``: as in the source; ``rank``: best first; ``shuffled``: by the recipe's seed."""
    compression: Literal["gzip", "none", "blosc2"] = "gzip"
    """``gzip``: every HDF5 library reads it; ``blosc2``: smaller, needs the package hdf5plugin; see docs/hdf5.md."""
    level: int = 0
    """0: the default of the compression; 1 (fast) to 9 (small): of zlib for gzip, of Zstandard for blosc2."""
    labels: bool = False
    """Write the photos' attributes next to the file: ``<stem>-labels.npy``, float32 [N, attributes] of 0 and 1."""

    def __post_init__(self) -> None:
        try:
            self.codec()
        except FormatError as error:
            raise ValueError(f"pack: {error}") from None

    def codec(self) -> Codec:
        """Return the codec of all levels."""
        return codec(self.compression, self.level)


class PackStage(DatasetStage[PackSettings]):
    """Write the HDF5 file of the selected images, and their labels where they are asked for."""

    name = "pack"

    version = 3
    Settings = PackSettings

    def ingredients(self, settings: PackSettings, inputs: BuildInputs) -> dict[str, int]:
        """Return the seed, where the order depends on it."""
        return {"seed": inputs.seed} if settings.order == "shuffled" else {}

    def check(self, settings: PackSettings, inputs: BuildInputs) -> None:
        """Raise a RecipeError if labels are asked for that the source does not have."""
        if settings.labels and not inputs.source.attribute_names:
            raise RecipeError(
                f"pack.labels = true (`labels`) needs photos with attributes, {inputs.source.folder} comes with none; "
                "CelebA's are in Anno/list_attr_celeba.txt"
            )

    def estimate_bytes(self, settings: PackSettings, photos: int, resolution: int) -> float:
        """Estimate the size of the data set by that of the real CelebA-HQ."""
        return photos * resolution**2 * PYRAMID_BYTES[settings.compression]

    def files(self, workspace: Workspace, resolution: int) -> tuple[Path, ...]:
        """Return the paths of data set and labels."""
        path = workspace.hdf5_path(resolution)
        return path, labels_path(path)

    def needed_files(self, settings: PackSettings, workspace: Workspace, resolution: int) -> tuple[Path, ...]:
        """Return the data set, and the labels if they are asked for."""
        return self.files(workspace, resolution)[: 1 + settings.labels]

    def check_files(self, before: Table, workspace: Workspace, resolution: int) -> None:
        """Raise a WorkspaceError if the data set was made without labels, and labels lie beside it."""
        path = labels_path(workspace.hdf5_path(resolution))
        if before.get("labels") is False and os.path.lexists(path):
            raise WorkspaceError(
                f"{path} was not written by this run, which makes its data set again; move it, then run the same "
                "command again"
            )

    def run(self, settings: PackSettings, context: DatasetContext) -> StageCounts:
        """Write the data set; raises the errors of `write_hdf5`."""
        workspace, inputs = context.workspace, context.inputs
        selected = list(read_records(workspace.stage("select"), context.record_types))
        with Progress("pack", len(selected), unit="face", judged=False) as progress:
            write_hdf5(
                workspace.hdf5_path(inputs.resolution),
                in_order(selected, settings.order, inputs.seed),
                workspace.stage(context.image_stage),
                settings,
                resolution=inputs.resolution,
                attribute_names=inputs.source.attribute_names,
                attributes=context.hdf5_attributes,
                workers=context.workers,
                advance=progress.advance,
            )
        return StageCounts(photos=len(selected), batches=1, kept=len(selected), rejected=0)


@dataclass(frozen=True)
class _Job:
    folder: StageFolder
    images: tuple[ImageRecord, ...]
    resolution: int
    codec: Codec


def in_order(selected: Sequence[PhotoRecord], order: str, seed: int) -> list[PhotoRecord]:
    """Return the photos, given best first, in the order in which they are stored."""
    if order == "rank":
        return list(selected)
    by_photo = sorted(selected, key=lambda one: one.identity.index)
    if order == "photo":
        return by_photo
    shuffled = np.random.default_rng(seed).permutation(len(by_photo))
    return [by_photo[i] for i in shuffled]


def write_hdf5(
    path: Path,
    photos: Sequence[PhotoRecord],
    images: StageFolder,
    settings: PackSettings,
    *,
    resolution: int,
    attribute_names: Sequence[str],
    attributes: Table,
    workers: int,
    advance: Callable[[int], None],
) -> None:
    """Write the images of `photos`, in this order, to the HDF5 file `path`, and their labels where asked for.

    Args:
        path: of the HDF5 file.
        photos: with `ImageRecord`, `CropRecord`, `QualityScore` and `SelectRecord`.
        images: folder of the stage that kept the images.
        settings: compression and labels; the order is that of `photos`.
        resolution: side length of the images in px.
        attribute_names: names of the photos' attributes, where the source has them.
        attributes: stored with the file.
        workers: threads that decode the images, build and compress the levels; the caller's thread writes.
        advance: called with the number of images written since the last call.

    Raises:
        WorkspaceError: an image was changed or deleted.
        DiskFull: no space left; nothing remains of the file.
    """
    own, at_once = settings.codec(), images_per_job(resolution)
    records = [one[ImageRecord] for one in photos]
    starts = range(0, len(photos), at_once)
    jobs = (_Job(images, tuple(records[start : start + at_once]), resolution, own) for start in starts)
    columns = photo_columns(photos, attribute_names)
    with PyramidWriter(path, count=len(photos), resolution=resolution, channels=3, codec=own) as writer:
        for packed in parallel.run_threads(_pack, jobs, workers=workers):
            writer.write(packed)
            advance(len(packed.sha256))
        if settings.labels:
            write_labels(path, attribute_labels(columns["attributes"]))
        else:  # labels there belong to an earlier file
            labels_path(path).unlink(missing_ok=True)
        try:
            writer.finish(columns, attributes)
        except BaseException:
            labels_path(path).unlink(missing_ok=True)
            raise


def _pack(job: _Job) -> Packed:
    images = (decode_png(job.folder.read_image(image.path, image.sha256)) for image in job.images)
    return pack(images, job.resolution, 3, job.codec)


def photo_columns(photos: Sequence[PhotoRecord], attribute_names: Sequence[str]) -> Columns:
    """Return the values of the photos, one column each; rank and score only where all photos have them."""
    crops, identities = [one[CropRecord] for one in photos], [one.identity for one in photos]
    columns: dict[str, NDArray[np.generic] | Sequence[str]] = {
        "file": [one.file for one in photos],
        "id": [one.id for one in identities],
    }
    if all(SelectRecord in one.parts for one in photos):
        columns["rank"] = np.array([one[SelectRecord].rank for one in photos], np.int32)
    if all(QualityScore in one.parts for one in photos):
        columns["score"] = np.array([one[QualityScore].score for one in photos], np.float64)
    columns |= {
        "landmarks": np.array([one.landmarks for one in identities], np.float32).reshape(-1, 5, 2),
        "quad": np.array([crop.quad for crop in crops], np.float64).reshape(-1, 4, 2),
        "zoom": np.array([crop.zoom for crop in crops], np.float64),
        "split": [one.split for one in identities],
        "inside": np.array([crop.inside for crop in crops], np.float64),
    }
    if photos and all(one.official_index is not None for one in identities):
        columns["official_index"] = np.array([one.official_index for one in identities], np.int32)
    if attribute_names:
        columns["attributes"] = np.array([one.attributes for one in identities], np.int8)
        columns["attribute_names"] = list(attribute_names)
    return columns
