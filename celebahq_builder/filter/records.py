"""Score records: the score of an image file, or the reason why it has none, as JSON and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celebahq_builder.outcome import Reason
from celebahq_builder.storage import csv_bytes, path_cell

SIDE_PX = 1024
"""Side length at which every image is scored: that of CelebA-HQ, so that a build and the filter give equal scores."""

RESAMPLING_VERSION = 1
"""Version of the resampling to that side length, see `score.score_image`."""

SCORE_VERSION = 4
"""Version of the score itself: that of the stage `score`, repeated here because that stage imports torch."""

SCORE_PARTS = ("score", "breadth", "symmetry", "purity", "blockfree")
"""Fields of `imaging.quality_score.QualityScore`, repeated here because that module imports torch."""

DECIMALS = 6
"""Scores are rounded to this many decimals, so scores that differ by less are equal."""

UNKNOWN_ERROR = "an error that no reason covers"

LIST_COLUMNS = ("rank", "path", *SCORE_PARTS, "width_px", "height_px")
"""Columns of the list of kept images."""

TABLE_COLUMNS = (*LIST_COLUMNS, "kept", "notes", "reason", "detail")
"""Columns of the table of all images."""


@dataclass(frozen=True, slots=True)
class ImageScore:
    """An image file that has a score."""

    path: str
    """Relative to the folder, with forward slashes; bytes that are not UTF-8 are surrogates, as in `os.fsdecode`."""
    size_bytes: int
    mtime_ns: int
    parts: tuple[float, ...]
    """The values of `SCORE_PARTS`, rounded to `DECIMALS`."""
    width_px: int
    height_px: int
    notes: tuple[str, ...] = ()
    """Conversions that the decoder made, see `imaging.image_io.open_rgb`."""

    @property
    def score(self) -> float:
        """The score, in [0, 1]."""
        return self.parts[0]


@dataclass(frozen=True, slots=True)
class UnscoredImage:
    """An image file, or a folder, that has no score."""

    path: str
    reason: Reason | None
    """None for an error that no reason covers."""
    detail: str
    """The finding, in one line."""
    size_bytes: int = -1
    mtime_ns: int = -1
    """Size and time of the file if its bytes are the reason, so that the record holds until they change; else -1."""

    @property
    def description(self) -> str:
        """The reason in words."""
        return self.reason.describe if self.reason else UNKNOWN_ERROR

    @property
    def code(self) -> str:
        """The reason as a table cell."""
        return self.reason.value if self.reason else "failed"


ScoreRecord = ImageScore | UnscoredImage


# --- JSON ---------------------------------------------------------------------------------------------------------


def to_json(record: ScoreRecord) -> dict[str, Any]:
    """Return a record as plain values, which `from_json` reads back."""
    file = {"path": record.path, "bytes": record.size_bytes, "mtime_ns": record.mtime_ns}
    if isinstance(record, UnscoredImage):
        return {**file, "reason": record.code, "detail": record.detail}
    parts = dict(zip(SCORE_PARTS, record.parts, strict=True))
    return {**file, **parts, "px": [record.width_px, record.height_px], "notes": list(record.notes)}


def from_json(values: dict[str, Any]) -> ScoreRecord:
    """Return the record that `to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: the values are not such a record.
    """
    file = (str(values["path"]), int(values["bytes"]), int(values["mtime_ns"]))
    if "reason" in values:
        reason = None if values["reason"] == "failed" else Reason(values["reason"])
        return UnscoredImage(file[0], reason, str(values["detail"]), *file[1:])
    width, height = map(int, values["px"])
    parts = tuple(float(values[name]) for name in SCORE_PARTS)
    return ImageScore(*file, parts, width, height, tuple(map(str, values["notes"])))


# --- CSV ----------------------------------------------------------------------------------------------------------


def kept_csv(kept: Sequence[ImageScore]) -> bytes:
    """Return the list of kept images, best first, as CSV in UTF-8."""
    return csv_bytes([LIST_COLUMNS, *(_cells(rank, image) for rank, image in enumerate(kept, start=1))])


def table_csv(ranked: Sequence[ImageScore], kept: int, unscored: Sequence[UnscoredImage]) -> bytes:
    """Return the table of all images as CSV in UTF-8.

    Args:
        ranked: images with a score, best first; the first rows.
        kept: number of them that are kept.
        unscored: images without a score; the last rows.
    """
    rows: list[Sequence[object]] = [TABLE_COLUMNS]
    for rank, image in enumerate(ranked, start=1):
        rows.append([*_cells(rank, image), "yes" if rank <= kept else "no", " ".join(image.notes), "", ""])
    empty = [""] * (len(LIST_COLUMNS) - 2)
    rows += [["", path_cell(image.path), *empty, "no", "", image.code, image.detail] for image in unscored]
    return csv_bytes(rows)


def is_kept_csv(head: bytes) -> bool:
    """Return whether a file that starts with these bytes may be a list of kept images."""
    return head.startswith(csv_bytes([LIST_COLUMNS]))


def _cells(rank: int, image: ImageScore) -> list[object]:
    parts = [f"{value:.{DECIMALS}f}" for value in image.parts]
    return [rank, path_cell(image.path), *parts, image.width_px, image.height_px]
