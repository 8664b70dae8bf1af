"""Data set formats: what describes one, the list of all, and the recognition of a file or folder.

A format is a file of this folder with a `FORMAT`; `MODULES` lists them.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from celebahq_builder.errors import FormatError, RecipeError
from celebahq_builder.image_set import DataSet, list_folder
from celebahq_builder.imaging.pyramid import is_power_of_two

MODULES = ("images", "stylegan_zip", "tfrecord", "webdataset", "parquet", "hdf5", "cifar10", "mnist", "lsun")
"""Files of the formats; none is imported before a format is asked for."""

REMEDY = "get or make it again"
"""Advice for a damaged file."""

SIDE_MAX_PX = 8192
"""Larger images are refused."""

Option = Literal["resize", "crop", "skip", "split", "shuffle", "shard", "png_level", "image_format", "quality"]
"""On import: ``resize`` or ``crop`` images, ``skip`` some of them, take one ``split``. On export: ``shuffle`` images,
write so many per ``shard``, compress them by ``png_level``, or lossily as ``image_format`` of some ``quality``."""


@dataclass(frozen=True)
class Format:
    """A data set format: how it is recognized, read and written."""

    name: str
    read: Callable[..., DataSet]
    """Called with a path, and with those of the options ``resize``, ``skip``, ``split`` and ``crop`` that are given."""
    write: Callable[..., Iterator[int]] | None = None
    """Called with an `ExportJob` and the `Staging` folder. Yields the number of images that an interrupted export has
    written, then the number of each further step. None for formats that are only read."""
    names: tuple[str, ...] = ()
    """Patterns (`fnmatch`) for the name of a file of this format, or of an entry of a folder of this format."""
    recognize: Callable[[Path], bool] | None = None
    """Recognizes a file or folder by more than names."""
    beside_images: bool = True
    """True if a folder that also holds image files can be of this format."""
    options: tuple[Option, ...] = ()
    """Options of `read` and `write`."""
    target_suffix: str = ""
    """Ending that the target must have."""

    def open(
        self,
        path: Path,
        resize: int | None = None,
        skip: Collection[str] = (),
        split: str | None = None,
        crop: str | None = None,
    ) -> DataSet:
        """Open a data set of this format.

        Args:
            resize: side length in px to which images are cropped and resized.
            skip: names of images to leave out.
            split: name of the split to open, if a folder holds several.
            crop: name of the crop that is cut out of each image first.

        Raises:
            RecipeError: the format does not have one of these options.
            FormatError: `resize` is not a power of two; the data set is not of this format, or damaged.
        """
        options: dict[Option, object] = {"resize": resize, "skip": skip or None, "split": split, "crop": crop}
        given = {option: value for option, value in options.items() if value is not None}
        self.check_options(given)
        if resize is not None and (resize > SIDE_MAX_PX or not is_power_of_two(resize)):
            raise FormatError(
                f"`resize` {resize} is not a power of two up to {SIDE_MAX_PX}; give 256 or 1024, for example"
            )
        return self.read(path, **given)

    def check_options(self, given: Collection[Option]) -> None:
        """Raise RecipeError for options that the format does not have."""
        for option in given:
            if option not in self.options:
                raise RecipeError(f"`{option}` has no effect on {self.name}; leave it out")


@functools.cache
def load_formats() -> dict[str, Format]:
    """Import all formats and return them by name.

    >>> sorted(load_formats()["webdataset"].options)
    ['png_level', 'resize', 'shard', 'split']
    """
    loaded: list[Format] = [import_module(f"{__name__}.{module}").FORMAT for module in MODULES]
    return {one.name: one for one in loaded}


def find_format(name: str) -> Format:
    """Return a format by its name.

    Raises:
        RecipeError: no format has this name.
    """
    if name not in load_formats():
        raise RecipeError(f"`format` {name} does not exist; expected one of {', '.join(load_formats())}")
    return load_formats()[name]


def recognize(path: Path, remedy: str = "give a folder of images, or its `format`") -> str:
    """Return the name of the format that a file or folder has.

    A folder that holds a file of a format that may have image files beside it is of this format. Otherwise, the
    contents decide, and then the names.

    Args:
        remedy: what the user can do if no format is recognized, for the error.

    Raises:
        FormatError: the path does not exist, cannot be read, is empty, or no format is recognized.
    """
    if not path.exists():
        raise FormatError(f"{path} does not exist")
    try:
        entries = [one.name for one in path.iterdir()] if path.is_dir() else [path.name]
        by_name = [one for one in load_formats().values() if any(fnmatch.filter(entries, name) for name in one.names)]
        certain = [one for one in by_name if path.is_dir() and one.beside_images]
        by_contents = (one for one in load_formats().values() if one.recognize and one.recognize(path))
        found = next(iter(certain), None) or next(by_contents, None) or next(iter(by_name), None)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from None
    if found is None:
        raise FormatError(f"{path} {_fault(path)}; {remedy}")
    return found.name


def _fault(path: Path) -> str:
    """Return why a path is of no format."""
    unknown = f"is of no known format ({', '.join(load_formats())})"
    if path.is_dir():
        remarks = ", ".join(list_folder(path).remarks())
        return f"{unknown}: {remarks}" if remarks else "is empty"
    if not path.is_file():
        return "is not a regular file"
    return unknown if path.stat().st_size else "is empty"
