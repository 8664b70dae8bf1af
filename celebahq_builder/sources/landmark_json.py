"""Landmarks in JSON: FFHQ's metadata, and faces with five points as InsightFace and RetinaFace give them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from celebahq_builder.errors import SourceError, printable
from celebahq_builder.limits import MAX_JSON_ENTRY_CHARACTERS, MAX_LANDMARK_JSON_BYTES, MAX_TABLE_ROWS
from celebahq_builder.outcome import Reason, Rejected
from celebahq_builder.sources.landmark_table import (
    EXPECTED,
    FILE_CHARACTERS_MAX,
    POINTS,
    TableRow,
    normalize,
    reduced_cells,
)
from celebahq_builder.sources.photo import in_column_order, is_mirrored
from celebahq_builder.storage import open_file

POINT_KEYS = ("kps", "face_landmarks", "landmarks", "keypoints")
"""Keys of the points of a face, the first that is there: those of InsightFace, FFHQ, RetinaFace, MTCNN."""

POINT_NAMES = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
"""Names of the points of a face by RetinaFace and MTCNN, in the order of `photo.COLUMNS` if they are the viewer's."""

FFHQ_FOLDER = "in-the-wild-images"

FFHQ_SPLITS = {"training": "train", "validation": "val"}

WHITESPACE = re.compile(r"[ \t\r\n]*")

AFTER_NUMBER = frozenset(" \t\r\n,]}")
"""Characters that can follow a number."""

BLOCK_CHARACTERS = 1 << 16


def starts_as_json(table: Path) -> bool:
    """Return whether the first character of a file begins an object or a list.

    Raises:
        SourceError: the file cannot be read.
    """
    try:
        with open_file(table) as stream:
            return stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")
    except OSError as error:
        raise SourceError(f"table {table} cannot be read: {error.strerror}") from None


def read_json_table(table: Path, folder: Path) -> tuple[list[TableRow], list[Rejected]]:
    """Read landmarks from JSON, entry by entry.

    The forms are ffhq-dataset-v2.json, whose points in the wild are read; ``{file: faces}``; and a list of
    ``{"file": ..., "kps": ...}`` or ``{"file": ..., "faces": faces}``. Faces are a list, or an object such as
    RetinaFace's ``{"face_1": {...}}``. A face has ``kps``, ``landmarks`` or ``keypoints``: five points [x, y] in the
    order of CelebA, 68 in the order of dlib, or five by name (``left_eye``, ``mouth_right``, ...).

    Names of sides are the viewer's in some programs and the photographed person's in others. Those of a table are taken
    as the person's if the faces were mirrored otherwise, by the majority of the table; see `photo.is_mirrored`.

    Args:
        folder: of the photos; FFHQ's may be the whole data set or its folder in-the-wild-images.

    Returns:
        A row for each face, and rejections of the files without a face.

    Raises:
        SourceError: the file cannot be read, is too large, is not JSON, or has no entry of a known form.
    """
    rows: list[TableRow] = []
    named: list[int] = []
    rejected: list[Rejected] = []
    drop_folder = not (folder / FFHQ_FOLDER).is_dir()
    count = 0
    try:
        with open_file(table, MAX_LANDMARK_JSON_BYTES) as stream:
            for count, (key, value) in enumerate(_entries(stream), start=1):
                place = f"entry {count}"
                try:
                    file, faces, split = _faces_of_entry(key, value)
                except ValueError as error:
                    rows.append(TableRow(count, "", [], place=place, problem=str(error)))
                    continue
                if drop_folder:
                    file = file.removeprefix(f"{FFHQ_FOLDER}/")
                if not faces:
                    shown = printable(file)[:FILE_CHARACTERS_MAX]
                    rejected.append(Rejected(shown, Reason.NOT_LISTED, f"{table.name}: {place} lists no face"))
                for face in faces:
                    try:
                        cells, has_names = _points(face)
                    except ValueError as error:
                        rows.append(TableRow(count, file, [], split=split, place=place, problem=str(error)))
                        continue
                    if has_names:
                        named.append(len(rows))
                    rows.append(TableRow(count, file, cells, split=split, place=place))
                if len(rows) + len(rejected) > MAX_TABLE_ROWS:
                    raise SourceError(
                        f"table {table} has more than {MAX_TABLE_ROWS} faces, which are not read: divide it"
                    )
    except OSError as error:
        raise SourceError(f"landmark table {table} cannot be read: {error.strerror}") from None
    except ValueError as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise SourceError(f"landmark table {table} cannot be read as JSON: {reason}; expected {EXPECTED}") from None
    if not rejected and all(row.problem for row in rows):
        first = f"{rows[0].place}: {rows[0].problem}" if rows else "it is empty"
        raise SourceError(f"landmark table {table}: no entry can be used, {first}; expected {EXPECTED}")
    if not rows and rejected:
        raise SourceError(f"landmark table {table}: none of its {count} entries lists a face; expected {EXPECTED}")
    _name_sides_by_viewer(rows, named)
    return rows, rejected


def _faces_of_entry(key: str | None, value: object) -> tuple[str, list[object], str]:
    """Return file, faces and split of an entry; raises a ValueError for one of no known form."""
    faces: list[object]
    split = ""
    if isinstance(value, dict) and isinstance(wild := value.get("in_the_wild"), dict):
        file, faces, split = wild.get("file_path"), [wild], FFHQ_SPLITS.get(str(value.get("category")), "")
    elif key is not None:
        file, faces = key, _faces(value)
    elif isinstance(value, dict):
        file, faces = value.get("file"), _faces(value.get("faces", value))
    else:
        raise ValueError(f"expected an object with file and kps, got {_kind(value)}")
    if not isinstance(file, str):
        raise ValueError(f"expected the name of a file, got {_kind(file)}")
    try:
        file.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the file name {printable(file)[:80]} is not valid Unicode") from None
    return normalize(file), faces, split


