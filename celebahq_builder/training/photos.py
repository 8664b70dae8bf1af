"""A folder of clean photos as a source of training crops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celebahq_builder.errors import TrainingError

Pixels = NDArray[np.uint8]
"""An RGB picture, uint8 [H, W, 3]."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class PhotoFolder:
    """Photos in memory, split into those to train on and those held out for validation."""

    training: tuple[Pixels, ...]
    held_out: tuple[Pixels, ...]

    @classmethod
    def read(cls, folder: Path, *, held_out: int, at_least_px: int) -> PhotoFolder:
        """Read all photos below `folder` that are at least `at_least_px` wide and high, in order of their names.

        Every k-th photo is held out, k = count // held_out, so that the split does not depend on chance.

        Raises:
            TrainingError: no such folder, or fewer than 2 * `held_out` usable photos in it.
        """
        if not folder.is_dir():
            raise TrainingError(f"{folder} is not a folder of photos")
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        photos = [_read(path) for path in paths]
        usable = [p for p in photos if min(p.shape[:2]) >= at_least_px]
        if len(usable) < 2 * max(held_out, 1):
            raise TrainingError(
                f"{folder}: {len(usable)} of {len(paths)} photos are at least {at_least_px} px wide and high; "
                f"training needs {2 * max(held_out, 1)} or more"
            )
        every = len(usable) // held_out if held_out else len(usable) + 1
        test = {i * every for i in range(held_out)}
        return cls(
            tuple(p for i, p in enumerate(usable) if i not in test),
            tuple(p for i, p in enumerate(usable) if i in test),
        )

    def crop(self, rng: np.random.Generator, size_px: int, largest_shrink: float = 2.0) -> Pixels:
        """Return a random square crop [size_px, size_px, 3], randomly shrunk, mirrored and turned.

        Shrinking by an area filter (factor 1 to `largest_shrink`, half of the time) shows the network the same
        scene at more scales, and removes what compression the photo itself went through.
        """
        photo = self.training[rng.integers(len(self.training))]
        room = min(photo.shape[:2]) / size_px
        shrink = min(rng.uniform(1.0, largest_shrink), room) if rng.random() < 0.5 else 1.0
        side = min(round(size_px * shrink), *photo.shape[:2])
        top = rng.integers(photo.shape[0] - side + 1)
        left = rng.integers(photo.shape[1] - side + 1)
        crop = photo[top : top + side, left : left + side]
        if side != size_px:
            crop = cv2.resize(crop, (size_px, size_px), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        crop = np.rot90(crop, int(rng.integers(4)))
        return np.ascontiguousarray(crop[:, ::-1] if rng.random() < 0.5 else crop)


def _read(path: Path) -> Pixels:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise TrainingError(f"training photo {path} cannot be read: {error}; remove or replace it") from None
