"""From five landmarks to the oriented square crop of CelebA-HQ.

Points are (x, y). Landmarks are pixel positions: (0, 0) is the centre of the photo's first pixel. Everything
else here is in pixel-edge coordinates: (0, 0) is the photo's corner, (W, H) the opposite one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""Any number of points, float64 [N, 2]."""

LANDMARKS = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
"""Names and order of CelebA's landmarks; left and right as the viewer sees them."""


@dataclass(frozen=True)
class Crop:
    """An oriented square in a photo."""

    quad: Points
    """Corners [4, 2]: top left, bottom left, bottom right, top right of the result."""

    @property
    def side(self) -> float:
        """Side of the square in px."""
        return float(np.hypot(*(self.quad[3] - self.quad[0])))

    def zoom(self, resolution: int) -> float:
        """Result pixels per photo pixel: above 1 the photo has too few."""
        return resolution / self.side


def crop_from_landmarks(landmarks: Points) -> Crop:
    """Return the crop that CelebA-HQ takes around a face.

    Args:
        landmarks: [5, 2] in the order of `LANDMARKS`, px.

    Returns:
        The square of Karras et al. 2018, appendix C, with the sign of the authors' public tool:
        centre (e0+e1)/2 + 0.1 v, half side max(2 |e|, 1.8 |v|), where e runs from eye to eye and v from between
        the eyes to the middle of the mouth; x axis along e - rot90(v), rot90((x, y)) = (-y, x).

    Raises:
        ValueError: the landmarks leave size or direction undefined.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    eyes = (points[0] + points[1]) / 2 + 0.5  # centre of a pixel -> its distance from the photo's corner
    mouth = (points[3] + points[4]) / 2 + 0.5
    eye_to_eye = points[1] - points[0]
    eye_to_mouth = mouth - eyes
    x = eye_to_eye - _rot90(eye_to_mouth)
    length = float(np.hypot(*x))
    if not np.isfinite(length) or length < 1e-6 or np.hypot(*eye_to_eye) < 1.0:
        raise ValueError(
            f"the eyes are {np.hypot(*eye_to_eye):.1f} px apart and the mouth is {np.hypot(*eye_to_mouth):.1f} px below"
        )
    x *= max(2.0 * np.hypot(*eye_to_eye), 1.8 * np.hypot(*eye_to_mouth)) / length
    y = _rot90(x)
    centre = eyes + 0.1 * eye_to_mouth
    return Crop(np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y]))


def bounding_box(quad: Points, margin: float = 0.0) -> tuple[int, int, int, int]:
    """Return the smallest box of whole pixels around a quad and a margin: (left, top, right, bottom)."""
    low = np.floor(quad.min(axis=0) - margin)
    high = np.ceil(quad.max(axis=0) + margin)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def share_inside(quad: Points, width: int, height: int, samples: int = 64) -> float:
    """Return the share of a quad's area, in [0, 1], that lies inside a photo of `width` x `height` px.

    It is measured on a regular grid of `samples` x `samples` points.
    """
    steps = (np.arange(samples) + 0.5) / samples
    down, right = np.meshgrid(steps, steps, indexing="ij")
    points = quad[0] + down[..., None] * (quad[1] - quad[0]) + right[..., None] * (quad[3] - quad[0])
    return float(((points >= 0) & (points <= (width, height))).all(axis=-1).mean())


def _rot90(vector: Points) -> Points:
    return np.array([-vector[1], vector[0]])


def centred_square(width: int, height: int) -> tuple[int, int, int]:
    """Return the largest square in the middle of an image: left, top and side, px.

    Where it cannot be in the very middle, it is half a pixel further to the left, or up.
    """
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side
