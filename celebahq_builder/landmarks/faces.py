"""Faces from which the landmark network learns: crops with true landmarks, and random changes of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import TrainingError
from celebahq_builder.image_set import Pixels, photo_path
from celebahq_builder.imaging.geometry import Points, crop_from_landmarks
from celebahq_builder.imaging.image_io import open_rgb
from celebahq_builder.imaging.orientation import MIRRORED
from celebahq_builder.landmarks.crops import crop_matrix, sample_crop, transform
from celebahq_builder.landmarks.refiner import CROP_PX, CROP_SHARE
from celebahq_builder.limits import MAX_IMAGE_PIXELS
from celebahq_builder.outcome import Rejection
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.photo import Photo, is_mirrored
from celebahq_builder.storage import read_file, sha256
from celebahq_builder.training.interface import IN_MEMORY_BYTES, PHOTO_LIMIT, Photos, split

log = logging.getLogger(__name__)

CONTEXT_PX = 208
"""Width and height of the crops that are kept of photos. Their pixels are a little smaller than the network's."""

CONTEXT_SHARE = 1.6
"""Width and height of these crops as a share of the side of CelebA-HQ's crop: they hold all augmented crops."""

Face = tuple[Pixels, Points]
"""A crop around a face, uint8 [CONTEXT_PX, CONTEXT_PX, 3], RGB, and its true landmarks [5, 2]."""


@dataclass(frozen=True)
class LandmarkFaces(Photos):
    """The faces of a folder, split into training faces and held-out faces."""

    folder: Path
    """Folder of the photos."""
    training: tuple[Face | Photo, ...]
    """Crops, or photos that are decoded for every use."""
    held_out: tuple[Face, ...]
    digest: str
    """Hash of the names and landmarks of all faces; it identifies them in a checkpoint."""

    @classmethod
    def read(cls, root: Path, *, held_out: int, in_memory_bytes: int = IN_MEMORY_BYTES) -> LandmarkFaces:
        """Read a folder in CelebA's layout.

        Rows that cannot be used, missing files and damaged photos are left out and logged.

        Args:
            root: see `sources.celeba.read_celeba`.
            held_out: number of photos for validation; see `training.interface.split`.
            in_memory_bytes: see `IN_MEMORY_BYTES`.

        Raises:
            SourceError: the folder cannot be read.
            TrainingError: fewer than 2 * `held_out` photos can be used.
        """
        source = read_celeba(root)
        left_out = [f"{one.photo}: {one.detail}" for one in source.rejected]
        photos = []
        for photo in source.photos:
            if problem := _problem(source.folder, photo):
                left_out.append(f"{photo.file}: {problem}")
            else:
                photos.append(photo)
        if len(photos) < 2 * held_out:
            raise TrainingError(
                f"`celeba_root` {root}: {len(photos)} of {len(photos) + len(left_out)} photos can be used"
                + (f" (the first problem is {left_out[0]})" if left_out else "")
                + f"; training needs {2 * held_out} or more, twice held_out of the recipe"
            )
        training, validation = split(photos, held_out)
        kept = in_memory_bytes // (3 * CONTEXT_PX**2)
        listing = "".join(f"{photo.file} {photo.landmarks}\n" for photo in photos)
        faces = cls(
            source.folder,
            (*_read_faces(source.folder, training[:kept], left_out), *training[kept:]),
            tuple(_read_faces(source.folder, validation, left_out)),
            sha256(listing.encode())[:16],
        )
        if left_out:
            log.warning("warning: %d photos or rows are left out, the first is %s", len(left_out), left_out[0])
        if not faces.training or not faces.held_out:
            raise TrainingError(f"`celeba_root` {root}: no photo can be decoded; the first is {left_out[-1]}")
        return faces

    def face(self, index: int) -> Face:
        """Return a training face.

        Raises:
            TrainingError: the photo is decoded now, and is damaged.
        """
        face = self.training[index]
        if not isinstance(face, Photo):
            return face
        try:
            return _read_face(self.folder, face)
        except _Unreadable as error:
            raise TrainingError(
                f"training photo {photo_path(self.folder, face.file)} cannot be read: {error}; replace it, or remove "
                "its row from the landmark table"
            ) from None


class _Unreadable(Exception):
    """A photo cannot be decoded."""


def _problem(folder: Path, photo: Photo) -> str:
    """Return why the network cannot learn from a photo; an empty string if it can."""
    if not photo_path(folder, photo.file).is_file():
        return "the file is missing"
    if is_mirrored(photo.landmarks):
        return "the face is mirrored"
    try:
        crop_matrix(photo.points, CONTEXT_PX, CONTEXT_SHARE)
    except ValueError as error:
        return str(error)
    return ""


def _read_faces(folder: Path, photos: Iterable[Photo], left_out: list[str]) -> list[Face]:
    """Return the crops of photos; the names and problems of damaged ones are added to `left_out`."""
    faces = []
    for photo in photos:
        try:
            faces.append(_read_face(folder, photo))
        except _Unreadable as error:
            left_out.append(f"{photo.file}: {error}")
    return faces


def _read_face(folder: Path, photo: Photo) -> Face:
    """Return the crop of a photo and its landmarks, or raise `_Unreadable`."""
    try:
        image, _ = open_rgb(read_file(photo_path(folder, photo.file)), MAX_IMAGE_PIXELS, PHOTO_LIMIT)
    except Rejection as error:
        raise _Unreadable(error.detail) from None
    except OSError as error:
        raise _Unreadable(error.strerror or str(error)) from None
    matrix = crop_matrix(photo.points, CONTEXT_PX, CONTEXT_SHARE)
    return sample_crop(np.asarray(image), matrix, CONTEXT_PX), transform(matrix, photo.points)


