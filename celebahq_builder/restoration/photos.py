"""Folders of clean photos, random crops of them, and the conversion between images and tensors."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import UnidentifiedImageError
from torch import Tensor

from celebahq_builder.errors import TrainingError
from celebahq_builder.image_set import Pixels, list_images
from celebahq_builder.imaging.image_io import DECODE_ERRORS, open_image, open_rgb
from celebahq_builder.limits import MAX_IMAGE_PIXELS
from celebahq_builder.outcome import Rejection
from celebahq_builder.restoration.degradation import reduced
from celebahq_builder.sources.folder import read_folder
from celebahq_builder.storage import open_file, read_file, sha256
from celebahq_builder.training.interface import IN_MEMORY_BYTES, PHOTO_LIMIT, Photos, split

log = logging.getLogger(__name__)

VALIDATION_PX = 384
"""Largest width and height of a validation crop."""

SMOOTH_CANDIDATES = 4
"""Random crops of which `TrainingPhotos.smooth_crop` returns the smoothest."""

SMOOTH_CELL_PX = 8
"""Contrast inside of cells of this width, such as grain, does not count when crops are compared for smoothness."""


@dataclass(frozen=True)
class TrainingPhotos(Photos):
    """The photos of a folder, split into training photos and held-out photos."""

    training: tuple[Pixels | Path, ...]
    """Decoded photos, or the paths of photos that are decoded for every crop."""
    held_out: tuple[Pixels, ...]
    """Decoded photos for validation."""
    digest: str = ""
    """Hash of the names and sizes of the used photos, and of the faces; it identifies them in a checkpoint."""
    faces: tuple[TrainingFace, ...] = ()
    """Faces in the training photos."""
    face_share: float = 0.0
    """Share of the crops that contain the centre of one of `faces`."""

    @classmethod
    def read(
        cls,
        folder: Path,
        *,
        held_out: int,
        at_least_px: int,
        faces: FaceSettings | None = None,
        in_memory_bytes: int = IN_MEMORY_BYTES,
    ) -> TrainingPhotos:
        """Read all photos in a folder and its subfolders, in the order of their paths.

        Hidden files and those that operating systems add to folders of images are not read. Transparent pixels are
        composited over white, and 16-bit values are scaled to 8 bits, as in a build.

        Args:
            folder: of the photos.
            held_out: number of photos for validation; see `training.interface.split`.
            at_least_px: smaller photos, by width or height, are not used; their number is logged.
            faces: table of the faces in the photos, and their share of the crops.
            in_memory_bytes: see `IN_MEMORY_BYTES`.

        Raises:
            TrainingError: the folder does not exist, a photo cannot be decoded, fewer than 2 * `held_out` photos are
                large enough, or no face of the table is in a training photo.
            SourceError: the table of the faces cannot be read.
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
        training_paths, held_out_paths = split(usable, held_out)
        training: list[Pixels | Path] = []
        left_bytes = in_memory_bytes
        for path in training_paths:
            left_bytes -= 3 * sizes[path][0] * sizes[path][1]
            training.append(_decode(path) if left_bytes >= 0 else path)
        listing = "".join(f"{path.relative_to(folder).as_posix()} {sizes[path]}\n" for path in usable)
        found: tuple[TrainingFace, ...] = ()
        if faces is not None and faces.table:
            found = _find_faces(folder, Path(faces.table), training_paths)
            listing += "".join(f"{face.photo} {face.x} {face.y}\n" for face in found)
        digest = sha256(listing.encode())[:16]
        share = faces.share if faces is not None and found else 0.0
        return cls(tuple(training), tuple(map(_decode, held_out_paths)), digest, found, share)

    @property
    def validation_crops(self) -> list[Pixels]:
        """The top left corner of each held-out photo, at most 384 px wide and high; sides are multiples of 8 px."""
        sizes = [[min(side, VALIDATION_PX) // 8 * 8 for side in photo.shape[:2]] for photo in self.held_out]
        return [np.ascontiguousarray(photo[:h, :w]) for photo, (h, w) in zip(self.held_out, sizes, strict=True)]

    def crop(self, rng: np.random.Generator, size_px: int, largest_shrink: float = 2.0) -> Pixels:
        """Return a random square crop of a training photo, randomly shrunk, mirrored and rotated.

        Half of the crops are shrunk by an area filter. The network then sees the same scene at more scales, and the
        filter removes compression artefacts of the photo itself. With `faces`, `face_share` of the crops contain the
        centre of a face, and the others are of any photo.

        Args:
            rng: all random choices come from it.
            size_px: width and height of the crop.
            largest_shrink: the factor is uniform between 1 and this number; 1 switches shrinking off.

        Returns:
            uint8 [size_px, size_px, 3].
        """
        face = None
        if self.face_share and rng.random() < self.face_share:
            face = self.faces[rng.integers(len(self.faces))]
        chosen = self.training[rng.integers(len(self.training)) if face is None else face.photo]
        photo = _decode(chosen) if isinstance(chosen, Path) else chosen
        limit = min(photo.shape[:2]) / size_px
        shrink = min(rng.uniform(1.0, largest_shrink), limit) if rng.random() < 0.5 else 1.0
        side = min(round(size_px * shrink), *photo.shape[:2])
        height, width = photo.shape[:2]
        top = rng.integers(height - side + 1) if face is None else _position_around(face.y, side, height, rng)
        left = rng.integers(width - side + 1) if face is None else _position_around(face.x, side, width, rng)
        crop = photo[top : top + side, left : left + side]
        if side != size_px:
            crop = reduced(crop, size_px)
        crop = np.rot90(crop, int(rng.integers(4)))
        return np.ascontiguousarray(crop[:, ::-1] if rng.random() < 0.5 else crop)

    def smooth_crop(self, rng: np.random.Generator, size_px: int) -> Pixels:
        """Return the smoothest of `SMOOTH_CANDIDATES` random crops, which are not shrunk, uint8 [size_px, size_px, 3].

        The smoothest crop has the smallest standard deviation of colour after a reduction by `SMOOTH_CELL_PX`. Skin,
        sky and areas out of focus are smooth, with or without grain.
        """
        crops = [self.crop(rng, size_px, largest_shrink=1.0) for _ in range(SMOOTH_CANDIDATES)]
        cells_px = max(size_px // SMOOTH_CELL_PX, 1)
        return min(crops, key=lambda crop: float(reduced(crop, cells_px).std(axis=(0, 1)).sum()))


@dataclass(frozen=True)
class FaceSettings:
    """Faces in the photos of a training, so that more of the crops show a face."""

    table: str = ""
    """Landmark table of the photos, as ``celebahq landmarks`` writes it; empty: all photos are used alike."""
    share: float = 0.75
    """Share of the crops that contain the centre of a face."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share = {self.share} must be a share, 0 to 1")


class TrainingFace(NamedTuple):
    """A face in a training photo."""

    photo: int
    """Index of the photo in `TrainingPhotos.training`."""
    x: int
    y: int
    """Centre of the five landmarks, px of the photo."""


def _find_faces(folder: Path, table: Path, photos: Sequence[Path]) -> tuple[TrainingFace, ...]:
    """Return the faces of a table whose centre is inside one of the photos."""
    indices = {path.relative_to(folder).as_posix(): i for i, path in enumerate(photos)}
    faces = []
    for photo in read_folder(folder, table).photos:
        x, y = (round(sum(photo.landmarks[axis::2]) / 5) for axis in (0, 1))
        if photo.file in indices and min(x, y) >= 0:
            faces.append(TrainingFace(indices[photo.file], x, y))
    if not faces:
        raise TrainingError(f"{table} has no face in the {len(photos)} training photos of {folder}; use their table")
    return tuple(faces)


def _position_around(centre: int, side: int, length: int, rng: np.random.Generator) -> int:
    """Return a random start of a range of `side` px, inside of `length` px, that contains a centre."""
    lowest = min(max(centre - side + 1, 0), length - side)
    highest = max(min(centre, length - side), lowest)
    return int(rng.integers(lowest, highest + 1))


def _read_size(path: Path) -> tuple[int, int]:
    """Return the width and height of a photo in px, from its header."""
    with _readable(path), open_file(path) as file:
        return open_image(file, MAX_IMAGE_PIXELS, PHOTO_LIMIT).size


def _decode(path: Path) -> Pixels:
    with _readable(path):
        return np.asarray(open_rgb(read_file(path), MAX_IMAGE_PIXELS, PHOTO_LIMIT)[0])


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn errors of a photo into a `TrainingError`."""
    try:
        yield
    except UnidentifiedImageError:
        reason = "it is not an image of a known format"
    except Rejection as rejection:
        reason = rejection.detail
    except DECODE_ERRORS as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
    else:
        return
    raise TrainingError(f"training photo {path} cannot be read: {reason}; remove or replace it")


# --- Images and tensors -----------------------------------------------------------------------------------------


def stack_images(images: Sequence[Pixels]) -> Tensor:
    """Return images of one size, uint8 [H, W, 3], as one tensor, uint8 [N, H, W, 3], on the CPU."""
    return torch.from_numpy(np.stack(images))


def to_float(images: Tensor) -> Tensor:
    """Return images, uint8 [N, H, W, 3], as float [N, 3, H, W] in [0, 1], channels last, on their device."""
    return images.permute(0, 3, 1, 2).float().div_(255)


def to_tensor(images: Sequence[Pixels], device: torch.device) -> Tensor:
    """Return images of one size, uint8 [H, W, 3], as a batch, float [N, 3, H, W] in [0, 1], channels last.

    >>> to_tensor([np.full((2, 4, 3), 255, np.uint8)], torch.device("cpu")).shape
    torch.Size([1, 3, 2, 4])
    """
    return to_float(stack_images(images).to(device))


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
