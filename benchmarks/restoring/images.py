"""Test images, and networks run over them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from celebahq_builder.errors import WeightsError
from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.tiles import run_tiled
from celebahq_builder.models.autoencoder import Autoencoder
from celebahq_builder.models.community import PREFIX, is_weight_file, load_community_network
from celebahq_builder.models.community_network import CommunityNetwork
from celebahq_builder.models.registry import load_network
from celebahq_builder.models.srgan import SRGenerator
from celebahq_builder.restoration.photos import TrainingPhotos, downscale_4x, to_pixels, to_tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.torchvision_operators import define_missing_operators

Network = Autoencoder | SRGenerator | CommunityNetwork

PUBLISHED = ("RealSR_DF2K_x4", "RealESRGAN_x4plus")
"""Upscalers of other projects, in the folder ``models`` of the test data."""

HELD_OUT, TRAINED_AT_LEAST_PX = 8, 128
"""Number of held-out photos, and smallest width and height of a photo, as in the recipes of the bundled weights."""

CROP_PX = 256

TILE_PX = 512


def upscaler(name: str) -> Network:
    """Return an upscaler: of a registry, or of a weight file, ``file:PATH``.

    Raises:
        WeightsError: there is no such network, or spandrel is missing.
    """
    return load_community_network(name, "upscale", torch.device("cpu")) if is_weight_file(name) else load_network(name)


def published(data: Path) -> dict[str, Network]:
    """Return the upscalers of other projects; one that cannot be loaded is left out with a message."""
    define_missing_operators()
    found = {}
    for name in PUBLISHED:
        try:
            found[name] = upscaler(f"{PREFIX}{data}/models/{name}.safetensors")
        except WeightsError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return found


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


def restore(net: Network, image: Pixels) -> Tensor:
    """Return a network's result, uint8 [3, H, W]."""
    tile_px = net.footprint.tile_px(TILE_PX) if isinstance(net, CommunityNetwork) else TILE_PX
    return run_tiled(
        net, tensor(image), scale=net.SCALE, tile_px=tile_px, context_px=net.context_px, stride_px=net.STRIDE_PX
    )


def tensor(image: Pixels) -> Tensor:
    """Return an RGB image as uint8 [3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def read(path: Path) -> Pixels:
    """Return an image as uint8 [H, W, 3]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
