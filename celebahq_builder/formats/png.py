"""PNG files of pictures in RGB or grey, quickly made and small."""

from __future__ import annotations

import cv2
import numpy as np

from celebahq_builder.formats.pictures import Pixels

LEVEL = 1
"""Of zlib. On faces of 1024x1024, higher ones take twice as long and save a few per cent."""

FILTER = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP] if hasattr(cv2, "IMWRITE_PNG_FILTER") else []
"""Row filter "up", where OpenCV is new enough to be told: half the time of its own choice, and smaller on faces."""


def encode(pixels: Pixels, level: int = LEVEL) -> bytes:
    """Return a PNG file, the same bytes for the same pixels.

    Args:
        pixels: uint8 [C, R, R], 3 channels RGB or 1 of grey.
        level: zlib's, 0 (none) to 9 (small).
    """
    image = np.ascontiguousarray(pixels[::-1].transpose(1, 2, 0))  # OpenCV wants BGR
    done, coded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, level, *FILTER])
    if not done:
        raise ValueError(f"cannot encode pixels of shape {pixels.shape} and type {pixels.dtype} as PNG")
    return coded.tobytes()
