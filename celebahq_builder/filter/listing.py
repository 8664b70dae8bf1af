"""The image files below a folder, and the files that are skipped."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from celebahq_builder.errors import SourceError
from celebahq_builder.filter.records import UnscoredImage
from celebahq_builder.image_set import IMAGE_SUFFIXES
from celebahq_builder.outcome import Reason

SUFFIXES = (*IMAGE_SUFFIXES, ".jpe", ".jfif", ".jp2", ".gif", ".avif", ".heic", ".heif", ".ppm", ".pgm", ".tga")
"""Suffixes of image files, in any case; a file of these that cannot be decoded is listed, not skipped."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file when it was listed."""

    path: str
    """Relative to the folder, with forward slashes."""
    size_bytes: int
    mtime_ns: int


@dataclass
class SkippedFiles:
    """Entries of a folder that are not image files."""

    suffixes: Counter[str] = field(default_factory=Counter)
    """Number of other files by suffix in lower case; the suffix is empty for files without one."""
    hidden: int = 0
    """Number of files and folders whose names begin with a dot."""
    linked_folders: list[str] = field(default_factory=list)
    """Symbolic links to folders; they may lead anywhere, also back."""
    excluded: list[str] = field(default_factory=list)
    """Folders that the caller excluded."""


@dataclass(frozen=True)
class ImageListing:
    """The contents of a folder."""

    images: list[ImageFile]
    """Sorted by path."""
    unusable: list[UnscoredImage]
    """Image files that cannot be read or are named twice, and folders that cannot be read, sorted by path."""
    skipped: SkippedFiles


def list_images(folder: Path, exclude: Collection[Path] = ()) -> ImageListing:
    """List the image files below a folder.

    An image file is a regular file, or a symbolic link to one, whose name ends in one of `SUFFIXES` and does not
    begin with a dot. If a file has several names (hard or symbolic links), the first one that is not a symbolic link
    counts.

    Args:
        folder: searched at any depth; symbolic links to folders are not followed.
        exclude: folders below it that are not searched.

    Raises:
        SourceError: the folder cannot be read.
    """
    walk = _Walk(folder, {_identity(path.stat()) for path in exclude if path.is_dir()})
    first: dict[tuple[int, int], str] = {}
    images, unusable = [], walk.unusable
    for name in sorted(walk.names, key=lambda name: (name.is_link, name.image.path)):
        if name.identity in first:
            detail = f"the same file as {first[name.identity]}"
            unusable.append(UnscoredImage(name.image.path, Reason.SAME_FILE, detail))
        else:
            first[name.identity] = name.image.path
            images.append(name.image)
    images.sort(key=lambda image: image.path)
    return ImageListing(images, sorted(unusable, key=lambda image: image.path), walk.skipped)


@dataclass(frozen=True, slots=True)
class _Name:
    """A name of an image file."""

    image: ImageFile
    is_link: bool
    identity: tuple[int, int]


class _Walk:
    """The search of a folder and everything below it."""

    def __init__(self, folder: Path, exclude: set[tuple[int, int]]) -> None:
        self.exclude = exclude
        self.names: list[_Name] = []
        self.unusable: list[UnscoredImage] = []
        self.skipped = SkippedFiles()
        waiting = [(str(folder), "")]
        while waiting:
            place, prefix = waiting.pop()
            try:
                with os.scandir(place) as entries:
                    ordered = sorted(entries, key=lambda entry: entry.name)
                    folders = [entry for entry in ordered if self._add(entry, prefix)]
            except OSError as error:
                if not prefix:
                    raise SourceError(f"{folder} cannot be read: {error.strerror}") from None
                self.unusable.append(UnscoredImage(prefix, Reason.UNREADABLE, f"folder: {error.strerror}"))
                continue
            waiting += [(entry.path, f"{prefix}{entry.name}/") for entry in folders]
        self.skipped.linked_folders.sort()
        self.skipped.excluded.sort()

    def _add(self, entry: os.DirEntry[str], prefix: str) -> bool:
        """Add an entry to the results, and return whether it is a folder to be searched."""
        path = prefix + entry.name
        if entry.is_dir(follow_symlinks=False):
            if _identity(entry.stat(follow_symlinks=False)) in self.exclude:
                self.skipped.excluded.append(path)
                return False
            self.skipped.hidden += entry.name.startswith(".")
            return not entry.name.startswith(".")
        if entry.name.startswith("."):
            self.skipped.hidden += 1
        elif entry.is_symlink() and _is_link_to_folder(entry):
            self.skipped.linked_folders.append(path)
        elif entry.name.lower().endswith(SUFFIXES):
            self._add_image(entry, path)
        else:
            self.skipped.suffixes[PurePosixPath(entry.name).suffix.lower()] += 1
        return False

    def _add_image(self, entry: os.DirEntry[str], path: str) -> None:
        try:
            found = entry.stat()
        except OSError as error:
            what = "a broken link" if entry.is_symlink() else "file"
            self.unusable.append(UnscoredImage(path, Reason.UNREADABLE, f"{what}: {error.strerror}"))
            return
        if stat.S_ISREG(found.st_mode):
            image = ImageFile(path, found.st_size, found.st_mtime_ns)
            self.names.append(_Name(image, entry.is_symlink(), _identity(found)))
        else:
            self.unusable.append(UnscoredImage(path, Reason.UNREADABLE, "not a regular file"))


def _is_link_to_folder(link: os.DirEntry[str]) -> bool:
    try:
        return link.is_dir()
    except OSError:  # a link to itself, or into a place without permission
        return False


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
