"""Score records, and the scores folder, from which a killed command resumes.

SCORES/
  filter.json      the folder that was scored, the versions of the score, and the destinations of its images
  .celebahq-lock   marks the folder as one of scores; locked while a process works here
  scored.jsonl     one line per image, appended as it is scored; a line that a kill cut off is ignored
  scores.csv       all images, best first, then those without a score
  index.html       the page
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias, cast

from celebahq_builder.errors import WorkspaceError, printable
from celebahq_builder.limits import MAX_JSON_BYTES
from celebahq_builder.outcome import QualityScore, Reason
from celebahq_builder.storage import (
    as_storage_error,
    csv_bytes,
    delete_partial_files,
    is_lock_file,
    is_partial_of,
    lock,
    open_file,
    open_log,
    parse_json,
    path_cell,
    read_json,
    write_json,
)

Values: TypeAlias = dict[str, Any]
"""A JSON object."""

SIDE_PX = 1024
"""Side length at which every image is scored: that of CelebA-HQ, so that a build and the filter give equal scores."""

RESAMPLING_VERSION = 1
"""Version of the resampling to that side length, see `score.score_image`."""

SCORE_VERSION = 4
"""Version of the score itself: that of the stage `score`, repeated here because that stage imports torch."""

SCORE_PARTS = tuple(field.name for field in fields(QualityScore))
"""The score and its components."""

DECIMALS = 6
"""Scores are rounded to this many decimals, so scores that differ by less are equal."""

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
        return self.reason.describe if self.reason else "an error that no reason covers"

    @property
    def code(self) -> str:
        """The reason as a table cell."""
        return self.reason.value if self.reason else "failed"


ScoreRecord = ImageScore | UnscoredImage


# --- JSON ---------------------------------------------------------------------------------------------------------


def to_json(record: ScoreRecord) -> Values:
    """Return a record as plain values, which `from_json` reads back."""
    file = {"path": record.path, "bytes": record.size_bytes, "mtime_ns": record.mtime_ns}
    if isinstance(record, UnscoredImage):
        return {**file, "reason": record.code, "detail": record.detail}
    parts = dict(zip(SCORE_PARTS, record.parts, strict=True))
    return {**file, **parts, "px": [record.width_px, record.height_px], "notes": list(record.notes)}


def from_json(values: Values) -> ScoreRecord:
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


# --- The folder ---------------------------------------------------------------------------------------------------


SCORING_RULES = {
    "side_px": SIDE_PX,
    "resampling": RESAMPLING_VERSION,
    "score": SCORE_VERSION,
    "parts": [*SCORE_PARTS],
}
"""Everything that a score depends on, except the image."""


class ScoreStore:
    """A scores folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.about_path = root / "filter.json"
        self.scored_path = root / "scored.jsonl"
        self.table_path = root / "scores.csv"
        self.page_path = root / "index.html"

    @contextlib.contextmanager
    def hold(self, folder: Path) -> Iterator[None]:
        """Lock the scores folder for the images of `folder`; make it if it does not exist.

        Raises:
            WorkspaceLocked: another process holds it.
            WorkspaceError: it holds something else, or cannot be used.
        """
        if self.about_path.exists():
            self.about()  # raises for a file of something else
        elif self.root.is_dir():
            names = [entry.name for entry in self.root.iterdir() if not is_lock_file(entry.name)]
            others = sorted(name for name in names if not is_partial_of(name, self.about_path.name))
            if others:
                raise WorkspaceError(
                    f"{self.root} exists and holds no scores, but {printable(others[0])}; "
                    "choose an empty or new folder as `scores`"
                )
        with lock(self.root, "scores folder", "scores"):
            delete_partial_files(self.root)
            if not self.about_path.exists():
                write_json(self.about_path, {"folder": os.fspath(folder), "rules": SCORING_RULES, "delivered_to": []})
            about = self.about()
            if about["folder"] != os.fspath(folder):
                raise WorkspaceError(
                    f"{self.root} holds the scores of {about['folder']}, this command scores {folder}; "
                    "choose another `scores`"
                )
            if about["rules"] != SCORING_RULES:
                self.scored_path.unlink(missing_ok=True)  # first, so that a kill between the two lines mixes no scores
                write_json(self.about_path, {**about, "rules": SCORING_RULES})
            yield

    def about(self) -> Values:
        """Return the contents of ``filter.json``."""
        about = read_json(self.about_path)
        folders = about.get("delivered_to") if isinstance(about, dict) and {"folder", "rules"} <= about.keys() else None
        if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in (about["folder"], *folders)):
            raise WorkspaceError(f"{self.about_path} was changed from outside; restore it, or choose another `scores`")
        return cast(Values, about)

    def destinations(self) -> list[Path]:
        """Return the folders that images were delivered to, also by a command that was killed."""
        return [Path(folder) for folder in self.about()["delivered_to"]]

    def add_destination(self, out: Path) -> None:
        """Record a folder that images are about to be delivered to."""
        about = self.about()
        if os.fspath(out) not in about["delivered_to"]:
            write_json(self.about_path, {**about, "delivered_to": [*about["delivered_to"], os.fspath(out)]})

    def valid_records(self, images: Mapping[str, tuple[int, int]]) -> dict[str, ScoreRecord]:
        """Return the records of these images, by path, whose size in bytes and modification time in ns are the same."""
        stored: dict[str, ScoreRecord] = {}
        try:
            if self.scored_path.is_symlink():  # this command would write to a file that is not its own
                raise OSError(errno.ELOOP, "a link")
            with open_file(self.scored_path) as file:
                while (line := file.readline(MAX_JSON_BYTES)) and len(line) < MAX_JSON_BYTES:
                    with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):  # cut off by a kill
                        record = from_json(cast(Values, parse_json(line)))
                        stored[record.path] = record
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise WorkspaceError(
                f"{self.scored_path} cannot be read: {error.strerror}; move it, or choose another `scores`"
            ) from None
        return {
            path: stored[path]
            for path, found in images.items()
            if path in stored and found == (stored[path].size_bytes, stored[path].mtime_ns)
        }

    @contextlib.contextmanager
    def append(self) -> Iterator[Callable[[Iterable[ScoreRecord]], None]]:
        """Open the list of scores; yield a function that appends the records that hold as long as their files do.

        Raises:
            DiskFull: no space left.
            WorkspaceError: the disk failed.
        """
        try:
            with open_log(self.scored_path) as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read() != b"\n":
                        file.write(b"\n")  # ends a line that a kill cut off

                def add(done: Iterable[ScoreRecord]) -> None:
                    file.write(b"".join(_line(record) for record in done if record.mtime_ns >= 0))
                    file.flush()

                yield add
        except OSError as error:
            raise as_storage_error(error, self.scored_path) from error


def _line(record: ScoreRecord) -> bytes:
    return json.dumps(to_json(record), separators=(",", ":")).encode("ascii") + b"\n"
