"""Data set formats: the list of all, and the recognition of a file or folder.

A format is a file of this folder with a `FORMAT`; `MODULES` lists them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from celebahq_builder.errors import FormatError, RecipeError
from celebahq_builder.image_set import ImageSet, list_folder

if TYPE_CHECKING:
    from celebahq_builder.formats.format import Format

MODULES = ("images", "stylegan_zip", "tfrecord", "webdataset", "parquet", "hdf5", "cifar10", "mnist", "lsun")
"""Files of the formats; none is imported before a format is asked for."""


@functools.cache
def load_formats() -> dict[str, Format]:
    """Import all formats and return them by name.

    >>> sorted(load_formats()["webdataset"].options)
    ['png_level', 'resize', 'shard', 'split']
    """
    loaded: list[Format] = [import_module(f"{__name__}.{module}").FORMAT for module in MODULES]
    return {one.name: one for one in loaded}


def reader_of(name: str) -> Callable[..., ImageSet]:
    """Return `Format.open` of a format, a function of path, `resize`, `skip`, `split` and `crop`.

    Raises:
        RecipeError: no format has this name.
    """
    if name not in load_formats():
        raise RecipeError(f"`format` {name} does not exist; expected one of {', '.join(load_formats())}")
    return load_formats()[name].open


def recognise(path: Path, remedy: str = "give a folder of images, or its `format`") -> str:
    """Return the name of the format that a file or folder has.

    Names that are certain decide first, then the contents, then other names.

    Args:
        path: file or folder.
        remedy: what the user can do if no format is recognised, for the error.

    Raises:
        FormatError: the path does not exist, cannot be read, is empty, or no format is recognised.
    """
    if not path.exists():
        raise FormatError(f"{path} does not exist")
    try:
        by_name = [one for one in load_formats().values() if one.matches_name(path)]
        certain = [one for one in by_name if path.is_dir() and one.beside_images]
        by_contents = (one for one in load_formats().values() if one.recognise and one.recognise(path))
        found = next(iter(certain), None) or next(by_contents, None) or next(iter(by_name), None)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from None
    if found is None:
        raise FormatError(f"{path} {_fault(path)}; {remedy}")
    return found.name


def _fault(path: Path) -> str:
    """Return why a path is of no format."""
    unknown = f"is of no known format ({', '.join(load_formats())})"
    if not path.is_dir():
        return (unknown if path.stat().st_size else "is empty") if path.is_file() else "is not a regular file"
    remarks = ", ".join(list_folder(path).remarks())
    return f"{unknown}: {remarks}" if remarks else "is empty"
