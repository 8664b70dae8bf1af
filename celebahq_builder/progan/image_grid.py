"""Image grids: images of one size in rows and columns, as one image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.storage import write_atomic

Pixels = NDArray[np.uint8]

SIDE_MAX_PX = 8192
"""Largest width and height of a grid that `fit_grid` allows."""


def image_grid(images: Pixels, columns: int) -> Pixels:
    """Return images as one image, row by row from the top left; empty places are black.

    Shapes: uint8 [N, C, H, W] -> uint8 [C, rows H, columns W], rows = ceil(N / columns).

    >>> image_grid(np.array([1, 2, 3], np.uint8).reshape(3, 1, 1, 1), columns=2).tolist()
    [[[1, 2], [3, 0]]]
    """
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    cells = np.zeros((rows * columns, channels, height, width), np.uint8)
    cells[:count] = images
    grid = cells.reshape(rows, columns, channels, height, width).transpose(2, 0, 3, 1, 4)
    return grid.reshape(channels, rows * height, columns * width)


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


def write_png(path: Path, image: Pixels) -> None:
    """Write an image uint8 [C, H, W], RGB or grey, as a PNG file of RGB, atomically.

    Raises:
        DiskFull: no space is left.
    """
    write_atomic(path, png_bytes(image))
