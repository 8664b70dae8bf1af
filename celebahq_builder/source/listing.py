"""Which pictures lie in a folder, and under which name a listed one does."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def photo_path(folder: Path, file: str) -> Path:
    """Return where a listed photo lies: under its name, or as PNG, as CelebA is also shipped."""
    path = folder / file
    if not path.exists() and path.with_suffix(".png").exists():
        return path.with_suffix(".png")
    return path


def as_png(file: str) -> str:
    """Return the name that a listed photo has where CelebA is shipped as PNG."""
    path = PurePosixPath(file)
    return path.with_suffix(".png").as_posix() if path.name else file


def _is_run(folder: Path) -> bool:
    """Return whether a folder is a run directory: its pictures are results, not photos."""
    return (folder / "run.json").exists() and (folder / "stages").is_dir()


def list_pictures(folder: Path) -> list[str]:
    """Return all image files below a folder, relative to it with forward slashes, sorted."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_run(Path(parent) / name))
        prefix = Path(parent).relative_to(folder).as_posix()
        prefix = "" if prefix == "." else prefix + "/"
        found += [prefix + name for name in files if name.lower().endswith(IMAGE_SUFFIXES)]
    return sorted(found)


def printable(name: str) -> str:
    """Return a file name as UTF-8 can hold it, with other bytes written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
