"""The description of a data set format."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from celebahq_builder.errors import RecipeError
from celebahq_builder.formats.image_file import check_resize
from celebahq_builder.image_set import ImageSet

Option = Literal["resize", "crop", "skip", "split", "shuffle", "shard", "png_level", "image_format", "quality"]
"""On import: ``resize`` or ``crop`` images, ``skip`` some of them, take one ``split``. On export: ``shuffle`` images,
write so many per ``shard``, compress them by ``png_level``, or lossily as ``image_format`` of some ``quality``."""


@dataclass(frozen=True)
class Format:
    """A data set format: how it is recognised, read and written."""

    name: str
    read: Callable[..., ImageSet]
    """Called with a path, and with those of the options ``resize``, ``skip``, ``split`` and ``crop`` that are given."""
    write: Callable[..., Iterator[int]] | None = None
    """Called with an `ExportJob` and the `Staging` folder. Yields the number of images that an interrupted export has
    written, then the number of each further step. None for formats that are only read."""
    names: tuple[str, ...] = ()
    """Patterns (`fnmatch`) for the name of a file of this format, or of an entry of a folder of this format."""
    recognise: Callable[[Path], bool] | None = None
    """Recognises a file or folder by more than names."""
    beside_images: bool = True
    """True if a folder that also holds image files can be of this format."""
    options: tuple[Option, ...] = ()
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
        options: dict[Option, object] = {"resize": resize, "skip": skip or None, "split": split, "crop": crop}
        given = {option: value for option, value in options.items() if value is not None}
        self.check_options(given)
        check_resize(resize)
        return self.read(path, **given)

    def check_options(self, given: Collection[Option]) -> None:
        """Raise RecipeError for options that the format does not have."""
        for option in given:
            if option not in self.options:
                raise RecipeError(f"`{option}` has no effect on {self.name}; leave it out")
