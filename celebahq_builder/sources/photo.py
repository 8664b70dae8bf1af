"""Photos with landmarks, a source of photos, and subsets of a source."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import SourceError
from celebahq_builder.outcome import PhotoCounts, PhotoKey, Reason, Rejected
from celebahq_builder.sources.official import ImageListRow

COLUMNS = tuple(
    f"{point}_{axis}" for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
)
"""Landmark columns in CelebA's order; left and right are those of the viewer."""

LandmarkOrder = Literal["viewer", "subject", "yx"]
"""Order of the ten numbers in a landmark table.

``viewer``: the eye and the corner of the mouth on the left side of the image come before those on the right side, as in
CelebA; ``subject``: after them, where a table names the sides as the photographed person sees them; ``yx``: as
``viewer``, with y before x.
"""

SPLITS = ("train", "val", "test")

LandmarkRow = tuple[float, ...]
"""Ten numbers, x and y in the order of `COLUMNS`: px of the stored image; (0, 0) is the centre of the first pixel."""

_IN_COLUMN_ORDER: dict[LandmarkOrder, Callable[[LandmarkRow], LandmarkRow]] = {
    "viewer": itemgetter(0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    "subject": itemgetter(2, 3, 0, 1, 4, 5, 8, 9, 6, 7),
    "yx": itemgetter(1, 0, 3, 2, 5, 4, 7, 6, 9, 8),
}


def in_column_order(numbers: LandmarkRow, order: LandmarkOrder) -> LandmarkRow:
    """Return ten numbers of a landmark table in the order of `COLUMNS`.

    >>> in_column_order((1, 2, 3, 4, 5, 6, 7, 8, 9, 10), "subject")
    (3, 4, 1, 2, 5, 6, 9, 10, 7, 8)
    """
    return _IN_COLUMN_ORDER[order](numbers)


def five_points(points: Sequence[float]) -> LandmarkRow:
    """Return eyes, nose and mouth corners of 68 points, reduced as FFHQ does it; in the order of `COLUMNS`.

    An eye is the mean of its six points; 36 to 41 are those of the eye on the left side of the image. The nose is point
    30; the corners of the mouth are points 48 and 54.

    Args:
        points: 136 numbers, x and y of each point in the order of dlib and iBUG.

    >>> five_points([float(number) for number in range(136)])
    (77.0, 78.0, 89.0, 90.0, 60.0, 61.0, 96.0, 97.0, 108.0, 109.0)
    """
    eyes = [sum(points[2 * first + axis : 2 * first + 12 : 2]) / 6 for first in (36, 42) for axis in (0, 1)]
    return (*eyes, *points[60:62], *points[96:98], *points[108:110])


def eyes_to_mouth(landmarks: LandmarkRow) -> tuple[float, float]:
    """Return the vector from the midpoint of the eyes to the midpoint of the mouth, in px."""
    x, y = landmarks[0::2], landmarks[1::2]
    return (x[3] + x[4] - x[0] - x[1]) / 2, (y[3] + y[4] - y[0] - y[1]) / 2


def is_mirrored(landmarks: LandmarkRow) -> bool:
    """Return whether landmarks are those of a mirrored face, however the face is rotated.

    From the left to the right eye and on to the mouth is a turn to the right in every photo. It is one to the left if
    left and right, or x and y, are exchanged.

    >>> is_mirrored((30, 40, 70, 40, 50, 60, 35, 80, 65, 80)), is_mirrored((70, 40, 30, 40, 50, 60, 65, 80, 35, 80))
    (False, True)
    """
    x, y = eyes_to_mouth(landmarks)
    return (landmarks[2] - landmarks[0]) * y - (landmarks[3] - landmarks[1]) * x < 0


@dataclass(frozen=True)
class Photo:
    """A photo of the source, or one face of a photo that has several."""

    id: str
    """Unique name without suffix, for its files in the run directory."""
    file: str
    """File name in the landmark table, relative to the folder of photos."""
    landmarks: LandmarkRow
    split: str = ""
    """``train``, ``val``, ``test``, or empty where the source has no partition."""
    attributes: tuple[int, ...] = ()
    """1 or -1 for each of the source's attribute names (0: unknown); empty where the source has none."""
    listed: ImageListRow | None = None
    """Row of the photo in the official image list, where one was asked for."""
    shares_file: bool = False
    """True if the source has other faces of the same file."""

    @property
    def points(self) -> NDArray[np.float64]:
        """The landmarks as points [5, 2]: x and y."""
        return np.array(self.landmarks, np.float64).reshape(5, 2)

    @property
    def face(self) -> str:
        """The id where the source has several faces of the file, else empty."""
        return self.id if self.shares_file else ""

    @property
    def key(self) -> PhotoKey:
        """File name, and the id where the source has several faces of the file: unique in the source."""
        return self.file, self.face


@dataclass(frozen=True)
class PhotoSource:
    """Photos with landmarks, in a folder."""

    folder: Path
    """Folder to which the file names of the photos are relative."""
    photos: tuple[Photo, ...]
    """Photos with usable landmark rows, in the order of the table."""
    rejected: tuple[Rejected, ...]
    """Rows and files that cannot be used."""
    warnings: tuple[str, ...] = ()
    """Problems of the source as a whole."""
    attribute_names: tuple[str, ...] = ()
    is_own: bool = False
    """True for landmarks of the user's own table, False for those of CelebA."""

    @property
    def counts(self) -> PhotoCounts:
        """Numbers of photo files and of faces."""
        files = {photo.file for photo in self.photos} | {one.photo for one in self.rejected}
        return PhotoCounts(len(files), len(self.photos), len(self.rejected))

    def with_photos(self, photos: tuple[Photo, ...], rejected: tuple[Rejected, ...]) -> PhotoSource:
        """Return a source that differs in its photos; a plain one, because constructors of subclasses read folders."""
        return PhotoSource(self.folder, photos, rejected, self.warnings, self.attribute_names, self.is_own)

    def sha256(self) -> str:
        """Return a hash of everything that decides the result, apart from the bytes of the photos."""
        digest = hashlib.sha256("\x1f".join(self.attribute_names).encode())
        for photo in self.photos:
            row = (photo.id, photo.file, *map(repr, photo.landmarks), photo.split, *map(str, photo.attributes))
            official = () if photo.listed is None else map(str, dataclasses.astuple(photo.listed))
            digest.update("\x1f".join((*row, *official)).encode() + b"\n")
        return digest.hexdigest()


def subset(source: PhotoSource, *, limit: int | None = None, ids: Iterable[str] | None = None) -> PhotoSource:
    """Return a source of some of the photos.

    Args:
        source: any source.
        limit: only the first photos, as many as this; rejected photos do not count.
        ids: only the photos, rejected ones among them, with these ids or file names. The name of a file selects all of
            its faces.

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
    return source.with_photos(photos, rejected)


def listed_photos(source: PhotoSource, image_list: Sequence[ImageListRow]) -> PhotoSource:
    """Return a source of only the photos of an image list, in its order.

    A photo of the list that is not in the source is rejected as NOT_IN_TABLE.

    Raises:
        SourceError: the source has none of them, or several faces of one.
    """
    by_file = {photo.file: photo for photo in source.photos}
    shared = next((row.file for row in image_list if row.file in by_file and by_file[row.file].shares_file), None)
    if shared is not None:
        raise SourceError(
            f"the landmark table has several faces of {shared}, which the image list names; give CelebA's own table"
        )
    photos = tuple(dataclasses.replace(by_file[row.file], listed=row) for row in image_list if row.file in by_file)
    if not photos:
        raise SourceError(
            f"the image list and the landmark table have no photo in common (the first is {image_list[0].file} in the "
            f"list, {next(iter(by_file), 'none')} in the table); give CelebA's own table"
        )
    files = {row.file for row in image_list}
    rejected = [one for one in source.rejected if one.photo in files]
    known = by_file.keys() | {one.photo for one in rejected}
    for row in image_list:
        if row.file not in known:
            rejected.append(Rejected(row.file, Reason.NOT_IN_TABLE, f"idx {row.index} of the image list"))
    return source.with_photos(photos, tuple(rejected))
