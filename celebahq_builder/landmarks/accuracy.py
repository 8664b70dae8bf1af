"""Errors of landmarks against true ones, and of the crop that follows from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from celebahq_builder.imaging.geometry import Points, crop_from_landmarks


@dataclass(frozen=True)
class LandmarkErrors:
    """Errors of the landmarks of one face, or medians of many faces."""

    nme: float
    """Normalized mean error: the mean distance between found and true landmarks as a share of the true eye distance."""
    side_percent: float
    """Error of the side of CelebA-HQ's crop, in per cent of the true side."""
    rotation_deg: float
    """Angle between the crop and the true one."""


def landmark_errors(found: Points, true: Points) -> LandmarkErrors:
    """Return the errors of landmarks.

    Args:
        found: landmarks [5, 2], px, in CelebA's order.
        true: landmarks [5, 2].

    Raises:
        ValueError: the landmarks leave the size or the direction of a face undefined.

    Examples:
        >>> true = np.array([[40.0, 50], [60, 50], [50, 65], [42, 80], [58, 80]])
        >>> landmark_errors(true + [2, 0], true)
        LandmarkErrors(nme=0.1, side_percent=0.0, rotation_deg=0.0)
    """
    distance = np.hypot(*(found - true).T).mean() / np.hypot(*(true[1] - true[0]))
    crop, expected = crop_from_landmarks(found), crop_from_landmarks(true)
    side_percent = 100 * abs(crop.side / expected.side - 1)
    x, y = (one.quad[3] - one.quad[0] for one in (crop, expected))
    rotation = np.degrees(np.arctan2(x[0] * y[1] - x[1] * y[0], x @ y))
    return LandmarkErrors(float(distance), side_percent, abs(float(rotation)))


def median_errors(errors: Iterable[LandmarkErrors]) -> LandmarkErrors:
    """Return the median of each error over some faces."""
    table = np.array([(one.nme, one.side_percent, one.rotation_deg) for one in errors])
    return LandmarkErrors(*np.median(table, axis=0).tolist())
