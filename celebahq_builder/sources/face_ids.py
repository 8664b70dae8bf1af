"""Ids of photos and of the faces in them; the order of the faces of one photo."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from celebahq_builder.errors import SourceError, printable
from celebahq_builder.image_set import photo_path
from celebahq_builder.imaging.orientation import checked, to_upright
from celebahq_builder.limits import MAX_IMAGE_FILE_BYTES, MAX_IMAGE_PIXELS
from celebahq_builder.outcome import Rejection
from celebahq_builder.sources.photo import LandmarkRow
from celebahq_builder.storage import open_file

ID_BYTES_MAX = 200
"""Length of the longest id that a table may give; file systems take names of 255 bytes, with their suffixes."""

ID_CHARACTERS_REFUSED = frozenset('/\\:*?"<>|')
"""Characters that file names cannot have in some file system; control characters are refused, too."""


def left_to_right(folder: Path, file: str, faces: Sequence[LandmarkRow]) -> list[int]:
    """Return the indices of the faces of one photo from left to right, by the midpoints of the eyes.

    Left is the left side of the upright image: the EXIF orientation of the file is applied to the landmarks, which are
    those of the stored image. A file that is missing or cannot be read counts as upright.

    Args:
        file: relative to the folder.
        faces: landmarks of each face.
    """
    turned = _exif_orientation(folder, file)
    upright = [to_upright(np.reshape(face, (5, 2)), (0, 0), turned) for face in faces]  # from any origin
    return sorted(range(len(faces)), key=lambda index: upright[index][:2].sum(axis=0).tolist())


def _exif_orientation(folder: Path, file: str) -> int:
    """Return the EXIF orientation of an image file; 1, which is upright, where it has none or cannot be read."""
    from celebahq_builder.imaging.image_io import DECODE_ERRORS, EXIF_ORIENTATION, open_image

    try:
        with open_file(photo_path(folder, file), MAX_IMAGE_FILE_BYTES) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata
            return checked(open_image(stream, MAX_IMAGE_PIXELS, "").getexif().get(EXIF_ORIENTATION, 1))
    except (Rejection, *DECODE_ERRORS):
        return 1


def unsafe_id(name: str) -> str | None:
    """Return why an id cannot be the name of a file, or None if it can.

    >>> unsafe_id("group_2"), unsafe_id("../group")
    (None, "has the character '/'; give letters, digits, '_', '-' or '.'")
    """
    bad = next((letter for letter in name if letter in ID_CHARACTERS_REFUSED or not letter.isprintable()), None)
    if bad is not None:
        return f"has the character '{printable(bad)}'; give letters, digits, '_', '-' or '.'"
    if name.startswith(".") or name.endswith((".", " ")):
        return "begins with '.', or ends with '.' or a space; give another"
    if len(name.encode()) > ID_BYTES_MAX:
        return f"is longer than {ID_BYTES_MAX} bytes; give a shorter one"
    return None


def unique_ids(table: str, given: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the ids of the faces of each file.

    Where the table gives none, the id is the name of the file without its suffix, or the whole path where several files
    have that name. Faces of one photo are numbered: ``name_0``, ``name_1``; if another photo has such an id,
    ``name__0``, ``name__1``.

    Args:
        table: name of the table, for messages.
        given: for each file, the ids that the table gives to its faces; empty where it gives none.

    Raises:
        SourceError: two photos would have the same id.

    >>> unique_ids("t.csv", {"a.jpg": [""], "sub/b.jpg": ["", "", "bride"]})
    {'a.jpg': ['a'], 'sub/b.jpg': ['b_0', 'b_1', 'bride']}
    """
    names = _names(given)
    owners: dict[str, str] = {}
    for file, own in given.items():
        for name in filter(None, own):
            if name in owners:
                raise SourceError(
                    f"{table}: the id {name} is given to a face of {owners[name]} and to one of {file}; give each face "
                    "its own"
                )
            owners[name] = file
    for file, own in given.items():
        if len(own) == 1 and not own[0]:
            if names[file] in owners:
                raise SourceError(
                    f"{table}: the id {names[file]} is given to a face of {owners[names[file]]}, and {file} has it by "
                    "its name; give one of them another in the column id"
                )
            owners[names[file]] = file
    ids: dict[str, list[str]] = {}
    for file, own in given.items():
        numbered, mark = [names[file]], ""
        while len(own) > 1 and (not mark or not owners.keys().isdisjoint(numbered)):
            mark += "_"
            numbered = [f"{names[file]}{mark}{number}" for number in range(len(own))]
        owners.update(dict.fromkeys(numbered, file))
        ids[file] = [name or number for name, number in zip(own, numbered, strict=True)]
    return ids


def _names(files: Iterable[str]) -> dict[str, str]:
    """Return a name for each file: its stem, or its whole path where several have that stem."""
    stems: dict[str, list[str]] = {}
    for file in files:
        stems.setdefault(PurePosixPath(file).stem, []).append(file)
    names = {file: stem if len(same) == 1 else file.replace("/", "__") for stem, same in stems.items() for file in same}
    if len(set(names.values())) != len(names):
        raise SourceError("two photos would get the same id: rename files that have '__' where others have '/'")
    return names
