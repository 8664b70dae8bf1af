"""Import a data set of any known format into an HDF5 file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from celebahq_builder import __version__
from celebahq_builder.errors import FormatError
from celebahq_builder.formats.registry import reader_of, recognise
from celebahq_builder.hdf5.codecs import codec
from celebahq_builder.hdf5.create import OWN_COLUMNS, write_images
from celebahq_builder.hdf5.labels import labels_path
from celebahq_builder.hdf5.level_images import LevelImageSet
from celebahq_builder.hdf5.metadata import Metadata
from celebahq_builder.image_set import ImageSet, Labels, NamedImage
from celebahq_builder.progress import Progress
from celebahq_builder.storage import check_free, sha256


def import_images(
    path: Path,
    target: Path,
    *,
    format: str | None = None,
    resize: int | None = None,
    limit: int | None = None,
    skip: Path | None = None,
    compression: str = "gzip",
    workers: int = 1,
) -> int:
    """Write a data set to a new HDF5 file; returns the number of images.

    Labels go to ``<stem>-labels.npy`` beside it, what is known of the images to its columns. The hashes are of the
    pixels that are written; where the metadata has some, they are checked. After an error nothing is left; a killed
    import starts again.

    Args:
        path: of the data set.
        target: HDF5 file to make.
        format: name in the catalogue; None takes what the data set looks like.
        resize: for formats of images of any size, cut their middle to this one.
        limit: so many images from the beginning; None for all.
        skip: file of names to leave out, one a line, for formats that allow it.
        compression: name of a codec.
        workers: threads that build and compress the levels; they never change the result.

    Raises:
        FormatError: the data set is damaged or not of the format, the target exists or cannot be written.
        DiskFull: no space left; nothing remains of the target.
    """
    check_free(target)
    name = format or recognise(path)
    left_out = () if skip is None else _names(skip)
    images = reader_of(name)(path, resize, left_out)
    attributes = _attributes(images, name, path)
    if left_out:
        attributes["skipped"] = len(left_out)
    if limit is not None and limit < images.count:
        attributes["limit"] = limit
        images = _First(images, limit)
    if images.labels is None:
        check_free(labels_path(target))  # of another data set, they would be taken for this one's
    metadata = getattr(images, "metadata", Metadata())
    columns = {key: column for key, column in metadata.columns.items() if key not in OWN_COLUMNS}
    if metadata.attribute_names:
        columns["attribute_names"] = list(metadata.attribute_names)
    progress = Progress("import", images.count, unit="image", judged=False)
    try:
        write_images(
            _Checked(images, metadata, path) if resize is None else images,
            target,
            codec=codec(compression),
            workers=workers,
            columns=columns,
            attributes=attributes,
            advance=progress.advance,
        )
    except OSError as error:
        raise FormatError(f"{target} cannot be written: {error}; see to it, or choose another --out") from None
    finally:
        progress.close()
    return images.count


def _attributes(images: ImageSet, name: str, path: Path) -> dict[str, Any]:
    known = dict(images.pyramid.file.attrs) if isinstance(images, LevelImageSet) else {}
    known.pop("format_version", None)
    return {"builder": f"celebahq_builder {__version__}", **known, "imported_from": json.dumps([name, path.name])}


def _names(path: Path) -> tuple[str, ...]:
    """Return the names of a file, one a line; blank lines are none."""
    try:
        return tuple(filter(None, map(str.strip, path.read_text(encoding="utf-8-sig").splitlines())))
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"--skip {path} cannot be read: {error}; expected a text file, a name a line") from None


class _First:
    """The beginning of a set of images, with what is known of it."""

    def __init__(self, images: ImageSet, count: int) -> None:
        self.of, self.count = images, count
        self.resolution, self.channels = images.resolution, images.channels
        self.labels: Labels | None = None if images.labels is None else images.labels[:count]
        self.label_names = images.label_names
        whole: Metadata = getattr(images, "metadata", Metadata())
        columns = {key: column[:count] for key, column in whole.columns.items()}
        self.metadata = Metadata(columns, whole.attribute_names)

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images from number `start` on."""
        return itertools.islice(self.of.images(start), max(self.count - start, 0))


class _Checked:
    """A set of images, each compared with the hash that its metadata has."""

    def __init__(self, images: ImageSet, metadata: Metadata, path: Path) -> None:
        self.of, self.path = images, path
        self.count, self.resolution, self.channels = images.count, images.resolution, images.channels
        self.labels: Labels | None = images.labels
        self.label_names = images.label_names
        hashes = metadata.columns.get("sha256")
        self.hashes = hashes if isinstance(hashes, list) else None

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images that are what their metadata says."""
        for number, image in enumerate(self.of.images(start), start):
            recorded = self.hashes[number] if self.hashes is not None else ""
            if recorded and sha256(image.pixels.tobytes()) != recorded:
                raise FormatError(
                    f"{self.path}: {image.name}, image {number}, is not the one that its metadata describes: its "
                    "SHA-256 is another; restore it, or remove sha256 from the metadata if the change is meant"
                )
            yield image
