"""Image files of a folder, and the image set: images of one size in a fixed order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def photo_path(folder: Path, file: str) -> Path:
    """Return where a listed photo lies: under its name, or as PNG, as CelebA is also shipped."""
    path = folder / file
    if not path.exists() and path.with_suffix(".png").exists():
        return path.with_suffix(".png")
    return path


def png_name(file: str) -> str:
    """Return the name that a listed photo has where CelebA is shipped as PNG."""
    path = PurePosixPath(file)
    return path.with_suffix(".png").as_posix() if path.name else file


def _is_run(folder: Path) -> bool:
    """Return whether a folder is a run directory: its images are results, not photos."""
    return (folder / "run.json").exists() and (folder / "stages").is_dir()


def list_images(folder: Path) -> list[str]:
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


Pixels = NDArray[np.uint8]
Labels = NDArray[np.float32]


@dataclass(frozen=True)
class NamedImage:
    """An image and where it comes from."""

    pixels: Pixels
    """uint8 [C, R, R]: 3 channels in the order R, G, B, or 1 of grey."""

    name: str
    """Of its file or entry, with `/` between folders, as users know it; unique in its set."""


class ImageSet(Protocol):
    """Images of a data set, read one after another; memory does not depend on how many they are.

    Readers check what can be known beforehand (counts, sizes, names) when they are made, and the rest as they go.
    Whatever is wrong with the data is a `FormatError`.
    """

    @property
    def count(self) -> int:
        """How many images there are."""

    @property
    def resolution(self) -> int:
        """R, a power of two."""

    @property
    def channels(self) -> int:
        """C: 3, or 1 for grey."""

    @property
    def labels(self) -> Labels | None:
        """float32 [N, classes], one row per image: one-hot classes or attributes of 0 and 1; None without."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """One for each column of the labels, or empty where the format does not say."""

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images from number `start` on, in their order; may be called again."""