@dataclass(frozen=True)
class AugmentationSettings:
    """Strength and frequency of the changes. Shares are probabilities, in [0, 1]."""

    shift: float = 0.1
    """Largest shift of the first points along each axis, as a share of the side of CelebA-HQ's crop."""
    scale: float = 0.15
    """Largest logarithm of the change of their distances."""
    rotation_deg: float = 20.0
    """Largest rotation of the first points."""
    mirror_share: float = 0.5
    colour_share: float = 0.8
    """Share with other brightness, contrast and colour balance."""
    grey_share: float = 0.2
    blur_share: float = 0.3
    coarse_share: float = 0.2
    """Share that is scaled down and up again, as in a photo of few pixels."""
    noise_share: float = 0.3
    jpeg_share: float = 0.4
    occlusion_share: float = 0.4
    """Share with a rectangle that hides a part of the crop."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_share") and not 0 <= value <= 1:
                raise ValueError(f"{name} = {value} must be a share, 0 to 1")
        for name, largest in (("shift", 0.2), ("scale", 0.3), ("rotation_deg", 45.0)):
            if not 0 <= getattr(self, name) <= largest:
                raise ValueError(f"{name} = {getattr(self, name)} must be from 0 to {largest:g}")


def random_crop(
    image: Pixels, points: Points, settings: AugmentationSettings, rng: np.random.Generator
) -> tuple[Pixels, Points]:
    """Return a training example: a changed crop around the landmarks of a face, and the landmarks in it.

    Args:
        image: uint8 [H, W, 3], RGB.
        points: landmarks [5, 2], pixel positions.
        rng: all random choices come from it.

    Returns:
        uint8 [CROP_PX, CROP_PX, 3], and its landmarks in CelebA's order as the viewer sees them, [5, 2].
    """
    mirror = bool(rng.random() < settings.mirror_share)
    matrix = crop_matrix(jittered_points(points, settings, rng), CROP_PX, CROP_SHARE, mirror=mirror)
    crop, landmarks = sample_crop(image, matrix, CROP_PX), transform(matrix, points)
    levels = _recoloured(crop.astype(np.float32), settings, rng)
    levels = _coarsened(levels, settings, rng)
    changed = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    if rng.random() < settings.jpeg_share:
        quality = int(rng.integers(20, 95))
        _, data = cv2.imencode(".jpg", changed[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        changed = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), np.uint8)
    if rng.random() < settings.occlusion_share:
        _occlude(changed, rng)
    return changed, landmarks[MIRRORED] if mirror else landmarks


def jittered_points(points: Points, settings: AugmentationSettings, rng: np.random.Generator) -> Points:
    """Return landmarks [5, 2] after a random shift, scale and rotation, which stand for the error of first points.

    >>> still = AugmentationSettings(shift=0, scale=0, rotation_deg=0)
    >>> points = np.array([[40.0, 50], [60, 50], [50, 65], [42, 80], [58, 80]])
    >>> np.allclose(jittered_points(points, still, np.random.default_rng(0)), points)
    True
    """
    crop = crop_from_landmarks(points)
    centre = crop.quad.mean(axis=0) - 0.5
    shift = crop.side * rng.uniform(-settings.shift, settings.shift, 2)
    zoom = math.exp(rng.uniform(-settings.scale, settings.scale))
    angle = math.radians(rng.uniform(-settings.rotation_deg, settings.rotation_deg))
    linear = zoom * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return transform(np.column_stack([linear, centre + shift - linear @ centre]), points)


def _recoloured(
    levels: NDArray[np.float32], settings: AugmentationSettings, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return grey levels with other brightness, contrast and colour balance."""
    if rng.random() < settings.colour_share:
        gain = rng.uniform(0.6, 1.4) * rng.uniform(0.85, 1.15, 3)
        contrast = rng.uniform(0.6, 1.4)
        mean = levels.mean()
        levels = (levels - mean) * (gain * contrast).astype(np.float32)
        levels += (mean * gain + rng.uniform(-30, 30)).astype(np.float32)
    if rng.random() < settings.grey_share:
        levels = np.repeat(levels.mean(axis=2, keepdims=True), 3, axis=2)
    return levels


def _coarsened(
    levels: NDArray[np.float32], settings: AugmentationSettings, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return grey levels after blur, rescaling and noise."""
    if rng.random() < settings.blur_share:
        levels = np.asarray(cv2.GaussianBlur(levels, (0, 0), rng.uniform(0.3, 2.0)), np.float32)
    if rng.random() < settings.coarse_share:
        small_px = int(rng.integers(CROP_PX // 4, CROP_PX * 3 // 4))
        small = cv2.resize(levels, (small_px, small_px), interpolation=cv2.INTER_AREA)
        levels = np.asarray(cv2.resize(small, (CROP_PX, CROP_PX), interpolation=cv2.INTER_LINEAR), np.float32)
    if rng.random() < settings.noise_share:
        levels = levels + rng.uniform(1, 10) * rng.standard_normal(levels.shape, dtype=np.float32)
    return levels.astype(np.float32, copy=False)


def _occlude(crop: Pixels, rng: np.random.Generator) -> None:
    """Fill a rectangle of a crop with one colour, its own mean or a random one."""
    width, height = rng.uniform(0.1, 0.4, 2) * CROP_PX
    left, top = rng.uniform(-0.1, 1.0, 2) * CROP_PX
    colour = rng.integers(0, 256, 3) if rng.random() < 0.5 else crop.mean(axis=(0, 1))
    rows, columns = (slice(max(int(a), 0), max(int(a + b), 0)) for a, b in ((top, height), (left, width)))
    crop[rows, columns] = colour
