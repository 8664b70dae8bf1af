"""Folders of clean photos, random crops of them, and the conversion between images and tensors."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import UnidentifiedImageError
from torch import Tensor

from celebahq_builder.errors import TrainingError
from celebahq_builder.image_set import list_images
from celebahq_builder.imaging.image_io import DECODE_ERRORS, open_image, open_rgb
from celebahq_builder.limits import MAX_IMAGE_PIXELS
from celebahq_builder.outcome import Rejection
from celebahq_builder.storage import open_file, read_file

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
"""An RGB image, uint8 [H, W, 3]."""

IN_MEMORY_BYTES = 4 * 2**30
"""Decoded photos up to this total are kept in memory. The other photos are decoded again for every crop."""

LIMIT = "the limit for training photos"
"""Name of the largest number of pixels, for messages."""

VALIDATION_PX = 384
"""Largest width and height of a validation crop."""


@dataclass(frozen=True)
class TrainingPhotos:
    """The photos of a folder, split into training photos and held-out photos."""

    training: tuple[Pixels | Path, ...]
    """Decoded photos, or the paths of photos that are decoded for every crop."""
    held_out: tuple[Pixels, ...]
    """Decoded photos for validation."""
    digest: str = ""
    """Hash of the names and sizes of the used photos; it identifies them in a checkpoint."""

    @classmethod
    def read(
        cls, folder: Path, *, held_out: int, at_least_px: int, in_memory_bytes: int = IN_MEMORY_BYTES
    ) -> TrainingPhotos:
        """Read all photos in a folder and its subfolders, in the order of their paths.

        Hidden files and those that operating systems create beside images are not read. Transparent pixels are
        composited over white, and 16-bit values are scaled to 8 bits, as in a build. Every k-th photo is held out, with
        k = count // `held_out`, so the split is not random.

        Args:
            folder: of the photos.
            held_out: number of photos for validation.
            at_least_px: smaller photos, by width or height, are not used; their number is logged.
            in_memory_bytes: see `IN_MEMORY_BYTES`.

        Raises:
            TrainingError: the folder does not exist, a photo cannot be decoded, or fewer than 2 * `held_out` photos
                are large enough.
        """
        if not folder.is_dir():
            raise TrainingError(f"{folder} is not a folder of photos; give a folder")
        paths = [folder.joinpath(*parts) for parts in sorted(name.split("/") for name in list_images(folder))]
        sizes = {path: _read_size(path) for path in paths}
        usable = [path for path in paths if min(sizes[path]) >= at_least_px]
        if len(usable) < 2 * max(held_out, 1):
            raise TrainingError(
                f"{folder}: {len(usable)} of {len(paths)} photos are at least {at_least_px} px wide and high; "
                f"training needs {2 * max(held_out, 1)} or more"
            )
        if len(usable) < len(paths):
            small = len(paths) - len(usable)
            log.info("%s: %d of %d photos are not used; a side is under %d px", folder, small, len(paths), at_least_px)
        every = len(usable) // held_out if held_out else len(usable) + 1
        validation = {i * every for i in range(held_out)}
        training: list[Pixels | Path] = []
        left_bytes = in_memory_bytes
        for path in (path for i, path in enumerate(usable) if i not in validation):
            left_bytes -= 3 * sizes[path][0] * sizes[path][1]
            training.append(_decode(path) if left_bytes >= 0 else path)
        listing = "".join(f"{path.relative_to(folder).as_posix()} {sizes[path]}\n" for path in usable)
        digest = hashlib.sha256(listing.encode()).hexdigest()[:16]
        return cls(tuple(training), tuple(_decode(usable[i]) for i in sorted(validation)), digest)

    @property
    def summary(self) -> str:
        """The numbers of photos as text: ``300 photos, 8 held out``."""
        return f"{len(self.training)} photos, {len(self.held_out)} held out"

    @property
    def validation_crops(self) -> list[Pixels]:
        """The top left corner of each held-out photo, at most 384 px wide and high; sides are multiples of 8 px."""
        sizes = [[min(side, VALIDATION_PX) // 8 * 8 for side in photo.shape[:2]] for photo in self.held_out]
        return [np.ascontiguousarray(photo[:h, :w]) for photo, (h, w) in zip(self.held_out, sizes, strict=True)]

    def crop(self, rng: np.random.Generator, size_px: int, largest_shrink: float = 2.0) -> Pixels:
        """Return a random square crop of a training photo, randomly shrunk, mirrored and rotated.

        Half of the crops are shrunk by an area filter. The network then sees the same scene at more scales, and the
        filter removes compression artefacts of the photo itself.

        Args:
            rng: all random choices come from it.
            size_px: width and height of the crop.
            largest_shrink: the factor is uniform between 1 and this number; 1 switches shrinking off.

        Returns:
            uint8 [size_px, size_px, 3].
        """
        chosen = self.training[rng.integers(len(self.training))]
        photo = _decode(chosen) if isinstance(chosen, Path) else chosen
        limit = min(photo.shape[:2]) / size_px
        shrink = min(rng.uniform(1.0, largest_shrink), limit) if rng.random() < 0.5 else 1.0
        side = min(round(size_px * shrink), *photo.shape[:2])
        top = rng.integers(photo.shape[0] - side + 1)
        left = rng.integers(photo.shape[1] - side + 1)
        crop = photo[top : top + side, left : left + side]
        if side != size_px:
            crop = cv2.resize(crop, (size_px, size_px), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        crop = np.rot90(crop, int(rng.integers(4)))
        return np.ascontiguousarray(crop[:, ::-1] if rng.random() < 0.5 else crop)


def _read_size(path: Path) -> tuple[int, int]:
    """Return the width and height of a photo in px, from its header."""
    try:
        with open_file(path) as file:
            return open_image(file, MAX_IMAGE_PIXELS, LIMIT).size
    except UnidentifiedImageError:
        raise _unreadable(path, "it is not an image of a known format") from None
    except (Rejection, *DECODE_ERRORS) as error:
        raise _unreadable(path, _reason(error)) from None


def _decode(path: Path) -> Pixels:
    try:
        image, _ = open_rgb(read_file(path), MAX_IMAGE_PIXELS, LIMIT)
    except (Rejection, OSError) as error:
        raise _unreadable(path, _reason(error)) from None
    return np.asarray(image)


def _reason(error: Exception) -> str:
    if isinstance(error, Rejection):
        return error.detail
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _unreadable(path: Path, reason: str) -> TrainingError:
    return TrainingError(f"training photo {path} cannot be read: {reason}; remove or replace it")


# --- Images and tensors -----------------------------------------------------------------------------------------


def to_tensor(images: Sequence[Pixels], device: torch.device) -> Tensor:
    """Return images of one size, uint8 [H, W, 3], as a batch, float [N, 3, H, W] in [0, 1], channels last.

    >>> to_tensor([np.full((2, 4, 3), 255, np.uint8)], torch.device("cpu")).shape
    torch.Size([1, 3, 2, 4])
    """
    batch = torch.from_numpy(np.stack(images)).to(device)
    return batch.permute(0, 3, 1, 2).float().div_(255)


def to_pixels(images: Tensor) -> list[Pixels]:
    """Return the images of a batch, float [N, 3, H, W] in [0, 1], clipped and rounded to uint8 [H, W, 3]."""
    levels = images.detach().mul(255).round().clamp(0, 255).to(torch.uint8)
    return [np.ascontiguousarray(image) for image in levels.permute(0, 2, 3, 1).cpu().numpy()]


def downscale_4x(photos: Tensor) -> Tensor:
    """Downscale photos by 4 with an antialiased bicubic filter and round them to 8 bits: the input of an upscaler.

    The filter is that of MATLAB's imresize (a = -0.5), with which the low-resolution images of the super-resolution
    benchmarks were made. Shapes: [N, 3, 4H, 4W] -> [N, 3, H, W], float in [0, 1].
    """
    small = F.interpolate(photos, scale_factor=0.25, mode="bicubic", antialias=True, align_corners=False)
    return small.mul(255).round_().clamp_(0, 255).div_(255)
