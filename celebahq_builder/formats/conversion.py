"""Conversion between HDF5 files and other data set formats: export and import."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from celebahq_builder import __version__
from celebahq_builder.errors import FormatError, RecipeError, printable
from celebahq_builder.formats import Option, find_format, load_formats, recognize
from celebahq_builder.formats.export_job import ExportJob
from celebahq_builder.formats.hdf5 import LevelImageSet
from celebahq_builder.hdf5.codecs import codec
from celebahq_builder.hdf5.create import OWN_COLUMNS, write_images
from celebahq_builder.hdf5.labels import encode_labels, labels_path
from celebahq_builder.image_set import DataSet, ImagePyramid, NamedImage
from celebahq_builder.imaging.image_io import ImageFormat
from celebahq_builder.parallel import cores
from celebahq_builder.progress import Progress
from celebahq_builder.storage import check_free, read_text, sha256, staging

# --- Export


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
        >>> pixels = [np.full((1, 4, 4), i, np.uint8) for i in range(2)]
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_images(DataSet(2, 4, 1, lambda: map(NamedImage, pixels, ["0.png", "1.png"])), folder / "grey.h5")
        >>> export_file(folder / "grey.h5", folder / "png", "images", workers=1)
        2
    """
    source, out = Path(file) if isinstance(file, str) else file, Path(str(out).rstrip("/"))
    chosen = load_formats().get(format)
    if chosen is None or chosen.write is None:
        written = ", ".join(name for name, one in load_formats().items() if one.write)
        raise RecipeError(f"`to` {format} does not exist; expected one of {written}")
    options: dict[Option, Any] = {
        "shuffle": shuffle or None,
        "shard": shard,
        "png_level": png_level,
        "image_format": image_format,
        "quality": quality,
    }
    given = {option: value for option, value in options.items() if value is not None}
    chosen.check_options(given)
    image_format = image_format or "png"
    useless: Option = "quality" if image_format == "png" else "png_level"
    if useless in given:
        raise RecipeError(f"`{useless}` has no effect on {image_format} files; leave it out, or set `image_format`")
    suffix = chosen.target_suffix
    with LevelImageSet(source, resolution) as level:
        job = ExportJob(level, out.name, workers or cores(), **given)
        if not out.name:
            raise FormatError(f"`out` {out} has no name; give the name of a file or folder to create")
        if not out.name.endswith(suffix):
            raise FormatError(f"`out` {out} does not end in {suffix}, as {format} requires; name it {out}{suffix}")
        with staging(out, _plan(job, format)) as stage:
            steps = chosen.write(job, stage)
            with Progress(format, level.count, next(steps), unit="image", judged=False) as progress:
                for images in steps:
                    progress.advance(images)
        return level.count


def _plan(job: ExportJob, format: str) -> dict[str, object]:
    """Return everything that decides the bytes of an export."""
    labels = job.level.labels
    return {
        "source": str(job.level.path.absolute()),
        **job.level.pyramid.identity,
        "labels": sha256(b"" if labels is None else encode_labels(labels)),
        "to": format,
        "resolution": job.level.resolution,
        "shuffle": job.shuffle,
        "shard": job.shard,
        "png_level": job.png_level,
        "image_format": job.image_format,
        "quality": job.quality,
    }


# --- Import


