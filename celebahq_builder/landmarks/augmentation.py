"""Random changes of the crops from which the landmark network learns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.geometry import Points, crop_from_landmarks
from celebahq_builder.landmarks.crops import MIRRORED, crop_matrix, sample_crop, transform
from celebahq_builder.landmarks.refiner import CROP_PX, CROP_SHARE


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
        settings: strength and frequency of the changes.
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
    return changed, landmarks[list(MIRRORED)] if mirror else landmarks


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
