"""EXIF orientation: from the image as stored to the upright image, and back.

A position is (x, y) in px; (0, 0) is the centre of the first pixel. The upright image is the stored one, transposed if
the orientation is 5 to 8, and then mirrored horizontally, vertically, both or not at all.
"""

from __future__ import annotations

import numpy as np

from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.geometry import Points

_FLIPS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
"""By EXIF orientation: whether to transpose, to mirror horizontally, and to mirror vertically."""


def checked(orientation: object) -> int:
    """Return an EXIF orientation; 1, which is upright, for a value that is none.

    >>> checked(6), checked(0), checked("6")
    (6, 1, 1)
    """
    return orientation if isinstance(orientation, int) and orientation in _FLIPS else 1


def is_mirrored(orientation: int) -> bool:
    """Return whether an orientation exchanges left and right.

    >>> [one for one in range(1, 9) if is_mirrored(one)]
    [2, 4, 5, 7]
    """
    return sum(_FLIPS[orientation]) % 2 == 1


def upright(image: Pixels, orientation: int) -> Pixels:
    """Return an image [H, W, 3] as a viewer shows it; a view of the same pixels.

    >>> upright(np.array([[[1], [2], [3]]], np.uint8), 6)[..., 0].tolist()
    [[1], [2], [3]]
    """
    transpose, horizontal, vertical = _FLIPS[orientation]
    if transpose:
        image = image.transpose(1, 0, 2)
    return image[:: -1 if vertical else 1, :: -1 if horizontal else 1]


def to_upright(points: Points, size: tuple[int, int], orientation: int) -> Points:
    """Return positions [N, 2] of the stored image, whose width and height are `size`, in the upright image."""
    transpose, horizontal, vertical = _FLIPS[orientation]
    x, y = points.T[::-1] if transpose else points.T
    width, height = size[::-1] if transpose else size
    return np.stack([width - 1 - x if horizontal else x, height - 1 - y if vertical else y], axis=1)


def to_stored(points: Points, size: tuple[int, int], orientation: int) -> Points:
    """Return positions [N, 2] of the upright image in the stored image, whose width and height are `size`.

    >>> to_stored(np.array([[0.0, 1.0]]), (3, 1), 6).tolist()
    [[1.0, 0.0]]
    """
    transpose, horizontal, vertical = _FLIPS[orientation]
    width, height = size[::-1] if transpose else size
    x, y = points.T
    there = np.stack([width - 1 - x if horizontal else x, height - 1 - y if vertical else y], axis=1)
    return there[:, ::-1] if transpose else there
