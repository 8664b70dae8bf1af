"""Image files of a folder, and the image set: images of one size in a fixed order."""

from __future__ import annotations

import logging
import os
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from celebahq_builder.errors import FormatError, SourceError, printable

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif")
"""Endings of image files, in any case."""

SYSTEM_NAMES = frozenset(
    (
        *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@__thumb", "lost+found"),
    )
)
"""Names, in lower case, of files and folders that operating systems and network drives create beside images."""


# --- Files of a folder


def is_image_name(name: str) -> bool:
    """Return whether a file is an image by the ending of its name."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_hidden(path: str) -> bool:
    """Return whether a relative path has a part that is hidden, or that is made by an operating system.

    Such files are never taken for images: previews, notebook checkpoints, and the AppleDouble files of macOS.

    Examples:
        >>> is_hidden("a/.ipynb_checkpoints/b.png"), is_hidden("__MACOSX/._b.png"), is_hidden("a/b.png")
        (True, True, False)
    """
    parts = (part for part in path.split("/") if part not in (".", ".."))
    return any(part.startswith(".") or part.lower() in SYSTEM_NAMES for part in parts)


@dataclass(frozen=True)
class FolderListing:
    """The files below a folder, by paths relative to it with forward slashes."""

    images: list[str] = field(default_factory=list)
    """Image files, sorted by the parts of their paths."""
    others: list[str] = field(default_factory=list)
    """Files that are not images by their names."""
    hidden: list[str] = field(default_factory=list)
    """Hidden folders, and hidden files with the ending of an image; see `is_hidden`."""
    followed: list[str] = field(default_factory=list)
    """Links to folders, whose files are listed."""
    links: list[str] = field(default_factory=list)
    """Links to folders that are read under another path, or that lead back."""

    def remarks(self) -> Iterator[str]:
        """Yield one line for each kind of files that are passed over."""
        if self.hidden:
            yield f"passed over {_count(self.hidden, 'hidden or system file or folder', 'hidden or system files')}"
        if self.followed:
            yield f"read {_count(self.followed, 'linked folder', 'linked folders')}"
        if self.links:
            yield f"passed over {_count(self.links, 'link', 'links')} to a folder that is read under another path"
        if self.others:
            endings = Counter(PurePosixPath(name).suffix.lower() or "no ending" for name in self.others)
            some = ", ".join(f"{number} {printable(ending)}" for ending, number in endings.most_common(5))
            yield f"ignored {len(self.others)} files whose names are not those of images: {some}"


def _count(names: list[str], one: str, several: str) -> str:
    if len(names) == 1:
        return f"1 {one}: {printable(names[0])}"
    return f"{len(names)} {several}, such as {printable(names[0])}"


Entry = tuple[Literal["images", "others", "hidden", "followed", "links"], str]


def walk_folder(folder: Path, skip: Callable[[Path], bool] = lambda _: False) -> Iterator[Entry]:
    """Yield the kind and the relative path of every file below a folder, one folder after the other.

    Links to folders are followed after all other folders. Each folder is read once, so links cannot form a loop.

    Args:
        folder: the folder.
        skip: subfolders for which it returns True are not read.

    Raises:
        OSError: a folder cannot be read.
    """
    waiting, linked = deque([folder]), deque[Path]()
    seen = set()
    while waiting or linked:
        is_link = not waiting
        place = linked.popleft() if is_link else waiting.popleft()
        status = place.stat()
        identity = status.st_dev, status.st_ino
        if identity in seen:
            yield "links", place.relative_to(folder).as_posix()
            continue
        seen.add(identity)
        if is_link:
            yield "followed", place.relative_to(folder).as_posix()
        with os.scandir(place) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        prefix = "" if place == folder else f"{place.relative_to(folder).as_posix()}/"
        for entry in ordered:
            name = prefix + entry.name
            if is_hidden(entry.name):
                if is_folder(entry) or is_image_name(name):
                    yield "hidden", name
            elif is_folder(entry):
                if not skip(place / entry.name):
                    (linked if entry.is_symlink() else waiting).append(place / entry.name)
            else:
                yield "images" if is_image_name(name) else "others", name


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry of a folder is a folder, or a link to one that can be followed."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a place without permission
        return False


def list_folder(folder: Path, skip: Callable[[Path], bool] = lambda _: False) -> FolderListing:
    """Return the files below a folder; see `walk_folder`."""
    listing = FolderListing()
    for kind, name in walk_folder(folder, skip):
        getattr(listing, kind).append(name)
    listing.images.sort(key=lambda name: name.split("/"))
    return listing


def list_images(folder: Path, *, with_others: bool = False) -> list[str]:
    """Return the sorted names of all image files below a folder, relative to it and with forward slashes.

    Run directories below the folder are skipped. What is passed over is logged.

    Args:
        folder: searched at any depth.
        with_others: whether files that are not images by their names are logged, too.

    Raises:
        SourceError: a folder cannot be read.
    """
    try:
        listing = list_folder(folder, _is_run)
    except OSError as error:
        place = printable(str(error.filename))
        raise SourceError(f"{place} cannot be read: {error.strerror}; check its permissions") from None
    if not with_others:
        listing.others.clear()  # tables, for instance
    for remark in listing.remarks():
        log.info("%s: %s", printable(str(folder)), remark)
    return sorted(listing.images)


def _is_run(folder: Path) -> bool:
    """Return whether a folder is a run directory, whose images are results and not photos."""
    try:
        return (folder / "run.json").exists() and (folder / "stages").is_dir()
    except PermissionError:
        return False  # reading the folder raises the error that names it


# --- Names of files


def nfc(name: str) -> str:
    """Return a name with composed accents: macOS writes them as characters of their own (NFD), others do not (NFC)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def photo_path(folder: Path, file: str) -> Path:
    """Return the path of a listed photo: under its name or, as CelebA is also shipped, as PNG."""
    path = folder / file
    if not path.exists() and path.with_suffix(".png").exists():
        return path.with_suffix(".png")
    return path


