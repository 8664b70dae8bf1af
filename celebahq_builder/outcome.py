"""Outcomes of a photo: its quality score; kept, rejected for a reason, or failed with an error; counts in words."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self, TypeVar

from celebahq_builder.errors import CelebAHQError

Name = TypeVar("Name", bound=str | tuple[str, str])


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "photo"), counted(12, "photo")
    ('1 photo', '12 photos')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def most_frequent_first(counts: Mapping[Name, int]) -> list[tuple[Name, int]]:
    """Return names and their counts, the largest count first; names of equal counts are sorted.

    >>> most_frequent_first({"b": 1, "c": 2, "a": 1})
    [('c', 2), ('a', 1), ('b', 1)]
    """
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


@dataclass(frozen=True)
class PhotoCounts:
    """Numbers of the photos of a source and of the faces in them; as text, of the photos only if each has one face.

    >>> str(PhotoCounts(15, 14, 1)), str(PhotoCounts(12, 17, 1))
    ('15 photos', '12 photos, 17 faces, 1 without a usable face')
    """

    photos: int
    """Photo files."""
    faces: int
    """Faces with landmarks, each of which enters the first stage."""
    unusable: int
    """Photos and rows of the landmark table without a usable face; all of them are rejected."""

    @property
    def items(self) -> int:
        """Number of all that is kept, rejected or failed."""
        return self.faces + self.unusable

    @property
    def unit(self) -> str:
        """Noun for what is kept, rejected or failed: ``photo`` or, where photos have several faces, ``face``."""
        return "photo" if self.items == self.photos else "face"

    def __str__(self) -> str:
        parts = [counted(self.photos, "photo")]
        if self.unit == "face":
            parts.append(counted(self.faces, "face"))
            parts += [f"{self.unusable} without a usable face"] if self.unusable else []
        return ", ".join(parts)


@dataclass(frozen=True)
class QualityScore:
    """The score of an image and its components, see `imaging.quality_score`; all in [0, 1]; higher is better."""

    score: float
    """breadth * sqrt(symmetry) * (1 - 0.175 (1 - purity)) * (1 - 0.08 (1 - blockfree))."""
    breadth: float
    """Amount of detail over the upper four octaves."""
    symmetry: float
    """Uniformity of the energy over each ring of frequencies: 1 if it is as random as that of noise."""
    purity: float
    """Depth to which the tail of the spectrum falls; noise, quantization and hard steps raise the tail."""
    blockfree: float
    """1 if edges lie anywhere, 0 if they favour the lines of a grid, such as those of JPEG's blocks."""


class Reason(enum.StrEnum):
    """The reason for which a photo is rejected: its name, and `describe`, a phrase for reports.

    >>> str(Reason.EMPTY_FILE), Reason.EMPTY_FILE.describe
    ('EMPTY_FILE', 'the file has 0 bytes')
    """

    describe: str

    def __new__(cls, name: str, describe: str = "") -> Self:
        """Make a member; `Reason(name)` looks one up."""
        reason = str.__new__(cls, name)
        reason._value_, reason.describe = name, describe
        return reason

    BAD_ROW = "BAD_ROW", "the row of the landmark table is not a file name and ten numbers"
    DUPLICATE_ROW = "DUPLICATE_ROW", "the landmark table lists the file more than once"
    NOT_LISTED = "NOT_LISTED", "the file is in the folder but not in the landmark table"
    NO_FACE = "NO_FACE", "no face was found"
    FACE_TOO_SMALL = "FACE_TOO_SMALL", "the face is too small"
    DOUBTFUL_LANDMARKS = "DOUBTFUL_LANDMARKS", "the detector finds the face elsewhere than the landmark table"
    FILE_MISSING = "FILE_MISSING", "the landmark table lists the file but the folder does not have it"
    UNREADABLE = "UNREADABLE", "the file or folder cannot be read"
    SAME_FILE = "SAME_FILE", "a second name of a file that was read already"
    EMPTY_FILE = "EMPTY_FILE", "the file has 0 bytes"
    NOT_AN_IMAGE = "NOT_AN_IMAGE", "the file is not an image of a known format"
    CORRUPT_IMAGE = "CORRUPT_IMAGE", "the image is truncated or damaged"
    TOO_LARGE = "TOO_LARGE", "the photo has more pixels than are safe to decode"
    DEGENERATE_LANDMARKS = "DEGENERATE_LANDMARKS", "the landmarks coincide, so the crop is undefined"
    MIRRORED_LANDMARKS = (
        "MIRRORED_LANDMARKS",
        "the landmarks are those of a mirrored face: left and right, or x and y, are exchanged",
    )
    LANDMARKS_OUTSIDE = "LANDMARKS_OUTSIDE", "landmarks lie outside the photo"
    CROP_TOO_SMALL = "CROP_TOO_SMALL", "the crop has too few pixels in the photo"
    CROP_OUTSIDE = "CROP_OUTSIDE", "too little of the crop lies inside the photo"
    NOT_IN_TABLE = "NOT_IN_TABLE", "the image list names the file but the landmark table has no row for it"
    PROC_MD5_DIFFERS = "PROC_MD5_DIFFERS", "the aligned image does not have the MD5 that the delta needs"
    DELTA_MISSING = "DELTA_MISSING", "the delta is not in the folder of deltas"
    DELTA_UNREADABLE = "DELTA_UNREADABLE", "the delta cannot be decrypted or unpacked"
    FINAL_MD5_DIFFERS = "FINAL_MD5_DIFFERS", "photo and delta do not give the official image"
    LOW_SCORE = "LOW_SCORE", "the quality score is below those of the photos kept"