def import_images(
    path: Path | str,
    out: Path | str,
    *,
    format: str | None = None,
    resize: int | None = None,
    crop: Literal["celeba"] | None = None,
    limit: int | None = None,
    skip: Path | str | None = None,
    split: str | None = None,
    compression: str = "gzip",
    workers: int = 1,
) -> int:
    """Write a data set to a new HDF5 file, and return the number of images.

    Labels are written to ``<stem>-labels.npy`` beside the file, metadata to columns of the file. SHA-256 hashes are of
    the pixels that are written; if the metadata has hashes, the images are compared with them unless they are resized.

    Args:
        path: data set, a file or folder.
        out: HDF5 file to create.
        format: name of the format; None recognizes it.
        resize: side length in px to which images are cropped and resized, for formats with images of any size.
        crop: ``celeba`` cuts 128x128 px around (89, 121) out of CelebA's aligned images of 178x218 px, as the ProGAN
            authors did, and takes CelebA's attributes and splits from the tables beside them.
        limit: number of images to take from the beginning; None takes all.
        skip: text file with one name per line of images to leave out, for formats that support it.
        split: split to take, such as ``train``, where a folder of Parquet or WebDataset files holds several.
        compression: name of a codec.
        workers: number of threads that build and compress the levels; they never change the result.

    Raises:
        RecipeError: the format does not exist, or does not have an option that is set.
        FormatError: the data set is damaged or not of the format; the target exists or cannot be written.
        DiskFull: no space is left; nothing remains of the target.
    """
    path, out = Path(path), Path(out)
    check_free(out)
    if crop is not None and path.is_file():
        raise FormatError(f"{path} is not a folder; `crop` takes a folder of images: unpack an archive first")
    name = format or recognize(path)
    left_out = () if skip is None else _read_names(Path(skip))
    source = find_format(name).open(path, resize, left_out, split, crop)
    images = _first_images(source, source.count if limit is None else min(limit, source.count))
    if images.labels is None:
        check_free(labels_path(out))  # the labels of another data set would be taken for labels of this one
    if resize is None:
        images = _checked_images(images, path)
    columns = {key: column for key, column in images.metadata.columns.items() if key not in OWN_COLUMNS}
    if images.metadata.attribute_names:
        columns["attribute_names"] = list(images.metadata.attribute_names)
    attributes = {
        "builder": f"celebahq_builder {__version__}",
        **{key: value for key, value in images.attributes.items() if key != "format_version"},
        "imported_from": json.dumps([name, path.name]),
        "crop": crop,
        "skipped": len(left_out) or None,
        "limit": limit if images.count < source.count else None,
    }
    with Progress("import", images.count, unit="image", judged=False) as progress:
        try:
            write_images(
                images,
                out,
                codec=codec(compression),
                workers=workers,
                columns=columns,
                attributes={key: value for key, value in attributes.items() if value is not None},
                advance=progress.advance,
            )
        except OSError as error:
            raise FormatError(f"{out} cannot be written: {error}; fix this, or choose another `out`") from None
    return images.count


def _first_images(source: DataSet, count: int) -> DataSet:
    """Return the first images of a data set, with their labels and metadata."""
    columns = {key: column[:count] for key, column in source.metadata.columns.items()}
    return replace(
        source,
        count=count,
        images=lambda: itertools.islice(source.images(), count),
        labels=None if source.labels is None else source.labels[:count],
        metadata=replace(source.metadata, columns=columns),
    )


def _checked_images(source: DataSet, path: Path) -> DataSet:
    """Return a data set whose images are compared with the hashes in its metadata, if there are any."""
    hashes = source.metadata.columns.get("sha256")
    if not isinstance(hashes, list):
        return source

    def images() -> Iterator[NamedImage]:
        for number, image in enumerate(source.images()):
            if hashes[number] and sha256(image.pixels.tobytes()) != hashes[number]:
                fault = f"the SHA-256 of {printable(image.name)}, image {number}, is not that of its metadata"
                remedy = "restore the image, or remove sha256 from the metadata if the change is intended"
                raise FormatError(f"{path}: {fault}; {remedy}")
            yield image

    return replace(source, images=images)


def _read_names(path: Path) -> tuple[str, ...]:
    """Return the lines of a text file that are not blank, stripped."""
    try:
        return tuple(filter(None, map(str.strip, read_text(path).splitlines())))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FormatError(
            f"`skip` {path} cannot be read: {reason}; expected a text file with one name per line"
        ) from None
