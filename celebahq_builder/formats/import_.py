"""Import of a data set of any known format into an HDF5 file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from celebahq_builder import __version__
from celebahq_builder.errors import FormatError, printable
from celebahq_builder.formats import reader_of, recognise
from celebahq_builder.formats.hdf5 import LevelImageSet
from celebahq_builder.hdf5.codecs import codec
from celebahq_builder.hdf5.create import OWN_COLUMNS, write_images
from celebahq_builder.hdf5.labels import labels_path
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.image_set import ImageSet, Metadata, NamedImage
from celebahq_builder.progress import Progress
from celebahq_builder.storage import check_free, read_text, sha256


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
        format: name of the format; None recognises it.
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
    name = format or recognise(path)
    left_out = () if skip is None else _read_names(Path(skip))
    source = reader_of(name)(path, resize, left_out, split, crop)
    images = _Import(source, path, limit, check_hashes=resize is None)
    if images.labels is None:
        check_free(labels_path(out))  # the labels of another data set would be taken for labels of this one
    attributes: dict[str, Any] = {"builder": f"celebahq_builder {__version__}"}
    if isinstance(source, LevelImageSet) and isinstance(source.pyramid, PyramidFile):
        attributes |= {key: value for key, value in source.pyramid.file.attrs.items() if key != "format_version"}
    attributes["imported_from"] = json.dumps([name, path.name])
    if crop is not None:
        attributes["crop"] = crop
    if left_out:
        attributes["skipped"] = len(left_out)
    if images.count < source.count:
        attributes["limit"] = limit
    progress = Progress("import", images.count, unit="image", judged=False)
    try:
        write_images(
            images,
            out,
            codec=codec(compression),
            workers=workers,
            columns=images.columns,
            attributes=attributes,
            advance=progress.advance,
        )
    except OSError as error:
        raise FormatError(f"{out} cannot be written: {error}; fix this, or choose another `out`") from None
    finally:
        progress.close()
    return images.count


class _Import:
    """The first images of a data set with their labels and metadata, compared with the hashes in the metadata."""

    def __init__(self, images: ImageSet, path: Path, limit: int | None, check_hashes: bool) -> None:
        metadata: Metadata = getattr(images, "metadata", Metadata())
        self.source, self.path = images, path
        self.count = images.count if limit is None else min(images.count, limit)
        self.resolution, self.channels = images.resolution, images.channels
        self.labels = None if images.labels is None else images.labels[: self.count]
        self.label_names = images.label_names
        known = {key: column[: self.count] for key, column in metadata.columns.items()}
        self.columns = {key: column for key, column in known.items() if key not in OWN_COLUMNS}
        if metadata.attribute_names:
            self.columns["attribute_names"] = list(metadata.attribute_names)
        hashes = known.get("sha256")
        self.hashes = hashes if check_hashes and isinstance(hashes, list) else [""] * self.count

    def images(self) -> Iterator[NamedImage]:
        """Yield the images in order.

        Raises:
            FormatError: an image does not have the hash that its metadata has.
        """
        for number, image in zip(range(self.count), self.source.images(), strict=False):
            recorded = self.hashes[number]
            if recorded and sha256(image.pixels.tobytes()) != recorded:
                fault = f"the SHA-256 of {printable(image.name)}, image {number}, is not that of its metadata"
                remedy = "restore the image, or remove sha256 from the metadata if the change is intended"
                raise FormatError(f"{self.path}: {fault}; {remedy}")
            yield image


def _read_names(path: Path) -> tuple[str, ...]:
    """Return the lines of a text file that are not blank, stripped."""
    try:
        return tuple(filter(None, map(str.strip, read_text(path).splitlines())))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FormatError(
            f"`skip` {path} cannot be read: {reason}; expected a text file with one name per line"
        ) from None
