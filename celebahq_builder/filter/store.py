"""The scores folder, from which a killed command resumes.

SCORES/
  filter.json      the folder that was scored, the versions of the score, and the destinations of its images
  .celebahq-lock   marks the folder as one of scores; locked while a process works here
  scored.jsonl     one line per image, appended as it is scored; a line that a kill cut off is ignored
  scores.csv       all images, best first, then those without a score
  index.html       the page
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from celebahq_builder.errors import WorkspaceError, printable
from celebahq_builder.filter import records
from celebahq_builder.filter.listing import ImageFile
from celebahq_builder.filter.records import ScoreRecord
from celebahq_builder.storage import (
    LOCK_NAME,
    as_storage_error,
    delete_partial_files,
    is_partial_of,
    lock,
    read_json,
    write_json,
)


def scoring_rules() -> dict[str, Any]:
    """Return everything that a score depends on, except the image."""
    return {
        "side_px": records.SIDE_PX,
        "resampling": records.RESAMPLING_VERSION,
        "score": records.SCORE_VERSION,
        "parts": [*records.SCORE_PARTS],
    }


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
        if self.root.is_dir() and not self.about_path.exists():
            names = {entry.name for entry in self.root.iterdir()} - {LOCK_NAME}
            others = sorted(name for name in names if not is_partial_of(name, self.about_path.name))
            if others:
                raise WorkspaceError(
                    f"{self.root} exists and holds no scores, but {printable(others[0])}; "
                    "choose an empty or new folder as `scores`"
                )
        if self.about_path.exists():
            self.about()  # raises for a file of something else
        with lock(self.root, "scores folder", "scores"):
            delete_partial_files(self.root)
            self._check_about(folder)
            yield

    def _check_about(self, folder: Path) -> None:
        if not self.about_path.exists():
            write_json(self.about_path, {"folder": os.fspath(folder), "rules": scoring_rules(), "delivered_to": []})
            return
        about = self.about()
        if about["folder"] != os.fspath(folder):
            raise WorkspaceError(
                f"{self.root} holds the scores of {about['folder']}, this command scores {folder}; "
                "choose another `scores`"
            )
        if about["rules"] != scoring_rules():
            self.scored_path.unlink(missing_ok=True)  # first, so that a kill between the two lines mixes no scores
            write_json(self.about_path, {**about, "rules": scoring_rules()})

    def about(self) -> dict[str, Any]:
        """Return the contents of ``filter.json``."""
        about = read_json(self.about_path)
        if not isinstance(about, dict) or not {"folder", "rules", "delivered_to"} <= about.keys():
            raise WorkspaceError(f"{self.about_path} was changed from outside; restore it, or choose another `scores`")
        return about

    def destinations(self) -> list[Path]:
        """Return the folders that images were delivered to, also by a command that was killed."""
        return [Path(folder) for folder in self.about()["delivered_to"]]

    def add_destination(self, out: Path) -> None:
        """Record a folder that images are about to be delivered to."""
        about = self.about()
        if os.fspath(out) not in about["delivered_to"]:
            write_json(self.about_path, {**about, "delivered_to": [*about["delivered_to"], os.fspath(out)]})

    def valid_records(self, images: Iterable[ImageFile]) -> dict[str, ScoreRecord]:
        """Return the records of these images, by path, whose size and modification time are unchanged."""
        stored = self._read()
        valid = {}
        for image in images:
            record = stored.get(image.path)
            if record and (record.size_bytes, record.mtime_ns) == (image.size_bytes, image.mtime_ns):
                valid[image.path] = record
        return valid

    def _read(self) -> dict[str, ScoreRecord]:
        stored: dict[str, ScoreRecord] = {}
        if not self.scored_path.exists():
            return stored
        with self.scored_path.open(encoding="ascii", errors="replace") as file:
            for line in file:
                with contextlib.suppress(KeyError, TypeError, ValueError):  # cut off by a kill
                    record = records.from_json(json.loads(line))
                    stored[record.path] = record
        return stored

    @contextlib.contextmanager
    def append(self) -> Iterator[Callable[[Iterable[ScoreRecord]], None]]:
        """Open the list of scores; yield a function that appends the records that hold as long as their files do.

        Raises:
            DiskFull: no space left.
            WorkspaceError: the disk failed.
        """
        try:
            with self.scored_path.open("ab+") as file:
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
    return json.dumps(records.to_json(record), separators=(",", ":")).encode("ascii") + b"\n"
