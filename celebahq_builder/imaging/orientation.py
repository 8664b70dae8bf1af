"""EXIF orientation: images and landmarks as stored and upright.

A position is (x, y) in px; (0, 0) is the centre of the first pixel. The upright image is the stored one, transposed if
the orientation is 5 to 8, and then mirrored horizontally, vertically, both or not at all.
"""

from __future__ import annotations

import numpy as np

from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.geometry import Points

MIRRORED = [1, 0, 2, 4, 3]
"""Order of five landmarks after left and right are exchanged."""

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


def upright(image: Pixels, orientation: int) -> Pixels:
    """Return an image [H, W, 3] as a viewer shows it; a view of the same pixels.

    >>> upright(np.array([[[1], [2], [3]]], np.uint8), 6)[..., 0].tolist()
    [[1], [2], [3]]
    """
    transpose, horizontal, vertical = _FLIPS[orientation]
    if transpose:
        image = image.transpose(1, 0, 2)
    return image[:: -1 if vertical else 1, :: -1 if horizontal else 1]


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return the width and height of the upright image; `size` is that of the stored image.

    >>> upright_size((3, 1), 6)
    (1, 3)
    """
    return size[::-1] if _FLIPS[orientation][0] else size


def to_upright(landmarks: Points, size: tuple[int, int], orientation: int) -> Points:
    """Return landmarks [5, 2] of the stored image, whose width and height are `size`, in the upright image."""
    stored = landmarks[:, ::-1] if _FLIPS[orientation][0] else landmarks
    return _flipped(stored, size, orientation)


def to_stored(landmarks: Points, size: tuple[int, int], orientation: int) -> Points:
    """Return landmarks [5, 2] of the upright image in the stored image, whose width and height are `size`.

    >>> points = np.array([[0.0, 1], [0, 2], [0, 3], [0, 4], [0, 5]])
    >>> to_stored(points, (9, 1), 6)[0].tolist()
    [1.0, 0.0]
    """
    flipped = _flipped(landmarks, size, orientation)
    return flipped[:, ::-1] if _FLIPS[orientation][0] else flipped


def _flipped(landmarks: Points, size: tuple[int, int], orientation: int) -> Points:
    """Return mirrored landmarks in the order that fits: a mirrored image exchanges the left and the right eye."""
    _, horizontal, vertical = _FLIPS[orientation]
    width, height = upright_size(size, orientation)
    x, y = landmarks.T
    flipped = np.stack([width - 1 - x if horizontal else x, height - 1 - y if vertical else y], axis=1)
    return flipped[MIRRORED] if sum(_FLIPS[orientation]) % 2 else flipped
