"""What is known of an image: its score, or why it has none."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from celebahq_builder.imaging.quality_score import QualityScore
from celebahq_builder.outcome import Reason

PARTS = tuple(field.name for field in dataclasses.fields(QualityScore))
"""Names of the score and its components, the score first."""

DECIMALS = 6
"""Scores are rounded to so many; what differs by less is equal."""

ERROR = "an error that no reason covers"


@dataclass(frozen=True, slots=True)
class Scored:
    """An image that has a score."""

    path: str
    """Relative to the folder, with forward slashes; what is no UTF-8 as Python's file names have it."""
    size_bytes: int
    mtime_ns: int
    parts: tuple[float, ...]
    """The numbers of `PARTS`, rounded to `DECIMALS`."""
    width_px: int
    height_px: int
    notes: tuple[str, ...] = ()
    """What the decoder converted: see `imaging.codec.open_rgb`."""

    @property
    def score(self) -> float:
        """The score itself."""
        return self.parts[0]


@dataclass(frozen=True, slots=True)
class Unscored:
    """An image, or a folder, that has none."""

    path: str
    reason: Reason | None
    """None for an error that no reason covers."""
    detail: str
    """What was found, in one line."""
    size_bytes: int = -1
    mtime_ns: int = -1
    """Where the file's bytes are to blame, and so will be as long as they are the same; else -1."""

    @property
    def words(self) -> str:
        """The reason in words."""
        return self.reason.describe if self.reason else ERROR

    @property
    def code(self) -> str:
        """The reason as tables have it."""
        return self.reason.value if self.reason else "failed"


Record = Scored | Unscored


def printable(path: str) -> str:
    """Return a path as UTF-8 can hold it, with other bytes as escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def to_json(record: Record) -> dict[str, Any]:
    """Return a record as plain values; `from_json` reads them back."""
    file = {"path": record.path, "bytes": record.size_bytes, "mtime_ns": record.mtime_ns}
    if isinstance(record, Unscored):
        return {**file, "reason": record.code, "detail": record.detail}
    parts = dict(zip(PARTS, record.parts, strict=True))
    return {**file, **parts, "px": [record.width_px, record.height_px], "notes": list(record.notes)}


def from_json(values: dict[str, Any]) -> Record:
    """Return the record that `to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: it did not.
    """
    file = (str(values["path"]), int(values["bytes"]), int(values["mtime_ns"]))
    if "reason" in values:
        reason = None if values["reason"] == "failed" else Reason(values["reason"])
        return Unscored(file[0], reason, str(values["detail"]), *file[1:])
    width, height = map(int, values["px"])
    parts = tuple(float(values[name]) for name in PARTS)
    return Scored(*file, parts, width, height, tuple(map(str, values["notes"])))
