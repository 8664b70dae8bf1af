"""Export of a level of an HDF5 file to another format."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from celebahq_builder.errors import FormatError, RecipeError
from celebahq_builder.formats.format import ExportJob, Option
from celebahq_builder.formats.registry import formats
from celebahq_builder.hdf5.labels import encode_labels
from celebahq_builder.hdf5.level_images import LevelImageSet
from celebahq_builder.imaging.image_io import PNG_LEVEL
from celebahq_builder.progress import Progress
from celebahq_builder.storage import sha256, staging

SHARD_IMAGES = 1000
"""Default number of images per shard."""

OPTIONS: tuple[Option, ...] = ("shuffle", "shard", "png_level")


@dataclass(frozen=True)
class ExportSettings:
    """Settings that decide the bytes of an export."""

    to: str
    """Name of the format."""
    resolution: int | None = None
    """Side length of the level in px; None exports the largest level."""
    shuffle: bool = False
    """Use the order of the ProGAN authors' TFRecord tool, numpy's RandomState(123)."""
    shard: int | None = None
    """Images per shard, for formats of several files; None means 1000."""
    png_level: int | None = None
    """PNG compression from 0 (none) to 9 (smallest and slowest); None means 1."""


def export_file(
    file: Path | str,
    out: Path | str,
    format: str,
    *,
    resolution: int | None = None,
    shuffle: bool = False,
    shard: int | None = None,
    png_level: int | None = None,
    workers: int | None = None,
) -> int:
    """Export a level of an HDF5 file to another format; return the number of images.

    The bytes do not depend on the number of workers. The same call resumes an interrupted export.

    Args:
        file: HDF5 file.
        out: file or folder to create.
        format: ``tfrecord``, ``stylegan-zip``, ``images``, ``webdataset`` or ``parquet``.
        resolution: level to export, in px; None takes the largest.
        shuffle: shuffle as the ProGAN authors' tool does; tfrecord only.
        shard: images per file, for formats of several files.
        png_level: PNG compression, 0 (none) to 9 (smallest and slowest).
        workers: number of processes (threads for stylegan-zip); None takes one per core.

    Raises:
        RecipeError: the format does not exist, or does not have an option that is set.
        FormatError: the file is damaged or has no such level; the target exists or cannot be written.
        DiskFull: no space is left; nothing remains of the target.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from celebahq_builder.hdf5.create import write_images
        >>> from celebahq_builder.image_set import NamedImage
        >>> class Grey:
        ...     count, resolution, channels, labels, label_names = 2, 4, 1, None, ()
        ...     def images(self, start=0):
        ...         yield from (NamedImage(np.full((1, 4, 4), i, np.uint8), f"{i}.png") for i in range(start, 2))
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_images(Grey(), folder / "grey.h5")
        >>> export_file(folder / "grey.h5", folder / "png", "images", workers=1)
        2
    """
    settings = ExportSettings(format, resolution, shuffle, shard, png_level)
    return export(Path(file), Path(out), settings, workers or os.cpu_count() or 1)


def export(source: Path, out: Path, settings: ExportSettings, workers: int) -> int:
    """Write a level of an HDF5 file in another format, and return the number of images.

    The bytes do not depend on the number of workers. An interrupted export is resumed by the same call; the writer of
    each format describes in which steps.

    Args:
        source: HDF5 file.
        out: file or folder to create.
        settings: format, level and options.
        workers: number of processes; threads for a format that is a single file.

    Raises:
        RecipeError: the format does not exist, or does not have an option that is set.
        FormatError: the source is damaged or has no such level; the target exists or cannot be written.
        DiskFull: no space is left; nothing remains of the target.
    """
    written = {name: one for name, one in formats().items() if one.write}
    if settings.to not in written:
        raise RecipeError(f"`to` {settings.to} does not exist; expected one of {', '.join(written)}")
    chosen = written[settings.to]
    values = {option: getattr(settings, option) for option in OPTIONS}
    chosen.check_options([option for option, value in values.items() if value is not None and value is not False])
    with LevelImageSet(source, settings.resolution) as level:
        out = Path(str(out).rstrip("/"))
        job = ExportJob(
            source=source,
            level=level,
            name=out.name,
            workers=workers,
            shuffle=settings.shuffle,
            shard=SHARD_IMAGES if settings.shard is None else settings.shard,
            png_level=PNG_LEVEL if settings.png_level is None else settings.png_level,
        )
        file = source.stat()
        plan = {
            "source": str(source.absolute()),
            "bytes": file.st_size,
            "mtime_ns": file.st_mtime_ns,
            "labels": sha256(b"" if level.labels is None else encode_labels(level.labels)),
            **asdict(settings),
            "resolution": level.resolution,
            "shard": job.shard,
            "png_level": job.png_level,
        }
        if not out.name:
            raise FormatError(f"`out` {out} has no name; give the name of a file or folder to create")
        if not out.name.endswith(chosen.target_suffix):
            suffix = chosen.target_suffix
            raise FormatError(f"`out` {out} does not end in {suffix}, as {settings.to} requires; name it {out}{suffix}")
        assert chosen.write is not None
        with staging(out, plan) as stage:
            steps = chosen.write(job, stage)
            progress = Progress(settings.to, level.count, next(steps), unit="image", judged=False)
            try:
                for images in steps:
                    progress.advance(images)
            finally:
                progress.close()
        return level.count
