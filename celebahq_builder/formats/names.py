"""Names of pictures as file names: they come from files that others made, and must not lead out of a folder."""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.level_pictures import LevelPictures
from celebahq_builder.formats.metadata import Metadata

log = logging.getLogger(__name__)

BYTES_MAX = 240
"""Of one part of a name, so that an ending still fits into the 255 bytes that file systems allow."""


def check_name(name: str, where: Path) -> str:
    """Return a picture's relative path, with `/` between folders.

    Raises:
        FormatError: it is empty, absolute, leads upwards, or no file system would take it.
    """
    if not _is_path(name):
        raise FormatError(
            f"{where}: the picture name {name[:80]!r} is not a relative path within a folder; rename it, or remove it "
            "from the file"
        )
    return name


def _is_path(name: str) -> bool:
    """Whether a name is a relative path that stays within its folder, and that file systems of any kind take."""
    parts = name.split("/")
    bad = any(part in ("", ".", "..") or len(part.encode(errors="replace")) > BYTES_MAX for part in parts)
    return not (bad or "\\" in name or ":" in parts[0] or not name.isprintable())


def file_names(level: LevelPictures, where: Path, without: str = "") -> list[str]:
    """Return a name without ending for each picture, unique even where file systems take no notice of case.

    Ids, or else source files without their endings. Numbers as StyleGAN's tool gives them, ``img00000000``, where
    there are neither, two are alike, or one holds what the format has no use for, or would lead out of a folder, or
    cannot be the name of a file; the log says so.

    Args:
        without: what a name must not hold.
    """
    numbers = [f"img{number:08d}" for number in range(level.count)]
    given = _given(level.metadata)
    if given is None:
        return numbers
    bad = next((name for name in given if not _is_path(name)), None)
    if bad is not None:
        log.info("%s: %r cannot be the name of a file in a folder; pictures are named by number", where, bad[:80])
    elif without and any(without in name for name in given):
        log.info(
            "%s: some ids hold %r, which the format has no place for; pictures are named by number", where, without
        )
    elif len({name.casefold() for name in given}) < level.count:
        log.info("%s: some ids are alike; pictures are named by number", where)
    else:
        return given
    return numbers


def _given(metadata: Metadata) -> list[str] | None:
    ids, files = metadata.columns.get("id"), metadata.columns.get("file")
    if isinstance(ids, list):
        return ids
    if isinstance(files, list):
        return [str(PurePosixPath(file).with_suffix("")) if PurePosixPath(file).name else file for file in files]
    return None
