"""The image files below a folder, and the files that are skipped.

`image_set.walk_folder` is for data sets: it follows links to folders, and an unreadable folder is an error. A filter
counts such links, and reports an unreadable file or folder among the images without a score.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from celebahq_builder.errors import SourceError
from celebahq_builder.filter.store import UnscoredImage
from celebahq_builder.image_set import IMAGE_SUFFIXES, is_folder
from celebahq_builder.outcome import Reason

SUFFIXES = (*IMAGE_SUFFIXES, ".jpe", ".jp2", ".gif", ".heic", ".heif", ".ppm", ".pgm", ".tga")
"""Suffixes of image files, in any case; a file of these that cannot be decoded is listed, not skipped."""


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

    images: dict[str, tuple[int, int]]
    """Size in bytes and modification time in ns of each image file, sorted by its path.

    Paths are relative to the folder, with forward slashes."""
    unusable: list[UnscoredImage]
    """Image files that cannot be read or are named twice, and folders that cannot be read, sorted by path."""
    skipped: SkippedFiles


def scan_folder(folder: Path, exclude: Collection[Path] = ()) -> ImageListing:
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
    excluded = {_identity(path.stat()) for path in exclude if path.is_dir()}
    names: list[tuple[bool, str, os.stat_result]] = []
    unusable: list[UnscoredImage] = []
    skipped = SkippedFiles()
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            with os.scandir(folder / prefix) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if not prefix:
                raise SourceError(f"{folder} cannot be read: {error.strerror}") from None
            unusable.append(UnscoredImage(prefix, Reason.UNREADABLE, f"folder: {error.strerror}"))
            continue
        for entry in ordered:
            path = prefix + entry.name
            if _is_skipped(entry, path, excluded, skipped):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(f"{path}/")
                continue
            try:
                found = entry.stat()
            except OSError as error:
                what = "a broken link" if entry.is_symlink() else "file"
                unusable.append(UnscoredImage(path, Reason.UNREADABLE, f"{what}: {error.strerror}"))
                continue
            if stat.S_ISREG(found.st_mode):
                names.append((entry.is_symlink(), path, found))
            else:
                unusable.append(UnscoredImage(path, Reason.UNREADABLE, "not a regular file"))

    images, other_names = _distinct_files(names)
    unusable = sorted([*unusable, *other_names], key=lambda image: image.path)
    skipped.linked_folders.sort()
    skipped.excluded.sort()
    return ImageListing(dict(sorted(images.items())), unusable, skipped)


def _distinct_files(
    names: Iterable[tuple[bool, str, os.stat_result]],
) -> tuple[dict[str, tuple[int, int]], list[UnscoredImage]]:
    """Return size and time of each file under its first name, and its other names; True marks symbolic links."""
    first_names: dict[tuple[int, int], str] = {}
    images, other_names = {}, []
    for _, path, status in sorted(names, key=lambda name: name[:2]):
        first = first_names.setdefault(_identity(status), path)
        if first == path:
            images[path] = (status.st_size, status.st_mtime_ns)
        else:
            other_names.append(UnscoredImage(path, Reason.SAME_FILE, f"the same file as {first}"))
    return images, other_names


def _is_skipped(
    entry: os.DirEntry[str], path: str, excluded: Collection[tuple[int, int]], skipped: SkippedFiles
) -> bool:
    """Return whether an entry is neither an image file nor a folder to be searched; if so, count it."""
    if entry.is_dir(follow_symlinks=False) and _identity(entry.stat(follow_symlinks=False)) in excluded:
        skipped.excluded.append(path)
    elif entry.name.startswith("."):
        skipped.hidden += 1
    elif entry.is_dir(follow_symlinks=False):
        return False
    elif entry.is_symlink() and is_folder(entry):
        skipped.linked_folders.append(path)
    elif entry.name.lower().endswith(SUFFIXES):
        return False
    else:
        skipped.suffixes[PurePosixPath(entry.name).suffix.lower()] += 1
    return True


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
