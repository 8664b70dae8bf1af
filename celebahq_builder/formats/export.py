"""Export a level of an HDF5 file to another format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from celebahq_builder.errors import FormatError, RecipeError
from celebahq_builder.hdf5.labels import encode_labels
from celebahq_builder.hdf5.level_images import LevelImageSet
from celebahq_builder.imaging.image_io import PNG_LEVEL
from celebahq_builder.progress import Progress
from celebahq_builder.storage import sha256, staging

SHARD = 1000
"""Images per shard, where nothing else is asked for."""

PART = 32
"""Images of a job, where the format does not decide it."""


@dataclass(frozen=True)
class ExportSettings:
    """All that decides what is written."""

    to: str
    """Name of the format in the catalogue."""
    resolution: int | None = None
    """Which level; default the largest."""
    shuffle: bool = False
    """In the order of the ProGAN authors' tool for TFRecord: numpy's RandomState(123)."""
    shard: int | None = None
    """Images per shard, for formats of several files; default 1000."""
    png_level: int | None = None
    """0 (no compression) to 9 (smallest and slowest), for formats of PNG; default 1."""


@dataclass(frozen=True)
class ExportJob:
    """What a format's writer is given."""

    source: Path
    level: LevelImageSet
    name: str
    """Of the target: files of the formats that have several begin with it."""
    settings: ExportSettings
    workers: int

    @property
    def shard(self) -> int:
        """Images per shard."""
        return SHARD if self.settings.shard is None else self.settings.shard

    @property
    def png_level(self) -> int:
        """Of the compression of PNG."""
        return PNG_LEVEL if self.settings.png_level is None else self.settings.png_level

    def parts(self, size: int = PART) -> list[range]:
        """Return the numbers of the images, cut into jobs."""
        count = self.level.count
        return [range(start, min(start + size, count)) for start in range(0, count, size)]


def export(source: Path, target: Path, settings: ExportSettings, workers: int) -> int:
    """Write a level of an HDF5 file in another format; returns the number of images.

    Any number of workers writes the same bytes. A killed export goes on where it was; each format's writer says how.

    Raises:
        RecipeError: no such format, or a setting that it does not have.
        FormatError: the source is damaged or has no such level, the target exists or cannot be written.
        DiskFull: no space left; nothing remains of the target.
    """
    from celebahq_builder.formats.registry import writer_of

    writer = writer_of(settings.to)
    _check(settings)
    with LevelImageSet(source, settings.resolution) as level:
        target = Path(str(target).rstrip("/"))
        job = ExportJob(source, level, target.name, settings, workers)
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
        if not target.name:
            raise FormatError(f"--out {target} has no name; give the name of a file or folder to be made")
        if settings.to == "stylegan-zip" and target.suffix != ".zip":
            raise FormatError(f"--out {target} does not end in .zip, by which StyleGAN knows one; name it {target}.zip")
        with staging(target, plan) as stage:
            _drive(writer(job, stage), settings.to, level.count)
        return level.count


def _check(settings: ExportSettings) -> None:
    """Raise for settings that mean nothing to the format, rather than let someone wait for what they do."""
    from celebahq_builder.formats.registry import OF_PNG, SHARDED, SHUFFLING

    asked = {
        "--shuffle": (settings.shuffle or None, SHUFFLING, "the other formats have the file's order"),
        "--shard": (settings.shard, SHARDED, f"{settings.to} is not cut into shards"),
        "--png-level": (settings.png_level, OF_PNG, f"{settings.to} has no PNG in it"),
    }
    for option, (value, formats, reason) in asked.items():
        if value is not None and settings.to not in formats:
            raise RecipeError(f"{option} is for {', '.join(formats)}; {reason}: leave it out")


def _drive(steps: Iterator[int], what: str, count: int) -> None:
    """Run a writer; the first number that it yields is of images done by an earlier command."""
    progress = Progress(what, count, next(steps), unit="image", judged=False)
    try:
        for images in steps:
            progress.advance(images)
    finally:
        progress.close()
