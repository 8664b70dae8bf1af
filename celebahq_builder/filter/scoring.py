"""The score of an image of any size: its centred square, at one size, by its power spectrum."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft

from celebahq_builder.imaging.geometry import centred_square
from celebahq_builder.imaging.quality_score import QualityScore, quality_score

SIDE_PX = 1024
"""Side that every image is scored at: that of CelebA-HQ, so an image of it has the score that its build gave it."""

VERSION = 1
"""Of the way to that size; what the score is then made of has the version of the stage `score`."""


def score_image(image: NDArray[Any]) -> QualityScore:
    """Score an image of any size by the power spectrum of its centred square, resampled to 1024x1024.

    Sizes compare because all are judged as 1024x1024: a larger square is reduced by the exact mean of the area
    that each pixel covers (cv2.INTER_AREA), so that what its surplus pixels show is neither lost to aliasing nor
    an advantage; a smaller one is enlarged by continuing its cosine transform with zeros, which adds nothing above
    the image's own Nyquist frequency, so that the detail it lacks is seen to be lacking. A square of just that
    size is taken as it is. A square of less than 64 px has nothing in the band that is scored, and scores 0. See
    `imaging.spectrum.quality_score` for the formula.

    Args:
        image: RGB [H, W, 3] or grey [H, W], of at least 1x1 px; uint8, or float in [0, 1].

    Returns:
        The score and its components, all in [0, 1], higher is better.

    Raises:
        TypeError: values of another type.
        ValueError: another shape, no pixels, or floats that are not in [0, 1].
    """
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise ValueError(f"score_image: expected pixels of shape [H, W, 3] or [H, W], got {list(image.shape)}")
    left, top, side = centred_square(image.shape[1], image.shape[0])
    square = _resampled(_checked(image[top : top + side, left : left + side]))
    rgb = square if square.ndim == 3 else np.stack([square] * 3, axis=-1)
    return quality_score(torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))))


def _checked(square: NDArray[Any]) -> NDArray[Any]:
    """Return uint8 as it is, and floats as float32 in [0, 255]."""
    if square.dtype == np.uint8:
        return square
    if not np.issubdtype(square.dtype, np.floating):
        raise TypeError(f"score_image: expected uint8, or float in [0, 1], got {square.dtype}")
    low, high = float(square.min()), float(square.max())
    if not (low >= 0 and high <= 1):  # said so, not the other way round, because of NaN
        raise ValueError(f"score_image: expected floats in [0, 1], got {low:g} to {high:g}")
    return square.astype(np.float32) * np.float32(255)


def _resampled(square: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a square at the size of scoring, uint8."""
    if square.shape[0] > SIDE_PX:
        square = cv2.resize(square, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    elif square.shape[0] < SIDE_PX:
        square = _enlarged(square)
    return square if square.dtype == np.uint8 else np.clip(np.rint(square), 0, 255).astype(np.uint8)


def _enlarged(square: NDArray[Any]) -> NDArray[np.float32]:
    """Return a square at the size of scoring, with the frequencies that it has and no others.

    The cosine transform (DCT-II) is the Fourier transform of the square and its mirror images, so there is no seam
    at the edges; kernels of a few pixels, such as Lanczos', leave faint copies of the spectrum above the Nyquist
    frequency, which the score takes for detail.
    """
    side = square.shape[0]
    spectrum = np.zeros((SIDE_PX, SIDE_PX, *square.shape[2:]), dtype=np.float32)
    spectrum[:side, :side] = fft.dctn(square.astype(np.float32), axes=(0, 1), norm="forward")
    enlarged: NDArray[np.float32] = fft.idctn(spectrum, axes=(0, 1), norm="forward")
    return enlarged
