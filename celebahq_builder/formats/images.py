"""Folders of image files, with metadata.jsonl as Hugging Face's imagefolder reads it, or with CelebA's tables."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import posixpath
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError, RecipeError, printable
from celebahq_builder.formats import Format
from celebahq_builder.formats.export_job import ExportJob, open_new
from celebahq_builder.formats.image_file import (
    CROPS,
    Encoded,
    FixedCrop,
    Header,
    SizeError,
    check_crop,
    common_size,
    encoded_images,
    read_header,
)
from celebahq_builder.formats.image_tables import (
    ATTRIBUTES,
    METADATA,
    PARTITION,
    TABLES,
    ImageTables,
    check_listing,
    read_celeba_tables,
)
from celebahq_builder.formats.records import file_names, image_records
from celebahq_builder.image_set import DataSet, Described, FolderListing, list_folder, utf8_name, walk_folder
from celebahq_builder.imaging.image_io import encode_image
from celebahq_builder.storage import Staging, open_file, read_file, write_atomic

log = logging.getLogger(__name__)

# --- Export


def write(export: ExportJob, stage: Staging) -> Iterator[int]:
    """Write one PNG, JPEG or WebP file per image, named by the id of its source photo if there is one.

    An interrupted export is resumed by file: existing files are complete, and are not written again.
    """
    level = export.level
    names = [f"{name}.{export.image_format}" for name in file_names(level)]
    for folder in {(stage.data / name).parent for name in names}:
        folder.mkdir(parents=True, exist_ok=True)
    yield sum((stage.data / name).exists() for name in names)
    jobs = []
    for part in export.parts():
        left = [number for number in part if not (stage.data / names[number]).exists()]
        if left:
            rest = range(left[0], part.stop)  # images are written in order, so existing files come first
            jobs.append((rest, names[rest.start : rest.stop]))
    yield from parallel.run(functools.partial(_write_images, export, stage.data), jobs, workers=export.workers)
    stage.check(stage.data / name for name in names)
    _write_metadata(export, names, stage.data)


def _write_images(export: ExportJob, folder: Path, job: tuple[range, list[str]]) -> int:
    numbers, names = job
    for name, pixels in zip(names, export.level.pixels(numbers), strict=True):
        data = encode_image(pixels, export.image_format, png_level=export.png_level, quality=export.quality)
        write_atomic(folder / name, data, parents=False)
    return len(numbers)


def _write_metadata(export: ExportJob, names: list[str], folder: Path) -> None:
    level = export.level
    if not level.metadata.columns and level.labels is None:
        return
    with open_new(folder / METADATA) as file:
        for numbers in export.parts(1000):
            for number, record in zip(numbers, image_records(level, numbers), strict=True):
                line = {"file_name": names[number], **record}
                if export.image_format != "png":
                    line.pop("sha256", None)  # the hash is that of the exact pixels; JPEG and WebP change them
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


# --- Import


def read(path: Path, resize: int | None = None, crop: str | None = None) -> DataSet:
    """Open a folder of square images of one size, at any depth.

    The order is that of ``metadata.jsonl`` or ``metadata.csv`` if the folder has one, else that of the paths. Labels
    are those of ``dataset.json``, or of the metadata. Files that are not read are counted in the log.

    With a crop, the images are those of CelebA. They lie in one folder, at any depth, and become RGB in the order of
    their names. Only CelebA's tables are read, see `image_tables.read_celeba_tables`.

    Args:
        resize: side length in px to which images are cropped and resized; see `image_file.decode`.
        crop: name of the crop that is cut out of each image first; see `image_file.CROPS`.

    Raises:
        RecipeError: the crop does not exist.
        FormatError: there is no image; a table does not describe these files; or as `image_file.read_header`,
            `image_file.common_size` and `image_file.check_crop` do.
    """
    if crop is not None and crop not in CROPS:
        raise RecipeError(f"`crop` {crop} does not exist; expected {', '.join(CROPS)}")
    if not path.is_dir():
        raise FormatError(f"{path} is not a folder; give a folder of images")
    cut = None if crop is None else CROPS[crop]
    listing = list_data_set(path, TABLES if cut is None else (*TABLES, *ATTRIBUTES, *PARTITION))
    if cut is None:
        described = ImageTables(path, listing.images, listing.others, lambda name: open_file(path / name)).read()
        size = _common_size(path, described.names, resize)
    else:
        path, described = _read_celeba(path, listing, cut)
        size = resize or cut.side, 3
    names = described.names

    def read_files(numbers: Sequence[int]) -> Iterator[Encoded]:
        for file in (path / names[number] for number in numbers):
            try:
                yield str(file), read_file(file)
            except OSError as error:
                raise FormatError(f"{printable(str(file))} cannot be read: {error.strerror}") from None

    described = dataclasses.replace(described, names=[utf8_name(name) for name in names])
    return encoded_images(described, size, read_files, resize, crop=cut, random_access=True)


def _headers(path: Path, names: Sequence[str]) -> Iterator[Header]:
    return (read_header(path / name, str(path / name)) for name in names)


def _common_size(path: Path, names: Sequence[str], resize: int | None) -> tuple[int, int]:
    try:
        return common_size(_headers(path, names), resize)
    except SizeError as error:
        first = next(_headers(path, names))
        for name, crop in CROPS.items():
            if (first.width, first.height) == (crop.width, crop.height):
                raise SizeError(f"{error}, or for {crop.images} `crop`={name}") from None
        raise


def _read_celeba(path: Path, listing: FolderListing, crop: FixedCrop) -> tuple[Path, Described]:
    """Return the folder of the images below `path`, and what CelebA's tables say of them."""
    check_crop(_headers(path, listing.images), crop)
    folders = list(dict.fromkeys(map(posixpath.dirname, listing.images)))
    if len(folders) > 1:
        some = " and ".join(printable(str(path / folder)) for folder in folders[:2])
        raise FormatError(
            f"{path} has images in {len(folders)} folders, such as {some}; `crop` takes one of them: give it"
        )
    for name in listing.others:
        if posixpath.basename(name) in TABLES:
            log.warning("the table %s is not read: a crop takes the tables of CelebA", printable(str(path / name)))
    folder = path / folders[0]
    return folder, read_celeba_tables(folder, [posixpath.basename(name) for name in listing.images])


def list_data_set(folder: Path, tables: Collection[str] = TABLES) -> FolderListing:
    """Return the files of a folder, and count in the log those that are not read; `tables` are read.

    Raises:
        FormatError: there are no images, or a folder cannot be read.
    """
    try:
        listing = list_folder(folder)
    except OSError as error:
        place = printable(str(error.filename))
        raise FormatError(f"{place} cannot be read: {error.strerror}; check its permissions") from None
    check_listing(folder, listing, tables)
    return listing


def _holds_images(path: Path) -> bool:
    return path.is_dir() and any(kind == "images" for kind, _ in walk_folder(path))


FORMAT = Format(
    "images", read, write, recognize=_holds_images, options=("resize", "crop", "png_level", "image_format", "quality")
)