class Rejection(CelebAHQError):
    """Raised by a stage to reject a photo."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


PhotoKey = tuple[str, str]
"""Unique name of a photo in its source: file name, and the id of the face where the file has several, else empty."""


class _OfPhoto:
    photo: str
    face: str

    @property
    def key(self) -> PhotoKey:
        """File name, and the id of the face where the file has several."""
        return self.photo, self.face

    def without_record(self) -> Self:
        """Return the outcome without its record, which takes kilobytes."""
        return self


@dataclass(frozen=True)
class Kept(_OfPhoto):
    """A photo that passed a stage, with its record."""

    photo: str
    """File name, relative to the source folder."""
    record: dict[str, object] = field(default_factory=dict)
    """JSON values."""
    face: str = ""
    """Id of the face where the source has several faces of the file, else empty."""

    def without_record(self) -> Self:
        """Return the outcome without its record, which takes kilobytes."""
        return replace(self, record={})


@dataclass(frozen=True)
class Rejected(_OfPhoto):
    """A photo that a stage rejected."""

    photo: str
    reason: Reason
    detail: str
    """The finding, with numbers, in one line."""
    face: str = ""
    """See `Kept`."""


@dataclass(frozen=True)
class Failed(_OfPhoto):
    """A photo for which a stage ended with an unexpected error."""

    photo: str
    error: str
    face: str = ""
    """See `Kept`."""


Outcome = Kept | Rejected | Failed


def to_json(outcome: Outcome) -> dict[str, object]:
    """Return an outcome as JSON values, for `from_json`."""
    photo: dict[str, object] = {"photo": outcome.photo}
    if outcome.face:
        photo["face"] = outcome.face
    match outcome:
        case Kept(_, record):
            return {**photo, "outcome": "kept", **record}
        case Rejected(_, reason, detail):
            return {**photo, "outcome": "rejected", "reason": reason.value, "detail": detail}
        case Failed(_, error):
            return {**photo, "outcome": "failed", "error": error}


def from_json(values: object) -> Outcome:
    """Return the outcome of which `to_json` made the values.

    Raises:
        ValueError: they are not those of an outcome.
    """
    face = values.get("face", "") if isinstance(values, dict) else ""
    if isinstance(face, str):
        match values:
            case {"photo": str(photo), "outcome": "kept", **record}:
                return Kept(photo, {str(key): value for key, value in record.items() if key != "face"}, face)
            case {"photo": str(photo), "outcome": "rejected", "reason": str(reason), "detail": str(detail)}:
                return Rejected(photo, Reason(reason), detail, face)
            case {"photo": str(photo), "outcome": "failed", "error": str(error)}:
                return Failed(photo, error, face)
    raise ValueError(f"{str(values)[:80]!r} is not an outcome")
