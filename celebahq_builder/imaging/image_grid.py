"""Image grids: images of one size in rows and columns, as one image."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from celebahq_builder.image_set import Pixels

SIDE_MAX_PX = 8192
"""Largest width and height of a grid that `fit_grid` allows."""


def image_grid(images: Iterable[Pixels], columns: int, rows: int | None = None, gap_px: int = 0) -> Pixels:
    """Return images as one image, row by row from the top left.

    Args:
        images: N images of one size, uint8 [C, H, W].
        columns: images in a row.
        rows: number of rows; None takes ceil(N / columns). With a number, one image is held at a time.
        gap_px: width of the white gaps between images. Empty places are white with gaps, and black without.

    Returns:
        uint8 [C, rows (H + gap) - gap, columns (W + gap) - gap].

    Examples:
        >>> images = np.array([1, 2, 3], np.uint8).reshape(3, 1, 1, 1)
        >>> image_grid(images, columns=2).tolist()
        [[[1, 2], [3, 0]]]
        >>> image_grid(images, columns=2, gap_px=1).tolist()
        [[[1, 255, 2], [255, 255, 255], [3, 255, 255]]]
    """
    if rows is None:
        images = list(images)
        rows = -(-len(images) // columns)
    grid = np.empty(0, np.uint8)
    for place, image in enumerate(images):
        channels, height, width = image.shape
        step_y, step_x = height + gap_px, width + gap_px
        if place == 0:
            size = (rows * step_y - gap_px, columns * step_x - gap_px, channels)
            grid = np.full(size, 255 if gap_px else 0, np.uint8).transpose(2, 0, 1)  # in memory as encoders take it
        top, left = place // columns * step_y, place % columns * step_x
        grid[:, top : top + height, left : left + width] = image
    return grid


def fit_grid(columns: int, rows: int, resolution: int) -> tuple[int, int]:
    """Return the columns and rows of a grid, reduced to `SIDE_MAX_PX` where necessary.

    >>> fit_grid(15, 8, 1024)
    (8, 8)
    """
    most = max(1, SIDE_MAX_PX // resolution)
    return min(columns, most), min(rows, most)


def to_rgb(image: Pixels) -> Pixels:
    """Return an image [C, H, W] of 1 or 3 channels as RGB, [H, W, 3], for encoders."""
    return np.ascontiguousarray(np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0))


def png_bytes(image: Pixels) -> bytes:
    """Return an image uint8 [C, H, W], RGB or grey, as a PNG file of RGB."""
    done, encoded = cv2.imencode(".png", cv2.cvtColor(to_rgb(image), cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"an image of {image.shape} cannot be encoded as PNG")
    return encoded.tobytes()
