"""Test images, and networks run over them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.tiles import run_tiled
from celebahq_builder.models.autoencoder import Autoencoder
from celebahq_builder.models.srgan import SRGenerator
from celebahq_builder.restoration.photos import TrainingPhotos, downscale_4x, to_pixels, to_tensor

Network = Autoencoder | SRGenerator

HELD_OUT, TRAINED_AT_LEAST_PX = 8, 128
"""Number of held-out photos, and smallest width and height of a photo, as in the recipes of the bundled weights."""

CROP_PX = 256


def live1(data: Path) -> list[Pixels]:
    """Return the 29 images of LIVE1."""
    folder = data / "benchmarks" / "LIVE1"
    return [read(path) for path in sorted(folder.glob("*.*")) if path.suffix.lower() in (".bmp", ".png")]


def low_and_high(data: Path, name: str) -> Iterator[tuple[Pixels, Pixels]]:
    """Yield the official low-resolution files of Set5 or Set14 with the true images."""
    for path in sorted((data / "benchmarks" / name).glob("*_LR.png")):
        yield read(path), read(path.with_name(path.name.replace("_LR", "_HR")))


def held_out(data: Path) -> Iterator[tuple[Pixels, Pixels]]:
    """Yield crops of the photos that no training has seen, reduced and true."""
    photos = TrainingPhotos.read(data / "photos" / "train", held_out=HELD_OUT, at_least_px=TRAINED_AT_LEAST_PX)
    for photo in photos.held_out:
        for top in range(0, photo.shape[0] - CROP_PX + 1, CROP_PX):
            for left in range(0, photo.shape[1] - CROP_PX + 1, CROP_PX):
                high = np.ascontiguousarray(photo[top : top + CROP_PX, left : left + CROP_PX])
                yield to_pixels(downscale_4x(to_tensor([high], torch.device("cpu"))))[0], high


def restore(net: Network, image: Pixels, scale: int = 1) -> Tensor:
    """Return a network's result, uint8 [3, H, W]."""
    return run_tiled(net, tensor(image), scale=scale, tile_px=512, context_px=net.context_px, stride_px=net.STRIDE_PX)


def tensor(image: Pixels) -> Tensor:
    """Return an RGB image as uint8 [3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def read(path: Path) -> Pixels:
    """Return an image as uint8 [H, W, 3]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
