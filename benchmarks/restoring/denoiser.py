"""Rows of the denoiser: LIVE1, compressed by OpenCV."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from table import Row

from celebahq_builder.image_set import Pixels
from celebahq_builder.metrics.fidelity import psnr
from celebahq_builder.metrics.ssim import ssim
from celebahq_builder.restoration.photos import apply_jpeg
from restoring.images import Network, live1, restore, tensor

GAIN_DB = {10: 1.2, 20: 1.2, 40: 1.1, 60: 0.8, 80: None, 90: -0.02}
"""JPEG quality -> least gain in RGB PSNR over the JPEG itself, mean over LIVE1; None is reported only."""

NO_HARM_DB = -0.02
"""Least gain of any image at quality 90, and of images as good as clean: quality 98 without subsampling."""

TWICE_DB = 0.8
"""Least gain after two compressions, 30 then 75, on grids shifted by (3, 5)."""

Gain = tuple[float, float]
"""In PSNR, dB, and in SSIM."""


def denoiser_rows(net: Network, data: Path) -> list[Row]:
    """Return the gains over the JPEG itself."""
    photos = live1(data)
    rows = []
    for quality, least in GAIN_DB.items():
        name = f"LIVE1 ({len(photos)}), JPEG {quality}"
        gains = [_gain(net, apply_jpeg(photo, quality), photo) for photo in photos]
        rows += _rows(name, gains, least, NO_HARM_DB if quality == 90 else None)
    clean = [_gain(net, apply_jpeg(photo, 98, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444), photo) for photo in photos]
    rows += _rows("LIVE1, as good as clean (JPEG 98, 4:4:4)", clean, NO_HARM_DB, None)
    twice = [_gain(net, apply_jpeg(apply_jpeg(photo, 30)[3:, 5:], 75), photo[3:, 5:]) for photo in photos]
    rows += _rows("LIVE1, JPEG 30, shifted (3, 5), JPEG 75", twice, TWICE_DB, None)
    harm = [psnr(restore(net, photo), tensor(photo)) for photo in photos]
    rows.append(Row("LIVE1, clean: PSNR of result to input, worst", min(harm), "dB"))
    shift = max(_shift(net, photo) for photo in photos)
    rows.append(Row("LIVE1, clean: shift of mean colour, worst", shift, "levels", at_most=0.5))
    return rows


def _rows(name: str, gains: list[Gain], mean_db: float | None, worst_db: float | None) -> list[Row]:
    decibels = [gain[0] for gain in gains]
    return [
        Row(f"{name}: mean gain", float(np.mean(decibels)), "dB", mean_db),
        Row(f"{name}: worst gain", min(decibels), "dB", worst_db),
        Row(f"{name}: mean gain in SSIM", float(np.mean([gain[1] for gain in gains])), ""),
    ]


def _gain(net: Network, damaged: Pixels, clean: Pixels) -> Gain:
    result, before, truth = restore(net, damaged), tensor(damaged), tensor(clean)
    similar = [float(ssim(image[None], truth[None])[0]) for image in (result, before)]
    return psnr(result, truth) - psnr(before, truth), similar[0] - similar[1]


def _shift(net: Network, photo: Pixels) -> float:
    before, after = (image.double().mean(dim=(1, 2)) for image in (tensor(photo), restore(net, photo)))
    return float((after - before).abs().max())
