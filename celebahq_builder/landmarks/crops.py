"""Upright crops around five landmarks: the transformation to them, and their pixels."""

from __future__ import annotations

import math
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.geometry import Points, bounding_box, crop_from_landmarks

Matrix = NDArray[np.float64]
"""Affine transformation [2, 3] from pixel positions of a photo to pixel positions of a crop."""

MIRRORED = [1, 0, 2, 4, 3]
"""Order of five landmarks after left and right are exchanged."""

SUPERSAMPLING_MAX = 16
"""Largest number of samples per crop pixel in each direction; very large faces are sampled more coarsely."""


def crop_matrix(
    points: Points, size_px: int, share: float, *, mirror: bool = False, rotation_deg: float = 0.0
) -> Matrix:
    """Return the transformation from a photo to a crop around five landmarks, upright unless it is rotated.

    Args:
        points: landmarks [5, 2], pixel positions.
        size_px: width and height of the crop.
        share: width and height of the crop as a share of the side of CelebA-HQ's crop.
        mirror: exchange left and right of the crop.
        rotation_deg: rotation of the crop in the photo, from the x axis to the y axis.

    Raises:
        ValueError: the points leave the size or the direction of the face undefined.

    Examples:
        >>> points = np.array([[40.0, 50], [60, 50], [50, 65], [42, 80], [58, 80]])
        >>> transform(crop_matrix(points, 96, 0.8), points).round(1).tolist()
        [[36.4, 44.2], [58.6, 44.2], [47.5, 60.8], [38.6, 77.5], [56.4, 77.5]]
        >>> transform(crop_matrix(points, 96, 0.8, mirror=True), points).round(1).tolist()[0]
        [58.6, 44.2]
    """
    quad = crop_from_landmarks(points).quad - 0.5  # from pixel-edge coordinates to pixel positions
    turn = math.radians(rotation_deg)
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    x, y = (quad[3] - quad[0]) @ rotation, (quad[1] - quad[0]) @ rotation
    axes = np.stack([-x if mirror else x, y]) / (x @ x)  # they map the square to widths of 1
    linear = axes * (size_px / share)
    return np.column_stack([linear, (size_px - 1) / 2 - linear @ quad.mean(axis=0)])


def transform(matrix: Matrix, points: Points) -> Points:
    """Return points [N, 2] after an affine transformation."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def inverse(matrix: Matrix) -> Matrix:
    """Return the inverse of an affine transformation."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def sample_crop(image: Pixels, matrix: Matrix, size_px: int) -> Pixels:
    """Return a square crop of a photo.

    A crop that is smaller than its part of the photo is sampled bilinearly at a multiple of its size and reduced by a
    box filter. Positions outside the photo take the nearest pixel.

    Args:
        image: uint8 [H, W, 3].
        matrix: see `Matrix`.
        size_px: width and height of the crop.

    Returns:
        uint8 [size_px, size_px, 3].
    """
    # --- Only the part of the photo that the crop shows; OpenCV takes at most 32767 px
    corners = np.array([[-1.0, -1.0], [size_px, -1.0], [-1.0, size_px], [size_px, size_px]])
    box = np.array(bounding_box(transform(inverse(matrix), corners), margin=2))
    low = np.clip(box[:2], 0, np.array(image.shape[1::-1]) - 1)
    high = np.clip(box[2:], low + 1, image.shape[1::-1])
    part = image[low[1] : high[1], low[0] : high[0]]
    # --- Samples
    shrink = 1 / math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))
    samples = min(max(math.ceil(shrink - 0.35), 1), SUPERSAMPLING_MAX)
    fine = matrix * samples
    fine[:, 2] += (samples - 1) / 2 + fine[:, :2] @ low
    size = (samples * size_px, samples * size_px)
    crop = cv2.warpAffine(part, fine, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if samples > 1:
        crop = cv2.resize(crop, (size_px, size_px), interpolation=cv2.INTER_AREA)
    return cast(Pixels, crop)
