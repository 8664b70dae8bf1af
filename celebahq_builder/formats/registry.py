"""The registry of data set formats: names, readers, writers, recognition."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from celebahq_builder.errors import FormatError, RecipeError
from celebahq_builder.image_set import IMAGE_SUFFIXES, ImageSet

if TYPE_CHECKING:
    from celebahq_builder.formats.export import ExportJob
    from celebahq_builder.storage import Staging

Writer = Callable[["ExportJob", "Staging"], Iterator[int]]
"""Yields how many images an earlier command had done, and then how many more are, as they are."""

Reader = Callable[[Path, int | None, Collection[str]], ImageSet]
"""Takes a path, a size to cut images to, and the names of images to leave out."""

WRITERS = {
    "tfrecord": "formats.tfrecord",
    "stylegan-zip": "formats.stylegan_zip",
    "images": "formats.images",
    "webdataset": "formats.webdataset",
    "parquet": "formats.parquet",
}
"""Module of this package that has `write`."""

READERS = {
    "images": "formats.images",
    "stylegan-zip": "formats.stylegan_zip",
    "tfrecord": "formats.tfrecord",
    "webdataset": "formats.webdataset",
    "parquet": "formats.parquet",
    "hdf5": "hdf5.level_images",
    "cifar10": "formats.cifar10",
    "mnist": "formats.mnist",
    "lsun": "formats.lsun",
}
"""Module of this package that has `read`."""

OF_SUFFIX = {".tfrecords": "tfrecord", ".tar": "webdataset", ".parquet": "parquet"}
"""Formats of which a file's name tells enough."""

SHUFFLING = ("tfrecord",)
"""Formats that can be written in another order than the file's."""

SHARDED = ("webdataset", "parquet")
"""Formats that are written in files of so many images each."""

OF_PNG = ("stylegan-zip", "images", "webdataset", "parquet")
"""Formats whose images are written as PNG."""

RESIZING = ("images", "stylegan-zip", "webdataset", "parquet", "lsun")
"""Formats whose images can be of any size; their `read` takes another as its second argument."""

SKIPPING = ("lsun",)
"""Formats of millions of images, a few of them damaged; their `read` takes the names of those to leave out."""


def writer_of(name: str) -> Writer:
    """Return the writer of a format.

    Raises:
        RecipeError: there is none of that name.
    """
    if name not in WRITERS:
        raise RecipeError(f"--to {name} is not a format; there are {', '.join(WRITERS)}")
    writer: Writer = import_module(f"celebahq_builder.{WRITERS[name]}").write
    return writer


def reader_of(name: str) -> Reader:
    """Return the reader of a format.

    Raises:
        RecipeError: there is none of that name; or, when it is called, its images have a size of their own, or none
            of them can be left out.
    """
    if name not in READERS:
        raise RecipeError(f"--from {name} is not a format; there are {', '.join(READERS)}")
    read = import_module(f"celebahq_builder.{READERS[name]}").read

    def reader(path: Path, resize: int | None, skip: Collection[str] = ()) -> ImageSet:
        if resize is not None and name not in RESIZING:
            raise RecipeError(
                f"--resize is for {', '.join(RESIZING)}; the images of {name} have one size: leave it out"
            )
        if skip and name not in SKIPPING:
            raise RecipeError(f"--skip is for {', '.join(SKIPPING)}, not {name}; remove the images, or leave it out")
        sized = () if resize is None else (resize,)
        images: ImageSet = read(path, *sized, skip=skip) if skip else read(path, *sized)
        return images

    return reader


def recognise(path: Path, remedy: str = "give a folder of images, or --from FORMAT") -> str:
    """Return the name of the format that a file or folder looks like; an error that it is none ends with a remedy.

    Raises:
        FormatError: none, or there is nothing.
    """
    if not path.exists():
        raise FormatError(f"{path} does not exist")
    try:
        name = _of_folder(path) if path.is_dir() else _of_file(path)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from None
    if name is None and _is_empty(path):
        raise FormatError(f"{path} is empty; {remedy}")
    if name is None:
        raise FormatError(f"{path} is of no known format ({', '.join(READERS)}); {remedy}")
    return name


def _is_empty(path: Path) -> bool:
    """Whether a file has no bytes, or a folder no files at any depth."""
    return not any(files for _, _, files in os.walk(path)) if path.is_dir() else path.stat().st_size == 0


def _of_file(path: Path) -> str | None:
    if h5py.is_hdf5(path) or path.suffix in (".h5", ".hdf5"):
        return "hdf5"
    if zipfile.is_zipfile(path) or path.suffix == ".zip":
        return "stylegan-zip"
    if path.suffix in OF_SUFFIX:
        return OF_SUFFIX[path.suffix]
    if path.name == "data.mdb":
        return "lsun"
    return "cifar10" if "cifar" in path.name and tarfile.is_tarfile(path) else None


def _of_folder(path: Path) -> str | None:
    names = [entry.name for entry in os.scandir(path)]
    if any(name.endswith(".tfrecords") for name in names):
        return "tfrecord"
    if "data.mdb" in names:
        return "lsun"
    if any(name.startswith(("cifar-10-batches", "data_batch_")) for name in names):
        return "cifar10"
    if any(name.startswith(("train-images", "t10k-images")) and "idx3" in name for name in names):
        return "mnist"
    found = (name for _, _, files in os.walk(path) for name in files)
    if any(name.lower().endswith(IMAGE_SUFFIXES) for name in found):
        return "images"  # also with a table or an archive beside them
    return next((OF_SUFFIX[suffix] for name in sorted(names) if (suffix := Path(name).suffix) in OF_SUFFIX), None)
