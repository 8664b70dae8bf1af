"""Geometry of the crop: from five landmarks to the oriented square of CelebA-HQ, and the padding that it needs.

Points are (x, y) in px. A landmark is a pixel position: (0, 0) is the centre of the photo's first pixel. Everything
else uses pixel-edge coordinates: (0, 0) is the photo's top left corner and (width, height) its bottom right one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.outcome import Reason, Rejection

Points = NDArray[np.float64]
"""Any number of points, float64 [N, 2]."""


@dataclass(frozen=True)
class Crop:
    """An oriented square in a photo."""

    quad: Points
    """Corners [4, 2] in pixel-edge coordinates: top left, bottom left, bottom right, top right of the result."""

    @property
    def side(self) -> float:
        """Side length of the square in px."""
        return float(np.hypot(*(self.quad[3] - self.quad[0])))

    def turn_deg(self, other: Crop) -> float:
        """Return the angle between this square and another one in degrees, 0 to 180."""
        (x, y), (u, v) = self.quad[3] - self.quad[0], other.quad[3] - other.quad[0]
        return float(abs(np.rad2deg(np.arctan2(x * v - y * u, x * u + y * v))))

    def zoom(self, resolution: int) -> float:
        """Return the result pixels per photo pixel; above 1 the photo has fewer pixels than the result."""
        return resolution / self.side


def crop_from_landmarks(landmarks: Points) -> Crop:
    """Return the square that CelebA-HQ crops around a face.

    Let e be the vector from the left to the right eye, v the vector from the midpoint of the eyes to the midpoint of
    the mouth, and rot90((x, y)) = (-y, x). The square has its centre at the midpoint of the eyes + 0.1 v, half the
    side length max(2 |e|, 1.8 |v|), its x axis along e - rot90(v), and its y axis along rot90 of the x axis.

    Args:
        landmarks: five points [5, 2] in px, as pixel positions: left eye, right eye, nose, left and right corner of
            the mouth; left and right as the viewer sees them. The nose is not used.

    Raises:
        ValueError: the landmarks leave the size or the direction undefined.

    References:
        Karras et al. 2018, "Progressive Growing of GANs", appendix C. Signs and the order of the corners are those
        of the authors' public tool.

    Examples:
        The eyes are 20 px apart and the mouth is 30 px below them, so half a side is max(40, 54) px.

        >>> crop = crop_from_landmarks(np.array([[40, 50], [60, 50], [50, 65], [42, 80], [58, 80]]))
        >>> crop.quad.round(6).tolist()
        [[-3.5, -0.5], [-3.5, 107.5], [104.5, 107.5], [104.5, -0.5]]
        >>> round(crop.zoom(1024), 2)
        9.48
    """
    points = np.asarray(landmarks, dtype=np.float64)
    eyes = (points[0] + points[1]) / 2 + 0.5  # from pixel positions to pixel-edge coordinates
    mouth = (points[3] + points[4]) / 2 + 0.5
    eye_to_eye = points[1] - points[0]
    eye_to_mouth = mouth - eyes
    x = eye_to_eye - rot90(eye_to_mouth)
    length = float(np.hypot(*x))
    if not np.isfinite(length) or length < 1e-6 or np.hypot(*eye_to_eye) < 1.0:
        raise ValueError(
            f"the eyes are {np.hypot(*eye_to_eye):.1f} px apart and the mouth is {np.hypot(*eye_to_mouth):.1f} px below"
        )
    x *= max(2.0 * np.hypot(*eye_to_eye), 1.8 * np.hypot(*eye_to_mouth)) / length
    y = rot90(x)
    centre = eyes + 0.1 * eye_to_mouth
    return Crop(np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y]))


def normalized_mean_error(found: Points, true: Points) -> float:
    """Return the mean distance between found and true landmarks [5, 2] as a share of the true distance of the eyes."""
    return float(np.hypot(*(found - true).T).mean() / np.hypot(*(true[1] - true[0])))


def plan_crop(
    landmarks: Points,
    width: int,
    height: int,
    *,
    crop_min_px: float,
    inside_min: float,
    landmarks_outside_max: float = 0.0,
) -> Crop:
    """Return the crop around a face, if the landmarks and the crop are good enough.

    Args:
        landmarks: see `crop_from_landmarks`.
        width: of the photo in px.
        height: of the photo in px.
        crop_min_px: smallest side length of the crop, in photo px.
        inside_min: smallest share of the crop that must lie inside the photo.
        landmarks_outside_max: largest distance of a landmark outside the photo, in side lengths of the crop.

    Raises:
        Rejection: they are not.
    """
    try:
        crop = crop_from_landmarks(landmarks)
    except ValueError as error:
        raise Rejection(Reason.DEGENERATE_LANDMARKS, f"{error}; the crop is undefined") from None
    beyond = np.maximum(-0.5 - landmarks, landmarks - (width - 0.5, height - 0.5)).max()
    if beyond > landmarks_outside_max * crop.side:
        raise Rejection(
            Reason.LANDMARKS_OUTSIDE, f"a landmark lies {beyond:.0f} px outside the photo of {width} x {height} px"
        )
    if crop.side < crop_min_px:
        raise Rejection(Reason.CROP_TOO_SMALL, f"the crop is {crop.side:.0f} px wide; crop.crop_min_px = {crop_min_px}")
    inside = share_inside(crop.quad, width, height)
    if inside < inside_min:
        raise Rejection(
            Reason.CROP_OUTSIDE, f"{inside:.0%} of the crop is inside the photo; crop.inside_min = {inside_min}"
        )
    return crop


def rot90(vector: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return (-y, x) of a vector (x, y): a quarter turn from the x axis to the y axis."""
    return np.array([-vector[1], vector[0]], dtype=vector.dtype)


