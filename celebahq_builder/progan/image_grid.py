"""Grids of real and generated images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from celebahq_builder.errors import WeightsError
from celebahq_builder.models.progan import Generator
from celebahq_builder.storage import write_atomic

Pixels = NDArray[np.uint8]

SIDE_MAX_PX = 8192
"""No grid is larger: columns and rows that do not fit are left away."""

BATCH_PIXELS = 2**21
"""Images are generated so many pixels at a time."""


def fixed_latents(generator: Generator, count: int, seed: int) -> Tensor:
    """Return the latents of a run's grids, float32 [count, latent]: the same whenever they are asked for."""
    drawn = np.random.default_rng((seed, 0xF1DE)).standard_normal((count, generator.architecture.latent))
    return torch.from_numpy(drawn.astype(np.float32))


def fixed_labels(generator: Generator, count: int, label: int | None = None) -> Tensor | None:
    """Return one class after the other, over and over, float32 [count, classes]; None where it takes no labels.

    Args:
        generator: that takes labels, or none.
        count: of images.
        label: of all of them instead.

    Raises:
        WeightsError: the generator has no such label.
    """
    classes = generator.architecture.labels
    if label is not None and not 0 <= label < classes:
        has = f"labels 0 to {classes - 1}" if classes else "no labels"
        raise WeightsError(f"label {label} was asked for, the generator was trained with {has}")
    if not classes:
        return None
    return torch.eye(classes)[torch.arange(count) % classes if label is None else torch.full((count,), label)]


@torch.inference_mode()
def generated(
    generator: Generator, latents: Tensor, level: int, alpha: float = 1.0, labels: Tensor | None = None
) -> Pixels:
    """Return images of latents, uint8 [N, C, r, r]; [-1, 1] becomes [0, 255], what is beyond is clipped.

    Raises:
        WeightsError: the generator makes numbers that are not finite.
    """
    device = next(generator.parameters()).device
    some = max(1, BATCH_PIXELS >> (2 * level))
    made = []
    for start in range(0, len(latents), some):
        part = slice(start, start + some)
        told = None if labels is None else labels[part].to(device)
        images = generator(latents[part].to(device), level, alpha, told)
        if not bool(images.isfinite().all()):
            raise WeightsError(
                f"the generator makes NaN or infinity of some latents at {1 << level}x{1 << level}: its weights are "
                "damaged or its training went astray; take those of an earlier checkpoint"
            )
        made.append(to_pixels(images).cpu())
    return torch.cat(made).numpy()


def to_pixels(images: Tensor) -> Tensor:
    """Return images in [-1, 1] as uint8, the nearest of 256 levels."""
    return ((images.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def fit(columns: int, rows: int, side: int) -> tuple[int, int]:
    """Return how many columns and rows of images of a side fit a grid."""
    most = max(1, SIDE_MAX_PX // side)
    return min(columns, most), min(rows, most)


def tiled(images: Pixels, columns: int) -> Pixels:
    """Return images uint8 [N, C, r, r] row by row as one, uint8 [rows r, columns r, 3]; what is missing is black."""
    count, channels, side, _ = images.shape
    rows = -(-count // columns)
    page = np.zeros((rows * columns, side, side, 3), np.uint8)
    page[:count] = images.transpose(0, 2, 3, 1) if channels == 3 else images.transpose(0, 2, 3, 1).repeat(3, axis=3)
    return page.reshape(rows, columns, side, side, 3).swapaxes(1, 2).reshape(rows * side, columns * side, 3)


def png_bytes(image: Pixels) -> bytes:
    """Return an image uint8 [H, W, 3], RGB, as a PNG file."""
    done, coded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"an image of {image.shape} cannot be a PNG")
    return coded.tobytes()


def write_png(path: Path, image: Pixels) -> None:
    """Write an image uint8 [H, W, 3], RGB, whole or not at all."""
    write_atomic(path, png_bytes(image))