def png_name(file: str) -> str:
    """Return the name of a listed photo where CelebA is shipped as PNG.

    Example:
        >>> png_name("a/000001.jpg")
        'a/000001.png'
    """
    path = PurePosixPath(file)
    return path.with_suffix(".png").as_posix() if path.name else file


def utf8_name(name: str) -> str:
    r"""Return a file name in valid UTF-8; other bytes are written as escapes.

    Example:
        >>> utf8_name("caf\udce9.jpg")
        'caf\\xe9.jpg'
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# --- Image sets

Pixels = NDArray[np.uint8]
Labels = NDArray[np.float32]

Numbers = NDArray[np.int64]
"""Numbers of images in their set, from 0."""

Column = NDArray[np.generic] | list[str]
"""Metadata of the images: an array or a list of text, of N rows."""

Record = dict[str, Any]
"""Metadata of one image as JSON types; ``attributes`` is a mapping of their names to 1 or -1."""


@dataclass(frozen=True)
class NamedImage:
    """An image and its name."""

    pixels: Pixels
    """uint8 [C, R, R]: 3 channels in the order R, G, B, or 1 channel of grey."""

    name: str
    """Name of the image's file or archive entry, with `/` between folders; unique in its set."""


class ImageSet(Protocol):
    """Images of one size in a fixed order, read one after another; memory does not depend on their number.

    An image set checks counts, sizes and names when it is made, and the pixels while it reads them. It raises a
    `FormatError` for all errors in the data.
    """

    @property
    def count(self) -> int:
        """Number of images, N."""

    @property
    def resolution(self) -> int:
        """R of the images, a power of two."""

    @property
    def channels(self) -> int:
        """C: 3 for RGB, 1 for grey."""

    @property
    def labels(self) -> Labels | None:
        """float32 [N, classes], one row per image: one-hot classes, or attributes as 0 and 1; None without labels."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """One name for each column of the labels, or empty where the format has none."""

    def images(self) -> Iterator[NamedImage]:
        """Yield the images in order; may be called again."""


class LevelImages(Protocol):
    """The images of one level, to be indexed like an array uint8 [N, C, r, r]."""

    def __getitem__(self, number: int, /) -> Pixels:
        """Return an image, uint8 [C, r, r]."""

    def read(self, indices: Sequence[int] | Numbers, *, parallel: bool = True) -> Pixels:
        """Return images uint8 [n, C, r, r] by their numbers; without threads if `parallel` is False."""


class ImagePyramid(ABC):
    """Images at all resolutions from R down to 1, with metadata: an HDF5 file, or the images of an unfinished run."""

    path: Path
    """Path of the file, or of the run directory."""
    count: int
    """Number of images, N."""
    channels: int
    """C: 3 for RGB, 1 for grey."""
    resolution: int
    """R, the resolution of the largest level."""
    resolutions: tuple[int, ...]
    """Resolutions of all levels, largest first."""
    photos: Mapping[str, Column]
    """Columns of metadata by name, see docs/hdf5.md."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, object]:
        """JSON values that change with the images."""

    @abstractmethod
    def column(self, name: str, rows: slice = slice(None)) -> Column | None:
        """Return some rows of a column with one row per image, or None if there is none of that name."""

    @abstractmethod
    def images(self, resolution: int | None = None) -> LevelImages:
        """Return the images of a level; None for the largest."""

    def check_resolution(self, resolution: int) -> None:
        """Raise a FormatError that names all levels if there is none of a resolution."""
        if resolution not in self.resolutions:
            has = ", ".join(map(str, self.resolutions))
            raise FormatError(f"{self.path} has no level {resolution}x{resolution}; it has {has}: ask for one of these")

    @abstractmethod
    def close(self) -> None:
        """Close what is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Metadata:
    """Metadata of N images.

    Example:
        >>> known = Metadata({"id": ["000001"], "attributes": np.array([[1, -1]])}, ("Bald", "Smiling"))
        >>> known.record(0)
        {'id': '000001', 'attributes': {'Bald': 1, 'Smiling': -1}}
        >>> known.attribute_labels
        array([[1., 0.]], dtype=float32)
    """

    columns: dict[str, Column] = field(default_factory=dict)
    attribute_names: tuple[str, ...] = ()
    """One for each column of ``columns["attributes"]``, if there is one."""

    @property
    def attribute_labels(self) -> Labels | None:
        """The attributes as labels, float32 [N, attributes] of 0 and 1; None without attributes."""
        column = self.columns.get("attributes")
        return None if column is None else attribute_labels(column)

    def record(self, row: int) -> Record:
        """Return the metadata of one image as JSON types; NaN becomes None."""
        record: Record = {}
        for name, column in self.columns.items():
            value = column[row]
            plain = value if isinstance(value, str) else value.tolist()
            record[name] = None if plain != plain else plain
        if self.attribute_names:
            record["attributes"] = dict(zip(self.attribute_names, record["attributes"], strict=True))
        return record


def attribute_labels(attributes: ArrayLike) -> Labels:
    """Return attributes [N, attributes] as labels: 1 where an image has one, 0 for CelebA's -1 and unknown ones.

    Example:
        >>> attribute_labels([[1, -1, 0]]).tolist()
        [[1.0, 0.0, 0.0]]
    """
    return np.asarray(np.asarray(attributes) > 0, np.float32)


@dataclass(frozen=True)
class Described:
    """Metadata and labels of N images, and their names if these come from the same place."""

    metadata: Metadata = field(default_factory=Metadata)
    labels: Labels | None = None
    label_names: tuple[str, ...] = ()
    names: Sequence[str] = ()


@dataclass(frozen=True)
class DataSet:
    """A data set that was opened for reading: an `ImageSet` of given values."""

    count: int
    resolution: int
    channels: int
    images: Callable[[], Iterator[NamedImage]]
    labels: Labels | None = None
    label_names: tuple[str, ...] = ()
    metadata: Metadata = field(default_factory=Metadata)
    pixels: Callable[[Sequence[int]], Iterator[Pixels]] | None = None
    """Yields images uint8 [C, R, R] by their numbers, in the given order; None where they cannot be drawn at random."""
    attributes: Mapping[str, object] = field(default_factory=dict)
    """Attributes of an HDF5 file."""
