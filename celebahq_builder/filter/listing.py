"""Which files below a folder are images, and what is passed over."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from celebahq_builder.errors import SourceError
from celebahq_builder.filter.record import Unscored
from celebahq_builder.image_set import IMAGE_SUFFIXES
from celebahq_builder.outcome import Reason

SUFFIXES = (*IMAGE_SUFFIXES, ".jpe", ".jfif", ".jp2", ".gif", ".avif", ".heic", ".heif", ".ppm", ".pgm", ".tga")
"""Endings, in any case, of what is taken for an image; one that cannot be decoded then is listed, not passed over."""


@dataclass(frozen=True, slots=True)
class Found:
    """An image's file as it was listed."""

    path: str
    """Relative to the folder, with forward slashes."""
    size_bytes: int
    mtime_ns: int


@dataclass
class PassedOver:
    """What is not taken for images."""

    suffixes: Counter[str] = field(default_factory=Counter)
    """Other files, by their endings in lower case; those without under an empty one."""
    hidden: int = 0
    """Files and folders whose names begin with a dot."""
    linked_folders: list[str] = field(default_factory=list)
    """Symbolic links to folders: they may lead anywhere, even back."""
    left_out: list[str] = field(default_factory=list)
    """Folders that the caller wants none of."""


@dataclass(frozen=True)
class Listing:
    """What lies below a folder."""

    images: list[Found]
    """By path."""
    unusable: list[Unscored]
    """Names of images that cannot be or are not read, and folders that cannot be, by path."""
    passed: PassedOver


def read(folder: Path, leave_out: Collection[Path]) -> Listing:
    """List the images below a folder.

    An image is a regular file, or a symbolic link to one, whose name ends as `SUFFIXES` say and does not begin
    with a dot. Of several names of one file, hard or symbolic links, the first that is no symbolic link counts.

    Args:
        folder: looked through to any depth; linked folders are not followed.
        leave_out: folders below it not to look into.

    Raises:
        SourceError: it cannot be read.
    """
    walk = _Walk(folder, {_identity(path.stat()) for path in leave_out if path.is_dir()})
    names = sorted(walk.names, key=lambda one: (one.linked, one.found.path))
    first: dict[tuple[int, int], str] = {}
    images, unusable = [], walk.unusable
    for name in names:
        known = first.setdefault(name.identity, name.found.path)
        if known is name.found.path:
            images.append(name.found)
        else:
            unusable.append(Unscored(name.found.path, Reason.SAME_FILE, f"the same file as {known}"))
    images.sort(key=lambda found: found.path)
    return Listing(images, sorted(unusable, key=lambda one: one.path), walk.passed)


@dataclass(frozen=True, slots=True)
class _Name:
    found: Found
    linked: bool
    identity: tuple[int, int]


class _Walk:
    """A way through a folder and all below."""

    def __init__(self, folder: Path, leave_out: set[tuple[int, int]]) -> None:
        self.leave_out = leave_out
        self.names: list[_Name] = []
        self.unusable: list[Unscored] = []
        self.passed = PassedOver()
        waiting = [(str(folder), "")]
        while waiting:
            place, prefix = waiting.pop()
            try:
                with os.scandir(place) as entries:
                    below = [
                        entry for entry in sorted(entries, key=lambda one: one.name) if self._is_folder(entry, prefix)
                    ]
            except OSError as error:
                if not prefix:
                    raise SourceError(f"{folder} cannot be read: {error.strerror}") from None
                self.unusable.append(Unscored(prefix, Reason.UNREADABLE, f"folder: {error.strerror}"))
                continue
            waiting += [(entry.path, f"{prefix}{entry.name}/") for entry in below]
        self.passed.linked_folders.sort()
        self.passed.left_out.sort()

    def _is_folder(self, entry: os.DirEntry[str], prefix: str) -> bool:
        """Note an entry, and return whether it is a folder to look into."""
        path = prefix + entry.name
        if entry.is_dir(follow_symlinks=False):
            if _identity(entry.stat(follow_symlinks=False)) in self.leave_out:
                self.passed.left_out.append(path)
                return False
            self.passed.hidden += entry.name.startswith(".")
            return not entry.name.startswith(".")
        if entry.name.startswith("."):
            self.passed.hidden += 1
        elif entry.is_symlink() and _leads_to_folder(entry):
            self.passed.linked_folders.append(path)
        elif entry.name.lower().endswith(SUFFIXES):
            self._note(entry, path)
        else:
            self.passed.suffixes[PurePosixPath(entry.name).suffix.lower()] += 1
        return False

    def _note(self, entry: os.DirEntry[str], path: str) -> None:
        try:
            about = entry.stat()
        except OSError as error:
            what = "a link that leads nowhere" if entry.is_symlink() else "file"
            self.unusable.append(Unscored(path, Reason.UNREADABLE, f"{what}: {error.strerror}"))
            return
        if stat.S_ISREG(about.st_mode):
            found = Found(path, about.st_size, about.st_mtime_ns)
            self.names.append(_Name(found, entry.is_symlink(), _identity(about)))
        else:
            self.unusable.append(Unscored(path, Reason.UNREADABLE, "not a regular file"))


def _leads_to_folder(link: os.DirEntry[str]) -> bool:
    try:
        return link.is_dir()
    except OSError:  # one that leads to itself, or where nobody may look
        return False


def _identity(about: os.stat_result) -> tuple[int, int]:
    return about.st_dev, about.st_ino
