"""The description of a data set format, and of an export to one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from celebahq_builder.errors import RecipeError
from celebahq_builder.formats.image_file import check_resize
from celebahq_builder.hdf5.level_images import LevelImageSet
from celebahq_builder.image_set import ImageSet
from celebahq_builder.storage import Staging

JOB_IMAGES = 32
"""Images that a worker writes at a time, where the format does not decide it."""


@dataclass(frozen=True)
class ExportJob:
    """One export, as a writer receives it; all options have values."""

    source: Path
    """HDF5 file, which worker processes open again."""
    level: LevelImageSet
    name: str
    """Name of the target, with which the names of its files begin."""
    workers: int
    shuffle: bool
    shard: int
    """Images per shard."""
    png_level: int
    """PNG compression, 0 to 9."""

    def parts(self, size: int = JOB_IMAGES) -> list[range]:
        """Return the image numbers, cut into ranges of `size`."""
        count = self.level.count
        return [range(start, min(start + size, count)) for start in range(0, count, size)]


Option = Literal["resize", "crop", "skip", "split", "shuffle", "shard", "png_level"]
"""On import: ``resize`` or ``crop`` images, ``skip`` some of them, take one ``split``. On export: ``shuffle`` images,
write so many per ``shard``, compress them by ``png_level``."""

Writer = Callable[[ExportJob, Staging], Iterator[int]]
"""Yields the number of images that an interrupted export has written, then the number of each further step."""


@dataclass(frozen=True)
class Format:
    """A data set format: how it is recognised, read and written."""

    name: str
    read: Callable[..., ImageSet]
    """Called with a path, and with those of the options ``resize``, ``skip``, ``split`` and ``crop`` that are given."""
    write: Writer | None = None
    """None for formats that are only read."""
    names: tuple[str, ...] = ()
    """Patterns (`fnmatch`) for the name of a file of this format, or of an entry of a folder of this format."""
    recognise: Callable[[Path], bool] | None = None
    """Recognises a file or folder by more than names."""
    beside_images: bool = True
    """Whether a folder that also holds image files can be of this format."""
    options: frozenset[Option] = frozenset()
    """Options of `read` and `write`."""
    target_suffix: str = ""
    """Ending that the target must have."""

    def matches_name(self, path: Path) -> bool:
        """Return whether the name of a file, or of an entry of a folder, is one of this format."""
        entries = [one.name for one in path.iterdir()] if path.is_dir() else [path.name]
        return any(fnmatchcase(entry, name) for name in self.names for entry in entries)

    def open(
        self,
        path: Path,
        resize: int | None = None,
        skip: Collection[str] = (),
        split: str | None = None,
        crop: str | None = None,
    ) -> ImageSet:
        """Open a data set of this format.

        Args:
            path: file or folder.
            resize: side length in px to which images are cropped and resized.
            skip: names of images to leave out.
            split: name of the split to open, if a folder holds several.
            crop: name of the crop that is cut out of each image first.

        Raises:
            RecipeError: the format does not have one of these options.
            FormatError: `resize` is not a power of two; the data set is not of this format, or damaged.
        """
        given: dict[Option, int | Collection[str]] = {}
        if resize is not None:
            given["resize"] = resize
        if skip:
            given["skip"] = skip
        if split is not None:
            given["split"] = split
        if crop is not None:
            given["crop"] = crop
        self.check_options(given)
        check_resize(resize)
        return self.read(path, **given)

    def check_options(self, given: Collection[Option]) -> None:
        """Raise RecipeError for options that the format does not have."""
        for option in given:
            if option not in self.options:
                raise RecipeError(f"`{option}` has no effect on {self.name}; leave it out")
