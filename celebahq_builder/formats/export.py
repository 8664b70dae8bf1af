"""Export of a level of an HDF5 file to another format."""

from __future__ import annotations

from pathlib import Path

from celebahq_builder.errors import FormatError, RecipeError
from celebahq_builder.formats import load_formats
from celebahq_builder.formats.format import Option
from celebahq_builder.formats.hdf5 import ExportJob, LevelImageSet
from celebahq_builder.hdf5.labels import encode_labels
from celebahq_builder.image_set import ImagePyramid
from celebahq_builder.imaging.image_io import PNG_LEVEL, QUALITY, ImageFormat
from celebahq_builder.parallel import cores
from celebahq_builder.progress import Progress
from celebahq_builder.storage import sha256, staging

SHARD_IMAGES = 1000
"""Default number of images per shard."""


def export_file(
    file: Path | str | ImagePyramid,
    out: Path | str,
    format: str,
    *,
    resolution: int | None = None,
    shuffle: bool = False,
    shard: int | None = None,
    png_level: int | None = None,
    image_format: ImageFormat | None = None,
    quality: int | None = None,
    workers: int | None = None,
) -> int:
    """Export a level of an HDF5 file to another format; return the number of images.

    The bytes do not depend on the number of workers. The same call resumes an interrupted export; the writer of each
    format describes in which steps.

    Args:
        file: HDF5 file, or images that are open.
        out: file or folder to create.
        format: ``tfrecord``, ``stylegan-zip``, ``images``, ``webdataset`` or ``parquet``.
        resolution: level to export, in px; None takes the largest.
        shuffle: use the order of the ProGAN authors' tool, numpy's RandomState(123); tfrecord only.
        shard: images per file, for formats of several files; None means 1000.
        png_level: PNG compression, 0 (none) to 9 (smallest and slowest); None means 1.
        image_format: ``png``, or ``jpg`` or ``webp``, which change the pixels; images only. None means png.
        quality: of JPEG and WebP files, 1 to 100; None means 95.
        workers: number of processes (threads for stylegan-zip); None takes one per core.

    Raises:
        RecipeError: the format does not exist, or does not have an option that is set.
        FormatError: the file is damaged or has no such level; the target exists or cannot be written.
        DiskFull: no space is left; nothing remains of the target.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from celebahq_builder.hdf5.create import write_images
        >>> from celebahq_builder.image_set import NamedImage
        >>> class Grey:
        ...     count, resolution, channels, labels, label_names = 2, 4, 1, None, ()
        ...     def images(self):
        ...         yield from (NamedImage(np.full((1, 4, 4), i, np.uint8), f"{i}.png") for i in range(2))
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_images(Grey(), folder / "grey.h5")
        >>> export_file(folder / "grey.h5", folder / "png", "images", workers=1)
        2
    """
    source, out = Path(file) if isinstance(file, str) else file, Path(str(out).rstrip("/"))
    written = {name: one for name, one in load_formats().items() if one.write}
    if format not in written:
        raise RecipeError(f"`to` {format} does not exist; expected one of {', '.join(written)}")
    chosen = written[format]
    asked: dict[Option, object] = {
        "shuffle": shuffle or None,
        "shard": shard,
        "png_level": png_level,
        "image_format": image_format,
        "quality": quality,
    }
    chosen.check_options([option for option, value in asked.items() if value is not None])
    image_format = image_format or "png"
    useless: Option = "quality" if image_format == "png" else "png_level"
    if asked[useless] is not None:
        raise RecipeError(f"`{useless}` has no effect on {image_format} files; leave it out, or set `image_format`")
    with LevelImageSet(source, resolution) as level:
        job = ExportJob(
            level,
            out.name,
            workers or cores(),
            shuffle,
            SHARD_IMAGES if shard is None else shard,
            PNG_LEVEL if png_level is None else png_level,
            image_format,
            QUALITY if quality is None else quality,
        )
        plan = {
            "source": str(level.path.absolute()),
            **level.pyramid.identity,
            "labels": sha256(b"" if level.labels is None else encode_labels(level.labels)),
            "to": format,
            "resolution": level.resolution,
            "shuffle": shuffle,
            "shard": job.shard,
            "png_level": job.png_level,
            "image_format": image_format,
            "quality": job.quality,
        }
        if not out.name:
            raise FormatError(f"`out` {out} has no name; give the name of a file or folder to create")
        if not out.name.endswith(chosen.target_suffix):
            suffix = chosen.target_suffix
            raise FormatError(f"`out` {out} does not end in {suffix}, as {format} requires; name it {out}{suffix}")
        assert chosen.write is not None
        with staging(out, plan) as stage:
            steps = chosen.write(job, stage)
            with Progress(format, level.count, next(steps), unit="image", judged=False) as progress:
                for images in steps:
                    progress.advance(images)
        return level.count
