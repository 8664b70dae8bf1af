"""LSUN: a category as the LMDB it is published as, or a folder of its pictures; cropped and resized for training.

An entry of the LMDB is a WebP or JPEG file under its id. Each picture is cut to the square in its middle and resampled
to one size by Lanczos' filter, smaller ones too, as the ProGAN authors' tool does for its LSUN presets. Source:
https://www.yf.io/p/lsun; F. Yu et al., "LSUN: Construction of a Large-scale Image Dataset", 2015.

An entry that is no picture is an error that names it: no set gets smaller unsaid. Whoever has such entries leaves them
out by name (`skip`), and `Lsun.unreadable` lists them all.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.entries import DatabaseEntries, Entries, FolderEntries
from celebahq_builder.formats.image_file import middle_square
from celebahq_builder.formats.pictures import Picture, Pixels
from celebahq_builder.imaging.codec import open_rgb, to_pixels
from celebahq_builder.outcome import Rejection

RESOLUTION = 256
"""Of the ProGAN paper's results on LSUN."""

PIXELS_MAX = 100_000_000
"""Pictures of more pixels are not decoded."""

REMEDY = (
    "LSUN's categories are downloaded with https://github.com/fyu/lsun, and unzipped to bedroom_train_lmdb and such"
)


@dataclass(frozen=True)
class Lsun:
    """Pictures of one size, in the order of their keys or paths; decoded as they are asked for."""

    entries: Entries
    path: Path
    resolution: int
    count: int
    skip: frozenset[str] = frozenset()
    channels: int = 3
    labels: None = None
    label_names: tuple[str, ...] = ()

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Yield the pictures from number `start` on, named by key, or by path below the folder.

        Raises:
            FormatError: an entry is no picture, or there are fewer than when the set was opened.
        """
        if self.skip:
            kept = (entry for entry in self.entries.read() if entry[0] not in self.skip)
            entries = itertools.islice(kept, start, self.count)
        else:
            entries = itertools.islice(self.entries.read(start), max(self.count - start, 0))
        done = min(start, self.count)
        for name, data in entries:
            yield Picture(_square(self.path, name, data, self.resolution), name)
            done += 1
        if done < self.count:
            raise FormatError(f"{self.path} had {self.count} pictures when it was opened, now {done}; begin again")

    def unreadable(self) -> Iterator[tuple[str, str]]:
        """Yield name and fault of every entry that is no picture; reads all of them."""
        for name, data in self.entries.read():
            try:
                open_rgb(data, PIXELS_MAX, "this reader")
            except Rejection as rejection:
                yield name, str(rejection)


def read(path: Path, resolution: int = RESOLUTION, *, limit: int | None = None, skip: Collection[str] = ()) -> Lsun:
    """Read a category of LSUN, or any folder of pictures, as squares of one size, uint8 [3, resolution, resolution].

    Args:
        path: the folder of an LMDB (with ``data.mdb``), such a file, or a folder of pictures, to any depth.
        resolution: of the result, a power of two.
        limit: so many from the beginning; the presets other than bedroom and dog have 100,000.
        skip: keys, or paths below the folder, to leave out.

    Raises:
        FormatError: there is neither, or the LMDB is damaged, or an entry to be left out is not there.
    """
    if resolution < 1 or resolution & (resolution - 1):
        raise FormatError(f"resolution {resolution} is not a power of two; take {RESOLUTION}, say")
    if not path.exists():
        raise FormatError(f"{path} does not exist; expected an LMDB of LSUN or a folder of pictures; {REMEDY}")
    is_database = path.is_file() or (path / "data.mdb").is_file()
    entries: Entries = DatabaseEntries(path, REMEDY) if is_database else FolderEntries(path)
    leave_out = frozenset(skip)
    for name in entries.missing(leave_out):
        raise FormatError(f"{path} has no entry {name} to leave out; check the name")
    count = entries.count - len(leave_out)
    if count <= 0:
        raise FormatError(f"{path} has no pictures; expected an LMDB of LSUN or a folder of pictures; {REMEDY}")
    return Lsun(entries, path, resolution, count if limit is None else min(count, limit), leave_out)


def _square(path: Path, name: str, data: bytes, resolution: int) -> Pixels:
    """Return the square in the middle of a picture at one size."""
    try:
        image = open_rgb(data, PIXELS_MAX, "this reader")[0]
    except Rejection as rejection:
        raise FormatError(
            f"{path}: entry {name} is no picture: {rejection}; mend it, or leave it out (--skip)"
        ) from None
    return to_pixels(middle_square(image, resolution))