def _faces(value: object) -> list[object]:
    if isinstance(value, dict):
        return [value] if any(key in value for key in POINT_KEYS) else list(value.values())
    if isinstance(value, list):
        first = value[0] if value else None
        is_face = isinstance(first, list) and len(first) == 2 and not isinstance(first[0], (list, dict))
        return [value] if is_face else value
    raise ValueError(f"expected a list of faces, got {_kind(value)}")


def _points(face: object) -> tuple[list[str], bool]:
    """Return ten landmark numbers, and whether the points had names; a ValueError says why they cannot be used."""
    points = face
    if isinstance(face, dict):
        key = next((key for key in POINT_KEYS if key in face), None)
        if key is None:
            raise ValueError(f"expected a face with {', '.join(POINT_KEYS)}, got {', '.join(map(str, face))[:80]}")
        points = face[key]
    has_names = isinstance(points, dict)
    if isinstance(points, dict):
        if lacking := [name for name in POINT_NAMES if name not in points]:
            raise ValueError(f"expected points of the names {', '.join(POINT_NAMES)}; {lacking[0]} is missing")
        points = [points[name] for name in POINT_NAMES]
    if not isinstance(points, list) or len(points) not in (5, POINTS):
        found = f"{len(points)}" if isinstance(points, list) else _kind(points)
        raise ValueError(f"expected 5 or {POINTS} points [x, y], got {found}")
    cells = []
    for number, point in enumerate(points):
        if not isinstance(point, list) or len(point) != 2 or not all(type(value) in (int, float) for value in point):
            raise ValueError(f"point {number} is {str(point)[:80]}, expected two numbers [x, y]")
        cells += [repr(value) for value in point]
    return (reduced_cells(cells), False) if len(points) == POINTS else (cells, has_names)


def _name_sides_by_viewer(rows: list[TableRow], named: list[int]) -> None:
    """Exchange left and right of the rows with the indices `named` if most would be those of mirrored faces."""
    landmarks = {index: tuple(map(float, rows[index].cells)) for index in named}
    if 2 * sum(map(is_mirrored, landmarks.values())) < len(landmarks) or not landmarks:
        return
    for index, row in landmarks.items():
        rows[index] = replace(rows[index], cells=[repr(number) for number in in_column_order(row, "subject")])


def _kind(value: object) -> str:
    """Return a JSON value in words."""
    names = {dict: "an object", list: "a list", str: "a text", type(None): "nothing"}
    return names.get(type(value), "a number")


# --- Entries of a JSON document ---------------------------------------------------------------------------------


def _entries(stream: BinaryIO) -> Iterator[tuple[str | None, object]]:
    """Yield key and value of each member of a JSON object, or None and each value of a list.

    Only one entry is in memory at a time, because a whole document takes ten times its size once it is parsed.

    Raises:
        ValueError: the text is not JSON, an entry is too long, or nested too deeply.
    """
    text = _JsonText(stream)
    closing = {"{": "}", "[": "]"}.get(text.take())
    if closing is None:
        raise ValueError("expected an object or a list")
    if text.peek() == closing:
        text.take()
    else:
        following = ","
        while following == ",":
            key = text.value() if closing == "}" else None
            if closing == "}" and (not isinstance(key, str) or text.take() != ":"):
                raise ValueError(f"expected a name and ':' in value {text.values}")
            yield None if key is None else str(key), text.value()
            following = text.take()
        if following != closing:
            raise ValueError(f"expected ',' or '{closing}' after value {text.values}")
    if text.peek():
        raise ValueError("text follows the end of the document")


class _JsonText:
    """A JSON text that is read in blocks."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = io.TextIOWrapper(stream, "utf-8-sig", newline="")
        self.block, self.at = "", 0
        self.decoder = json.JSONDecoder()
        self.values = 0

    def peek(self) -> str:
        """Return the next character that is no white space, or an empty text at the end."""
        while True:
            match = WHITESPACE.match(self.block, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.block) or not self._read():
                return self.block[self.at : self.at + 1]

    def take(self) -> str:
        """Return the next character that is no white space, and pass it."""
        character = self.peek()
        self.at += len(character)
        return character

    def value(self) -> object:
        """Return the next value, and pass it."""
        self.peek()
        self.values += 1
        while True:
            try:
                value, end = self.decoder.raw_decode(self.block, self.at)
            except json.JSONDecodeError as error:
                problem = error.msg
            except RecursionError:
                raise ValueError(f"value {self.values} is nested too deeply") from None
            else:
                length = end - self.at
                # A number at the end of a block may continue, and so may one that ends before a point or an exponent.
                if type(value) not in (int, float) or self.block[end : end + 1] in AFTER_NUMBER or self._is_too_long():
                    self.at = end
                    return value
                if not self._read():
                    self.at += length
                    return value
                continue
            if self._is_too_long():
                raise ValueError(f"value {self.values} is not complete after {MAX_JSON_ENTRY_CHARACTERS} characters")
            if not self._read():
                raise ValueError(f"value {self.values}: {problem}")

    def _is_too_long(self) -> bool:
        return len(self.block) - self.at > MAX_JSON_ENTRY_CHARACTERS

    def _read(self) -> bool:
        """Read as many characters as there are, and drop those that are passed; False at the end of the file."""
        self.block, self.at = self.block[self.at :], 0
        more = self.stream.read(max(BLOCK_CHARACTERS, len(self.block)))
        self.block += more
        return bool(more)