def bounding_box(quad: NDArray[np.floating], margin: float = 0.0) -> tuple[int, int, int, int]:
    """Return the smallest box of whole pixels around a quad [4, 2] and a margin in px: (left, top, right, bottom).

    >>> bounding_box(np.array([[1.5, 2.0], [1.5, 4.25], [3.75, 4.25], [3.75, 2.0]]), margin=3)
    (-2, -1, 7, 8)
    """
    low = np.floor(quad.min(axis=0) - margin)
    high = np.ceil(quad.max(axis=0) + margin)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def share_inside(quad: Points, width: int, height: int, samples: int = 64) -> float:
    """Return the share of a quad's area that lies inside a photo, estimated on a regular grid of points.

    Args:
        quad: corners [4, 2] of a parallelogram, pixel-edge coordinates.
        width: of the photo in px.
        height: of the photo in px.
        samples: points of the grid in each direction.

    Returns:
        From 0 to 1.

    Examples:
        >>> share_inside(np.array([[-10.0, 0.0], [-10.0, 40.0], [30.0, 40.0], [30.0, 0.0]]), 100, 100)
        0.75
    """
    steps = (np.arange(samples) + 0.5) / samples
    down, right = np.meshgrid(steps, steps, indexing="ij")
    points = quad[0] + down[..., None] * (quad[1] - quad[0]) + right[..., None] * (quad[3] - quad[0])
    return float(((points >= 0) & (points <= (width, height))).all(axis=-1).mean())


@dataclass(frozen=True)
class PaddingPlan:
    """Pixels to add on each side of an image."""

    left: int
    top: int
    right: int
    bottom: int


def plan_padding(quad: NDArray[np.floating], width: int, height: int, border: int, pad_min: int) -> PaddingPlan | None:
    """Return the padding that makes room for a crop and its border, or None if the crop needs none.

    Args:
        quad: corners [4, 2] of the crop in px, pixel-edge coordinates.
        width: of the image in px.
        height: of the image in px.
        border: px around the crop's bounding box that should exist.
        pad_min: smallest padding in px, about 0.3 of the side length of the crop, which leaves room for the fade.

    Returns:
        None if the crop stays at least 4 px inside the image.

    Examples:
        >>> plan_padding(np.array([[-20, 5], [-20, 65], [40, 65], [40, 5]], float), 100, 80, border=6, pad_min=18)
        PaddingPlan(left=26, top=18, right=18, bottom=18)
    """
    left, top, right, bottom = bounding_box(quad)
    needed = [max(px + border, 0) for px in (-left, -top, right - width, bottom - height)]
    if max(needed) <= border - 4:
        return None
    return PaddingPlan(*(max(px, pad_min) for px in needed))


def centred_square(width: int, height: int) -> tuple[int, int, int]:
    """Return the largest centred square of an image: left, top and side length in px.

    Where the margins are odd, the square lies half a pixel to the left of the centre, or above it.

    >>> centred_square(7, 4)
    (1, 0, 4)
    """
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side
