"""Rows of the denoiser: LIVE1, compressed by OpenCV, and blocks on the skin of compressed faces."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from table import Row

from celebahq_builder.image_set import Pixels
from celebahq_builder.metrics.fidelity import block_profile, blocking, psnr
from celebahq_builder.metrics.ssim import ssim
from celebahq_builder.restoration.degradation import apply_jpeg
from restoring.images import Network, live1, read, restore, tensor

GAIN_DB = {10: 1.2, 20: 1.2, 40: 1.1, 60: 0.8, 80: None, 90: -0.02}
"""JPEG quality -> least gain in RGB PSNR over the JPEG itself, mean over LIVE1; None is reported only."""

NO_HARM_DB = -0.02
"""Least gain of any image at quality 90, and of images as good as clean: quality 98 without subsampling."""

TWICE_DB = 0.8
"""Least gain after two compressions, 30 then 75, on grids shifted by (3, 5)."""

BLOCKING = 0.0334
"""Largest `blocking` after denoising and enlarging faces of JPEG quality 75, in grey levels: half of the 0.0668
that the first bundled denoiser left."""

FACE_PX = 256
"""Width and height of the faces before they are compressed."""

Gain = tuple[float, float]
"""In PSNR, dB, and in SSIM."""


def denoiser_rows(net: Network, data: Path, upscaler: Network) -> list[Row]:
    """Return the gains over the JPEG itself, and the blocks that are left, before and after an upscaler."""
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
    return rows + _blocking_rows(net, upscaler, data)


def _blocking_rows(net: Network, upscaler: Network, data: Path) -> list[Row]:
    """Return the visibility of blocks in flat areas of the real CelebA-HQ images, reduced and compressed."""
    faces = [read(path) for path in sorted((data / "celebahq_1024").glob("*.jpg"))]
    reduced = [cv2.resize(face, (FACE_PX, FACE_PX), interpolation=cv2.INTER_AREA) for face in faces]
    truths = torch.stack([tensor(face) for face in reduced]).float()
    rows = []
    for quality in (60, 75, 85):
        compressed = [apply_jpeg(face, quality) for face in reduced]
        restored = [restore(net, face) for face in compressed]
        name = f"{len(faces)} faces of {FACE_PX} px, JPEG {quality}: blocks in flat areas"
        for what, images in (("as compressed", list(map(tensor, compressed))), ("denoised", restored)):
            rows.append(Row(f"{name}, {what}", blocking(block_profile(torch.stack(images).float(), truths)), "levels"))
        if quality == 75:
            large = [restore(upscaler, np.ascontiguousarray(image.permute(1, 2, 0))) for image in restored]
            means = torch.stack([F.avg_pool2d(image.float(), 4) for image in large])
            left = blocking(block_profile(means, truths))
            rows.append(Row(f"{name}, denoised and enlarged", left, "levels", at_most=BLOCKING))
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
