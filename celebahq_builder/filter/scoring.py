"""Quality score of an image of any size, and of image files in a worker process."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft

from celebahq_builder.device_errors import fatal_error
from celebahq_builder.errors import CelebAHQError, SourceError
from celebahq_builder.filter.store import DECIMALS, SIDE_PX, ImageScore, ScoreRecord, UnscoredImage
from celebahq_builder.imaging.geometry import centred_square
from celebahq_builder.imaging.image_io import crop_image, open_rgb, pil_to_array
from celebahq_builder.imaging.quality_score import QualityScore, quality_score
from celebahq_builder.limits import MAX_IMAGE_PIXELS
from celebahq_builder.outcome import Reason, Rejection
from celebahq_builder.storage import read_file

Values = NDArray[np.uint8] | NDArray[np.floating]
"""Pixels: uint8, or float from 0 to 1."""

# --- Pixels -------------------------------------------------------------------------------------------------------


def score_image(image: Values | Path | str) -> QualityScore:
    """Score an image of any size by the power spectrum of its centred square, resampled to 1024x1024.

    Images of different sizes are comparable, because all are scored at 1024x1024. A larger square is reduced by the
    exact mean of the area that each pixel covers (cv2.INTER_AREA), so its surplus detail neither aliases nor counts.
    A smaller square is enlarged by zero-padding its cosine transform, which adds nothing above the Nyquist frequency
    of the image, so the missing detail lowers the score. A square of 1024x1024 is used unchanged. A square smaller
    than 64 px has no energy in the scored band, and its score is 0.
    `imaging.quality_score.quality_scores` has the formula.

    Args:
        image: RGB [H, W, 3] or grey [H, W], at least 1x1 px; uint8, or float in [0, 1]. Or the path of an image file.

    Returns:
        The score and its components, all in [0, 1], higher is better.

    Raises:
        TypeError: another dtype.
        ValueError: another shape, no pixels, or floats outside [0, 1].
        Rejection: the file is not an image, or it is damaged.
        SourceError: the file cannot be read.

    Examples:
        >>> score_image(np.zeros((100, 100, 3), np.uint8)).score
        0.0
    """
    if isinstance(image, (Path, str)):
        try:
            data = read_file(Path(image))
        except OSError as error:
            raise SourceError(f"{image} cannot be read: {error.strerror}") from None
        image = pil_to_array(open_rgb(data, MAX_IMAGE_PIXELS)[0]).transpose(1, 2, 0)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise ValueError(f"score_image: expected pixels of shape [H, W, 3] or [H, W], got {list(image.shape)}")
    left, top, side = centred_square(image.shape[1], image.shape[0])
    square = _resample(_check_range(image[top : top + side, left : left + side]))
    rgb = square if square.ndim == 3 else np.stack([square] * 3, axis=-1)
    return quality_score(torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))))


def _check_range(square: Values) -> Values:
    """Return uint8 unchanged, and floats as float32 in [0, 255]."""
    if square.dtype == np.uint8:
        return square
    if not np.issubdtype(square.dtype, np.floating):
        raise TypeError(f"score_image: expected uint8, or float in [0, 1], got {square.dtype}")
    low, high = float(square.min()), float(square.max())
    if not (low >= 0 and high <= 1):  # a negated condition, so that NaN is refused
        raise ValueError(f"score_image: expected floats in [0, 1], got {low:g} to {high:g}")
    return square.astype(np.float32) * np.float32(255)


def _resample(square: Values) -> NDArray[np.uint8]:
    """Return a square at the scored side length, uint8."""
    scored: NDArray[np.number] = square
    if square.shape[0] > SIDE_PX:
        scored = np.asarray(cv2.resize(square, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA))
    elif square.shape[0] < SIDE_PX:
        scored = _enlarge(square)
    return scored.astype(np.uint8) if scored.dtype == np.uint8 else np.clip(np.rint(scored), 0, 255).astype(np.uint8)


def _enlarge(square: Values) -> NDArray[np.float32]:
    """Return a square at the scored side length, with exactly the frequencies that it has.

    The cosine transform (DCT-II) is the Fourier transform of the square and its mirror images, so the edges have no
    seam. Short kernels, such as Lanczos', leave faint copies of the spectrum above the Nyquist frequency, which the
    score would count as detail.
    """
    side = square.shape[0]
    spectrum = np.zeros((SIDE_PX, SIDE_PX, *square.shape[2:]), dtype=np.float32)
    spectrum[:side, :side] = fft.dctn(square.astype(np.float32), axes=(0, 1), norm="forward")
    enlarged: NDArray[np.float32] = fft.idctn(spectrum, axes=(0, 1), norm="forward")
    return enlarged


# --- Files --------------------------------------------------------------------------------------------------------


def score_files(folder: str, paths: Sequence[str], pixels_max: int) -> list[ScoreRecord]:
    """Score some files below a folder in a worker process; see `score_file`."""
    torch.set_num_threads(1)  # the split of a sum over threads decides its last bits
    return [score_file(Path(folder), path, pixels_max) for path in paths]


def score_file(folder: Path, path: str, pixels_max: int) -> ScoreRecord:
    """Return the score of a file, or the reason why it has none; images of more than `pixels_max` are not decoded.

    Raises:
        SourceError: the folder itself is gone.
        WorkspaceError: not enough memory.
    """
    try:
        mtime_ns = (folder / path).stat().st_mtime_ns  # before the file is read: a change in between is noticed later
        data = read_file(folder / path)
    except OSError as error:
        if not folder.is_dir():
            raise SourceError(f"{folder} is gone; bring it back and run the same command, which resumes") from None
        reason = Reason.TOO_LARGE if error.errno == errno.EFBIG else Reason.UNREADABLE
        return UnscoredImage(path, reason, error.strerror or str(error))
    try:
        image, notes = open_rgb(data, pixels_max, "pixels_max")
        left, top, side = centred_square(image.width, image.height)
        quality = score_image(np.asarray(crop_image(image, (left, top, left + side, top + side))))
        parts = tuple(round(value, DECIMALS) for value in dataclasses.astuple(quality))
        return ImageScore(path, len(data), mtime_ns, parts, image.width, image.height, notes)
    except Rejection as rejection:
        if rejection.reason is Reason.TOO_LARGE:  # not kept in the store: the next command may allow more pixels
            return UnscoredImage(path, rejection.reason, rejection.detail)
        return UnscoredImage(path, rejection.reason, rejection.detail, len(data), mtime_ns)
    except CelebAHQError:
        raise
    except Exception as error:
        fatal = fatal_error(error, torch.device("cpu"), path)
        if fatal is not None:
            raise fatal from error
        return UnscoredImage(path, None, f"{type(error).__name__}: {error}".splitlines()[0])
