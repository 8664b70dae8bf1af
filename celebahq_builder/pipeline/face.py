"""The face that passes from stage to stage, and the typed record of its photo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from celebahq_builder.errors import WorkspaceError
from celebahq_builder.imaging.geometry import Points
from celebahq_builder.outcome import Kept, PhotoKey
from celebahq_builder.run_directory.state import Table, read_table
from celebahq_builder.sources.photo import Photo

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from torch import Tensor

R = TypeVar("R")
P = TypeVar("P", bound="DataclassInstance")

RecordTypes: TypeAlias = Mapping[str, type]
"""Type of each stage's record, by name of the stage; see `stage.record_types`."""


@dataclass(frozen=True)
class Identity:
    """The data of a photo before any stage."""

    id: str
    index: int
    """Position in the source, from 0."""
    landmarks: tuple[float, ...]
    split: str
    attributes: tuple[int, ...]
    official_index: int | None = None
    """Position in the official data set, for a photo of its image list."""

    def __post_init__(self) -> None:
        if not {-1, 0, 1}.issuperset(self.attributes):
            raise ValueError(f"attributes {self.attributes} are not all 1, -1 or 0")
        if not (0 <= self.index < 2**31 and 0 <= (self.official_index or 0) < 2**31):
            raise ValueError(f"index {self.index} or official index {self.official_index} is out of range")

    @classmethod
    def of(cls, photo: Photo, index: int) -> Identity:
        """Return the identity of a photo at a position in the source."""
        official_index = photo.listed.index if photo.listed else None
        return cls(photo.id, index, photo.landmarks, photo.split, photo.attributes, official_index)


@dataclass(frozen=True)
class ImageRecord:
    """The image that a stage keeps of a photo, and what of the face is not in its pixels."""

    path: str
    """Relative to the stage's folder."""
    bytes: int
    sha256: str
    quad: tuple[tuple[float, float], ...]
    """Corners of the crop; `quad`, `border` and `margin` are those of `Face`."""
    border: int
    margin: tuple[int, int, int, int]


@dataclass(frozen=True)
class PhotoRecord:
    """The identity of a photo and the records of the stages that it passed.

    >>> @dataclass(frozen=True)
    ... class SizeRecord:
    ...     width_px: int
    >>> record = PhotoRecord("a.jpg", Identity("a", 0, (0.0,) * 10, "", ())).with_part(SizeRecord(640))
    >>> record[SizeRecord].width_px
    640
    >>> record.tables({"size": SizeRecord})["size"]
    {'width_px': 640}
    """

    file: str
    identity: Identity
    parts: Mapping[type, DataclassInstance] = field(default_factory=dict)
    """Record of each stage, by its type."""
    face: str = ""
    """The id where the source has several faces of the file, else empty."""

    @property
    def key(self) -> PhotoKey:
        """File name, and the id where the source has several faces of the file."""
        return self.file, self.face

    def __getitem__(self, kind: type[R]) -> R:
        if kind not in self.parts:
            raise WorkspaceError(
                f"{self.file}: its line in a manifest lacks the {kind.__name__}; files were changed from outside, "
                "`redo` the stage that writes it, or choose another `out`"
            )
        part = self.parts[kind]
        assert isinstance(part, kind)
        return part

    def get(self, kind: type[R]) -> R | None:
        """Return the record of this type, or None if the photo has none."""
        return self[kind] if kind in self.parts else None

    def with_part(self, part: DataclassInstance) -> PhotoRecord:
        """Return the record with one more stage's part."""
        return replace(self, parts={**self.parts, type(part): part})

    def tables(self, types: RecordTypes) -> Table:
        """Return the record as JSON values: a table for the identity and one for each stage."""
        parts = {name: self.parts[kind] for name, kind in types.items() if kind in self.parts}
        if ImageRecord in self.parts:
            parts["image"] = self.parts[ImageRecord]
        return {"identity": {**vars(self.identity)}} | {name: {**vars(part)} for name, part in parts.items()}

    @classmethod
    def from_kept(cls, kept: Kept, types: RecordTypes) -> PhotoRecord:
        """Return the record that a line of a manifest holds; the inverse of `tables`.

        Raises:
            WorkspaceError: a table has other keys or types than its dataclass, or belongs to no stage.
        """
        known, where = {**types, "image": ImageRecord}, f"manifest line of {kept.photo}"
        tables = dict(kept.record)
        identity = read_table(Identity, tables.pop("identity", None), where, "identity")
        parts: list[DataclassInstance] = [
            read_table(known.get(name), table, where, name) for name, table in tables.items()
        ]
        return cls(kept.photo, identity, {type(part): part for part in parts}, kept.face)

    def kept(self, types: RecordTypes) -> Kept:
        """Return the outcome that holds this record; the inverse of `from_kept`."""
        return Kept(self.file, self.tables(types), self.face)


def read_part(kept: Kept, name: str, kind: type[P]) -> P:
    """Return one table of a line of a manifest: ``identity``, ``image`` or that of a stage; the others are not read.

    Raises:
        WorkspaceError: the line has no such table, or the table has other keys or types than its dataclass.
    """
    return read_table(kind, kept.record.get(name), f"manifest line of {kept.photo}", name)


@dataclass(frozen=True)
class Face:
    """The part of a photo around a face, and the position of the crop in it.

    Pixels are 8-bit between stages. So a stage that reads them from disk gets the same values as in memory.
    """

    photo: Photo
    record: PhotoRecord
    pixels: Tensor
    """uint8 [3, H, W], RGB, on the worker's device."""
    quad: Points
    """Corners [4, 2] of the crop in pixel-edge coordinates of `pixels`."""
    border: int = 0
    """Pixels around the crop's bounding box that the padding uses."""
    margin: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Pixels (left, top, right, bottom) of context for the networks, which the alignment cuts off."""

    @property
    def side(self) -> float:
        """Side length of the crop in px of `pixels`."""
        return float(np.hypot(*(self.quad[3] - self.quad[0])))

    def with_record(self, part: DataclassInstance) -> Face:
        """Return the face with one more stage's record."""
        return replace(self, record=self.record.with_part(part))

    @classmethod
    def unread(cls, photo: Photo, index: int) -> Face:
        """Return the face that enters the first stage: identity only, pixels [3, 0, 0]."""
        import torch  # here, because the command line reads recipes, and so stages, without torch

        empty = torch.empty((3, 0, 0), dtype=torch.uint8)
        return cls(photo, PhotoRecord(photo.file, Identity.of(photo, index), face=photo.face), empty, np.zeros((4, 2)))

    @classmethod
    def resumed(cls, photo: Photo, pixels: Tensor, record: PhotoRecord) -> Face:
        """Return the face that a stage kept, from its image and its record."""
        image = record[ImageRecord]
        parts = {kind: part for kind, part in record.parts.items() if kind is not ImageRecord}
        quad = np.asarray(image.quad, dtype=np.float64)
        return cls(photo, replace(record, parts=parts), pixels, quad, image.border, image.margin)
