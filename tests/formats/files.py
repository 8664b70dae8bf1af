"""Data sets for the tests of the formats, and imports that are refused."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from celebahq_builder.errors import CelebAHQError
from celebahq_builder.formats.conversion import import_images
from celebahq_builder.hdf5.reader import PyramidFile
from tests.hdf5.files import Images
from tests.reference import theano_reader

FORMATS = ("tfrecord", "stylegan-zip", "images", "webdataset", "parquet")
"""Formats that are written."""


def out(folder: Path, to: str) -> Path:
    """Return the target of an export."""
    return folder / ("faces.zip" if to == "stylegan-zip" else "faces")


def refused(path: Path, **asked: Any) -> str:
    """Import a data set that is refused, and return the message: one line that names it. Nothing is left."""
    target = path.parent / "made" / "out.h5"
    target.parent.mkdir(exist_ok=True)
    with pytest.raises(CelebAHQError) as raised:
        import_images(path, target, **asked)
    assert list(target.parent.iterdir()) == []
    line = str(raised.value)
    assert "\n" not in line
    assert path.name in line
    return line


def run(*arguments: object, without: str = "") -> tuple[int, str, str]:
    """Run a command where a package is not installed; return exit code, stdout and stderr."""
    program = f"import sys; sys.modules[{without!r}] = None; from celebahq_builder.__main__ import main; main()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return ended.returncode, ended.stdout, ended.stderr


def pixels(path: Path) -> list[Images]:
    """Return all levels of an HDF5 file, largest first, after a check of its hashes and levels."""
    with PyramidFile(path) as file:
        assert list(file.problems()) == []
    return theano_reader.read(path)


def flip(path: Path, at: int, bits: int = 1) -> None:
    """Change bits of one byte of a file."""
    raw = bytearray(path.read_bytes())
    raw[at] ^= bits
    path.write_bytes(raw)


def cut(path: Path, share: float) -> None:
    """Leave only a share of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def rgb(height: int = 8, width: int = 8) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def save(path: Path, image: Any, **how: Any) -> None:
    """Write an image [H, W, C], or one of Pillow, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **how)


def to_pil(image: Images) -> Image.Image:
    """Return an image [C, H, W] as one of Pillow."""
    return Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def coded(image: Images, kind: str = "png", **how: Any) -> bytes:
    """Return an image file of an image [C, H, W]."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, kind, **how)
    return buffer.getvalue()


def png(side: int = 8) -> bytes:
    """Return a black PNG file."""
    return coded(np.zeros((3, side, side), np.uint8))


def zipped(path: Path, entries: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path
