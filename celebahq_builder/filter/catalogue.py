"""The scores folder: what is scored already, and what was made of it.

SCORES/
  filter.json      the folder that was scored, how, and where its images were delivered to
  .celebahq-lock   marks the folder as one of scores; held while a process works here
  scored.jsonl     one line per image, added as it is scored; a torn one is as if it were not there
  scores.csv       all images, best first, then those without a score
  index.html       the page
  delivery.jsonl   the rest of a move that was agreed to; gone when it is done
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from celebahq_builder.errors import WorkspaceError
from celebahq_builder.filter import record, scoring
from celebahq_builder.filter.listing import Found
from celebahq_builder.filter.record import Record
from celebahq_builder.pipeline.stages import score
from celebahq_builder.storage import NAME, as_storage_error, lock, read_json, sweep, write_atomic, write_json

STALE_LINES_MAX = 1000
"""Lines that may be outdated before, if they are more than the others too, the file is written anew."""


def rules() -> dict[str, Any]:
    """Return what a score depends on apart from the image."""
    return {"side_px": scoring.SIDE_PX, "resampling": scoring.VERSION, "score": score.VERSION, "parts": [*record.PARTS]}


class Catalogue:
    """A scores folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.about_path = root / "filter.json"
        self.scored_path = root / "scored.jsonl"
        self.table_path = root / "scores.csv"
        self.page_path = root / "index.html"
        self.delivery_path = root / "delivery.jsonl"

    @contextlib.contextmanager
    def held(self, folder: Path) -> Iterator[None]:
        """Hold the scores folder for the images of `folder`; make it if need be.

        Raises:
            WorkspaceLocked: another process holds it.
            WorkspaceError: it holds something else, or cannot be used.
        """
        if self.root.is_dir() and not self.about_path.exists():
            strangers = sorted({entry.name for entry in self.root.iterdir()} - {NAME})
            strangers = [name for name in strangers if not re.fullmatch(r"filter\.json\.\d+\.partial", name)]
            if strangers:
                raise WorkspaceError(
                    f"{self.root} is there and holds no scores but {strangers[0]}; give an empty or new --scores folder"
                )
        if self.about_path.exists():
            self.about()  # raises if it is a file of something else
        with lock(self.root, "scores folder", "--scores"):
            ours = (self.about_path, self.scored_path, self.table_path, self.page_path, self.delivery_path)
            sweep(self.root, *(re.escape(path.name) for path in ours))
            self._begin(folder)
            yield

    def _begin(self, folder: Path) -> None:
        if not self.about_path.exists():
            write_json(self.about_path, {"folder": os.fspath(folder), "rules": rules(), "delivered_to": []})
            return
        about = self.about()
        if about["folder"] != os.fspath(folder):
            raise WorkspaceError(
                f"{self.root} holds the scores of {about['folder']}, this command scores {folder}; "
                "give another --scores"
            )
        if about["rules"] != rules():
            self.scored_path.unlink(missing_ok=True)  # before the rules, so that a kill leaves nothing that mixes
            write_json(self.about_path, {**about, "rules": rules()})

    def about(self) -> dict[str, Any]:
        """Return what the folder is for."""
        about = read_json(self.about_path)
        if not isinstance(about, dict) or not {"folder", "rules", "delivered_to"} <= about.keys():
            raise WorkspaceError(f"{self.about_path} was altered from outside; restore it, or give another --scores")
        return about

    def delivered_to(self) -> list[Path]:
        """Return the folders that images were delivered to, or began to be."""
        return [Path(folder) for folder in self.about()["delivered_to"]]

    def note_delivery(self, out: Path) -> None:
        """Remember a folder that images are about to be delivered to."""
        about = self.about()
        if os.fspath(out) not in about["delivered_to"]:
            write_json(self.about_path, {**about, "delivered_to": [*about["delivered_to"], os.fspath(out)]})

    def known(self, images: Iterable[Found]) -> dict[str, Record]:
        """Return the records of these images that still hold: size and time of change are the same."""
        records = self._read()
        found = {}
        for image in images:
            known = records.get(image.path)
            if known and (known.size_bytes, known.mtime_ns) == (image.size_bytes, image.mtime_ns):
                found[image.path] = known
        return found

    def _read(self) -> dict[str, Record]:
        records: dict[str, Record] = {}
        lines = 0
        if not self.scored_path.exists():
            return records
        with self.scored_path.open(encoding="ascii", errors="replace") as file:
            for line in file:
                lines += 1
                with contextlib.suppress(KeyError, TypeError, ValueError):  # torn by a kill
                    one = record.from_json(json.loads(line))
                    records[one.path] = one
        if lines - len(records) > max(len(records), STALE_LINES_MAX):
            write_atomic(self.scored_path, b"".join(map(_line, records.values())))
        return records

    @contextlib.contextmanager
    def adding(self) -> Iterator[Journal]:
        """Open the list of scores to add to it."""
        try:
            file = self.scored_path.open("ab+")
        except OSError as error:
            raise as_storage_error(error, self.scored_path) from error
        with file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.write(b"\n")  # ends the line that a kill tore
            yield Journal(file, self.scored_path)


class Journal:
    """A list of scores that is being added to."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self.file, self.path = file, path

    def add(self, records: Iterable[Record]) -> None:
        """Write down those of the records that will hold as long as the file is the same.

        Raises:
            DiskFull: no space left.
        """
        try:
            self.file.write(b"".join(_line(one) for one in records if one.mtime_ns >= 0))
            self.file.flush()
        except OSError as error:
            raise as_storage_error(error, self.path) from error


def _line(one: Record) -> bytes:
    return json.dumps(record.to_json(one), separators=(",", ":")).encode("ascii") + b"\n"
