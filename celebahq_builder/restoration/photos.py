"""Clean photos as a source of training crops."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from celebahq_builder.errors import TrainingError

Pixels = NDArray[np.uint8]
"""An RGB image, uint8 [H, W, 3]."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


IN_MEMORY_BYTES = 4 * 2**30
"""Decoded photos beyond this stay on disk and are decoded for every crop."""


@dataclass(frozen=True)
class PhotoFolder:
    """Photos, split into those to train on and those held out for validation."""

    training: tuple[Pixels | Path, ...]
    """Decoded, as many as fit in memory, or to be decoded."""
    held_out: tuple[Pixels, ...]
    digest: str = ""
    """Hash of the usable photos' names and sizes: which photos a run was trained on."""

    @classmethod
    def read(
        cls, folder: Path, *, held_out: int, at_least_px: int, in_memory_bytes: int = IN_MEMORY_BYTES
    ) -> PhotoFolder:
        """Find all photos below `folder` that are at least `at_least_px` wide and high, in order of their names.

        Every k-th photo is held out, k = count // held_out, so that the split does not depend on chance.

        Raises:
            TrainingError: no such folder, a photo that cannot be read, or fewer than 2 * `held_out` usable ones.
        """
        if not folder.is_dir():
            raise TrainingError(f"{folder} is not a folder of photos")
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        sizes = {path: _size(path) for path in paths}
        usable = [path for path in paths if min(sizes[path]) >= at_least_px]
        if len(usable) < 2 * max(held_out, 1):
            raise TrainingError(
                f"{folder}: {len(usable)} of {len(paths)} photos are at least {at_least_px} px wide and high; "
                f"training needs {2 * max(held_out, 1)} or more"
            )
        every = len(usable) // held_out if held_out else len(usable) + 1
        test = {i * every for i in range(held_out)}
        training: list[Pixels | Path] = []
        room = in_memory_bytes
        for path in (p for i, p in enumerate(usable) if i not in test):
            room -= 3 * sizes[path][0] * sizes[path][1]
            training.append(_read(path) if room >= 0 else path)
        listed = "".join(f"{path.relative_to(folder).as_posix()} {sizes[path]}\n" for path in usable)
        digest = hashlib.sha256(listed.encode()).hexdigest()[:16]
        return cls(tuple(training), tuple(_read(p) for i, p in enumerate(usable) if i in test), digest)

    @property
    def summary(self) -> str:
        """How many photos there are, in words."""
        return f"{len(self.training)} photos, {len(self.held_out)} held out"

    def crop(self, rng: np.random.Generator, size_px: int, largest_shrink: float = 2.0) -> Pixels:
        """Return a random square crop [size_px, size_px, 3], randomly shrunk, mirrored and turned.

        Shrinking by an area filter (factor 1 to `largest_shrink`, half of the time) shows the network the same
        scene at more scales, and removes what compression the photo itself went through.
        """
        chosen = self.training[rng.integers(len(self.training))]
        photo = _read(chosen) if isinstance(chosen, Path) else chosen
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


def _size(path: Path) -> tuple[int, int]:
    with _opened(path) as image:
        return image.size


def _read(path: Path) -> Pixels:
    with _opened(path) as image:
        return np.asarray(image.convert("RGB"))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise TrainingError(f"training photo {path} cannot be read: {error}; remove or replace it") from None


def to_tensor(images: Sequence[Pixels], device: torch.device) -> Tensor:
    """Return images uint8 [H, W, 3] of one size as a batch, float [N, 3, H, W] in [0, 1]."""
    stacked = torch.from_numpy(np.stack(images)).to(device)
    return stacked.permute(0, 3, 1, 2).float().div_(255)  # channels-last in memory, as the networks are


def to_pixels(images: Tensor) -> list[Pixels]:
    """Return a batch, float [N, 3, H, W] in [0, 1], clipped and rounded, as uint8 [H, W, 3] each."""
    levels = images.detach().mul(255).round().clamp(0, 255).to(torch.uint8)
    return [np.ascontiguousarray(p) for p in levels.permute(0, 2, 3, 1).cpu().numpy()]


def bicubic_quarter(photos: Tensor) -> Tensor:
    """Return photos at a quarter of their size by antialiased bicubic filtering.

    Shapes: float [N, 3, 4H, 4W] -> [N, 3, H, W]. The filter is MATLAB's imresize (a = -0.5), which made the
    low-resolution images of the super-resolution benchmarks.
    """
    return F.interpolate(photos, scale_factor=0.25, mode="bicubic", antialias=True, align_corners=False)


def downscale_4x(photos: Tensor) -> Tensor:
    """Return photos in [0, 1] at a quarter of their size, rounded to 8 bits: what an upscaler gets as input."""
    return bicubic_quarter(photos).mul(255).round_().clamp_(0, 255).div_(255)


def validation_crop(photo: Pixels, size_px: int = 384) -> Pixels:
    """Return a photo's top left corner, of sides that divide by 8: what is validated on."""
    height, width = (min(side, size_px) // 8 * 8 for side in photo.shape[:2])
    return np.ascontiguousarray(photo[:height, :width])
