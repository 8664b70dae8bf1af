"""Photos with landmarks, a source of photos, and subsets of a source."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from celebahq_builder.errors import SourceError
from celebahq_builder.outcome import Reason, Rejected
from celebahq_builder.sources.official import Listed

COLUMNS = tuple(
    f"{point}_{axis}" for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
)
"""Landmark columns in CelebA's order; left and right as the viewer sees them."""

SPLITS = ("train", "val", "test")

LandmarkRow = tuple[float, ...]
"""Ten numbers: x, y of `COLUMNS`, px in the stored image, (0, 0) is the first pixel's centre."""


@dataclass(frozen=True)
class Photo:
    """One photo of the source."""

    id: str
    """Unique name without suffix, used for its files in the run directory."""
    file: str
    """File name in the landmark table, relative to the folder of photos."""
    landmarks: LandmarkRow
    split: str = ""
    """``train``, ``val``, ``test``, or empty where the source has no partition."""
    attributes: tuple[int, ...] = ()
    """1 or -1 for each of the source's attribute names; empty where it has none."""
    listed: Listed | None = None
    """Its row of the official image list, where one was asked for."""


@dataclass(frozen=True)
class PhotoSource:
    """What there is to build from."""

    folder: Path
    """Folder that the photos' file names are relative to."""
    photos: tuple[Photo, ...]
    """Photos with usable landmark rows, in the order of the table."""
    rejected: tuple[Rejected, ...]
    """Rows and files that cannot be used."""
    warnings: tuple[str, ...] = ()
    """Oddities that concern no single photo."""
    attribute_names: tuple[str, ...] = ()

    def sha256(self) -> str:
        """Return a hash of all that decides the result apart from the images' bytes."""
        digest = hashlib.sha256("\x1f".join(self.attribute_names).encode())
        for photo in self.photos:
            row = (photo.id, photo.file, *map(repr, photo.landmarks), photo.split, *map(str, photo.attributes))
            official = () if photo.listed is None else map(str, dataclasses.astuple(photo.listed))
            digest.update("\x1f".join((*row, *official)).encode() + b"\n")
        return digest.hexdigest()


def subset(source: PhotoSource, *, limit: int | None = None, ids: Iterable[str] | None = None) -> PhotoSource:
    """Return a source of only some photos: those named in `ids` (id or file name), at most `limit` of them.

    With `ids`, what was rejected already stays only where `ids` names it; `limit` counts usable photos alone.

    Raises:
        SourceError: a name in `ids` is neither a photo of the source nor one of its rejects.
    """
    photos, rejected = source.photos, source.rejected
    if ids is not None:
        wanted = set(ids)
        known = {p.id for p in photos} | {p.file for p in photos}
        known |= {r.photo for r in rejected} | {PurePosixPath(r.photo).stem for r in rejected}
        unknown = sorted(wanted - known)
        if unknown:
            raise SourceError(
                f"{len(unknown)} of {len(wanted)} names in `ids` are not in the source, first: {unknown[0]}"
            )
        photos = tuple(p for p in photos if p.id in wanted or p.file in wanted)
        rejected = tuple(r for r in rejected if r.photo in wanted or PurePosixPath(r.photo).stem in wanted)
    if limit is not None:
        photos = photos[:limit]
    return PhotoSource(source.folder, photos, rejected, source.warnings, source.attribute_names)


def official(source: PhotoSource, image_list: Sequence[Listed]) -> PhotoSource:
    """Return a source of only the photos of an image list, in its order; all others are left out without a word.

    A photo of the list that the source knows nothing of is rejected as NOT_IN_TABLE.

    Raises:
        SourceError: the source has none of them.
    """
    by_file = {photo.file: photo for photo in source.photos}
    photos = tuple(dataclasses.replace(by_file[row.file], listed=row) for row in image_list if row.file in by_file)
    if not photos:
        raise SourceError(
            f"none of the {len(image_list)} photos of the image list is in the landmark table: the list has "
            f"{image_list[0].file}, ..., the table {next(iter(by_file), 'nothing')}, ...; give CelebA's own"
        )
    files = {row.file for row in image_list}
    rejected = [one for one in source.rejected if one.photo in files]
    known = by_file.keys() | {one.photo for one in rejected}
    for row in image_list:
        if row.file not in known:
            rejected.append(Rejected(row.file, Reason.NOT_IN_TABLE, f"idx {row.index} of the image list"))
    return dataclasses.replace(source, photos=photos, rejected=tuple(rejected))
