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
    """Return the path of a listed photo: under its name or, as CelebA is also shipped, as PNG."""
    path = folder / file
    if not path.exists() and path.with_suffix(".png").exists():
        return path.with_suffix(".png")
    return path


def png_name(file: str) -> str:
    """Return the name of a listed photo where CelebA is shipped as PNG.

    Example:
        >>> png_name("a/000001.jpg")
        'a/000001.png'
    """
    path = PurePosixPath(file)
    return path.with_suffix(".png").as_posix() if path.name else file


def _is_run(folder: Path) -> bool:
    """Return whether a folder is a run directory, whose images are results and not photos."""
    return (folder / "run.json").exists() and (folder / "stages").is_dir()


def list_images(folder: Path) -> list[str]:
    """Return the sorted names of all image files below a folder, relative to it and with forward slashes.

    Run directories below the folder are skipped.
    """
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_run(Path(parent) / name))
        prefix = Path(parent).relative_to(folder).as_posix()
        prefix = "" if prefix == "." else prefix + "/"
        found += [prefix + name for name in files if name.lower().endswith(IMAGE_SUFFIXES)]
    return sorted(found)


def utf8_name(name: str) -> str:
    r"""Return a file name in valid UTF-8; other bytes are written as escapes.

    Example:
        >>> utf8_name("caf\udce9.jpg")
        'caf\\xe9.jpg'
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


Pixels = NDArray[np.uint8]
Labels = NDArray[np.float32]


@dataclass(frozen=True)
class NamedImage:
    """An image and its name."""

    pixels: Pixels
    """uint8 [C, R, R]: 3 channels in the order R, G, B, or 1 channel of grey."""

    name: str
    """Name of the image's file or archive entry, with `/` between folders; unique in its set."""


class ImageSet(Protocol):
    """Images of one size in a fixed order, read one after another; memory does not depend on their number.

    An image set checks counts, sizes and names when it is made, and the pixels while it reads them. It raises a
    `FormatError` for all errors in the data.
    """

    @property
    def count(self) -> int:
        """Number of images, N."""

    @property
    def resolution(self) -> int:
        """R of the images, a power of two."""

    @property
    def channels(self) -> int:
        """C: 3 for RGB, 1 for grey."""

    @property
    def labels(self) -> Labels | None:
        """float32 [N, classes], one row per image: one-hot classes, or attributes as 0 and 1; None without labels."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """One name for each column of the labels, or empty where the format has none."""

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images from index `start` on, in order; may be called again."""
