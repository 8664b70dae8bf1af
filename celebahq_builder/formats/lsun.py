"""LSUN: a category as LMDB, or as a folder of image files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.format import Format
from celebahq_builder.formats.image_file import middle_square
from celebahq_builder.formats.images import list_images
from celebahq_builder.image_set import NamedImage
from celebahq_builder.imaging.image_io import open_rgb, pil_to_array
from celebahq_builder.outcome import Rejection

RESOLUTION = 256
"""Side length in px of the ProGAN paper's results on LSUN."""

PIXELS_MAX = 100_000_000
"""Larger images are not decoded."""

REMEDY = "download LSUN's categories with https://github.com/fyu/lsun, and unzip them to bedroom_train_lmdb and such"


@dataclass(frozen=True)
class Entries:
    """Encoded images with names, in a database or a folder."""

    count: int
    read: Callable[[], Iterator[tuple[str, bytes]]]
    """Yields name and contents of each entry."""
    has: Callable[[str], bool]
    """Returns whether there is an entry of this name."""


@dataclass(frozen=True)
class Lsun:
    """An `ImageSet` of RGB images in the order of their keys or paths, decoded while they are read."""

    entries: Entries
    path: Path
    resolution: int
    count: int
    skip: frozenset[str]
    channels: int = 3
    labels: None = None
    label_names: tuple[str, ...] = ()

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images from number `start` on, named by key, or by path below the folder.

        Raises:
            FormatError: an entry cannot be decoded.
        """
        kept = (entry for entry in self.entries.read() if entry[0] not in self.skip)
        for name, data in islice(kept, start, None):
            try:
                image, _ = open_rgb(data, PIXELS_MAX, "this reader")
            except Rejection as rejection:
                fault = f"entry {name} is not an image: {rejection}"
                raise FormatError(f"{self.path}: {fault}; repair it, or leave it out with `skip`") from None
            yield NamedImage(pil_to_array(middle_square(image, self.resolution)), name)


def read(path: Path, resize: int = RESOLUTION, *, skip: Collection[str] = ()) -> Lsun:
    """Open a category of LSUN, or any folder of images, as squares of one size, uint8 [3, R, R].

    Args:
        path: folder of an LMDB (with ``data.mdb``), that file, or a folder of images at any depth.
        resize: R, a power of two.
        skip: keys, or paths below the folder, to leave out.

    Raises:
        FormatError: there is neither, the LMDB is damaged, an entry to leave out does not exist, or the package
            ``lmdb`` is not installed.
    """
    expected = f"expected an LMDB of LSUN or a folder of images; {REMEDY}"
    if not path.exists():
        raise FormatError(f"{path} does not exist; {expected}")
    is_database = path.is_file() or (path / "data.mdb").is_file()
    entries = _database_entries(path) if is_database else _folder_entries(path)
    left_out = frozenset(skip)
    unknown = next((name for name in left_out if not entries.has(name)), None)
    if unknown is not None:
        raise FormatError(f"{path} has no entry {unknown} to leave out; check the name")
    count = entries.count - len(left_out)
    if count <= 0:
        raise FormatError(f"{path} has no images; {expected}")
    return Lsun(entries, path, resize, count, left_out)


def _folder_entries(path: Path) -> Entries:
    names = list_images(path)

    def read_all() -> Iterator[tuple[str, bytes]]:
        for name in names:
            try:
                yield name, (path / name).read_bytes()
            except OSError as error:
                raise FormatError(f"{path / name} cannot be read: {error.strerror}") from None

    return Entries(len(names), read_all, frozenset(names).__contains__)


_OPEN: WeakValueDictionary[Path, Any] = WeakValueDictionary()
"""Open environments of LMDB; a process may open each only once, so its readers share them."""


def _database_entries(path: Path) -> Entries:
    """Return the entries of an LMDB in the order of their keys; memory does not depend on their number.

    It is opened for reading without its lock file, so that it can be on a read-only disk; no other process may write
    to it. A database that is cut short is refused: LMDB would end the process at the first missing page.
    """
    try:
        import lmdb
    except ImportError:
        raise FormatError("an LMDB needs a package of its own: pip install 'celebahq-builder[lsun]'") from None
    try:
        options = {"readonly": True, "create": False, "lock": False, "readahead": False}
        database = _OPEN.get(path.resolve()) or lmdb.open(str(path), subdir=path.is_dir(), **options)
        _OPEN[path.resolve()] = database
        info, stat = database.info(), database.stat()
    except lmdb.Error as error:
        raise FormatError(f"{path} is not a readable LMDB: {error}; {REMEDY}") from None
    needed = (info["last_pgno"] + 1) * stat["psize"]
    size = (path / "data.mdb" if path.is_dir() else path).stat().st_size
    if size < needed:
        raise FormatError(f"{path} is cut short: it needs {needed} bytes and has {size}; {REMEDY}")

    def read_all() -> Iterator[tuple[str, bytes]]:
        try:
            with database.begin() as transaction, transaction.cursor() as cursor:
                for key, value in cursor:
                    yield key.decode("utf-8", "backslashreplace"), value
        except lmdb.Error as error:
            raise FormatError(f"{path} is damaged: {error}; {REMEDY}") from None

    def has(name: str) -> bool:
        with database.begin() as transaction:
            return bool(name) and transaction.get(name.encode()) is not None

    return Entries(int(stat["entries"]), read_all, has)


FORMAT = Format("lsun", read, names=("data.mdb",), options=frozenset({"resize", "skip"}))
