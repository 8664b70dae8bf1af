"""A photo of a source, and the source: what there is to build from."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

from celebahq_builder.image_list import Listed
from celebahq_builder.outcome import Rejected

COLUMNS = tuple(
    f"{point}_{axis}" for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
)
"""Landmark columns in CelebA's order; left and right as the viewer sees them."""

SPLITS = ("train", "val", "test")

LandmarkRow = tuple[float, ...]
"""Ten numbers: x, y of `COLUMNS`, px in the stored picture, (0, 0) is the first pixel's centre."""


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
class Source:
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
        """Return a hash of all that decides the result apart from the pictures' bytes."""
        digest = hashlib.sha256("\x1f".join(self.attribute_names).encode())
        for photo in self.photos:
            row = (photo.id, photo.file, *map(repr, photo.landmarks), photo.split, *map(str, photo.attributes))
            official = () if photo.listed is None else map(str, dataclasses.astuple(photo.listed))
            digest.update("\x1f".join((*row, *official)).encode() + b"\n")
        return digest.hexdigest()
