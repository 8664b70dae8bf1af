"""The alignment of the authors' public tool, reproduced to the last bit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

SUPERSAMPLING = 4
"""Samples per result pixel and direction: 4096 for 1024."""

F32 = np.float32


@dataclass(frozen=True)
class OfficialImage:
    """An image on its way through the tool."""

    image: Image.Image
    """RGB."""
    quad: NDArray[np.float32]
    """Corners [4, 2] of the crop in `image`, pixel-edge coordinates: top left, bottom left, bottom right, top right."""
    zoom: np.float32
    """Result pixels per pixel of `image`."""
    resolution: int
    """Side of the result in px."""
    border: int = 0
    """Pixels around the crop's bounding box that the padding wants to exist."""

    def share(self, of: float) -> float:
        """Return a share of the crop's side in px of `image`."""
        return float(F32(self.resolution * of) / self.zoom)


def crop_quad(landmarks: NDArray[np.floating], resolution: int) -> tuple[NDArray[np.float32], np.float32]:
    """Return the crop around a face as the tool rounds it; `geometry.crop_from_landmarks` has the formula and checks.

    Args:
        landmarks: [5, 2] in CelebA's order, px; (0, 0) is the centre of the first pixel.
        resolution: side of the result in px.

    Returns:
        The corners [4, 2] in pixel-edge coordinates, and the result pixels per photo pixel; all float32.
    """
    points = np.asarray(landmarks, dtype=F32)
    half = F32(0.5)
    eyes = (points[0] + points[1]) * half + half
    mouth = (points[3] + points[4]) * half + half
    across, down = points[1] - points[0], mouth - eyes
    x = across - _rot90(down)
    x /= np.hypot(*x)
    x *= max(np.hypot(*across) * F32(2.0), np.hypot(*down) * F32(1.8))
    y = _rot90(x)
    c = eyes + down * F32(0.1)
    quad = np.stack([c - x - y, c - x + y, c + x + y, c + x - y])
    return quad, F32(resolution) / (np.hypot(*x) * F32(2.0))


def shrink(pixels: OfficialImage) -> tuple[OfficialImage, int]:
    """Return the pixels reduced by Lanczos, where it has 4 times the pixels along a side, and the factor, or 1."""
    factor = math.floor(F32(0.5) / pixels.zoom)
    if factor <= 1:
        return pixels, 1
    size = (round(pixels.image.width / factor), round(pixels.image.height / factor))
    image = pixels.image.resize(size, Image.Resampling.LANCZOS)
    return replace(pixels, image=image, quad=pixels.quad / F32(factor), zoom=pixels.zoom * F32(factor)), factor


def crop_region(image: OfficialImage) -> OfficialImage:
    """Return the part of the image that holds the crop and a border, where there is one.

    The border is a tenth of the crop's side, and at least 3 px.
    """
    border = max(round(image.share(0.1)), 3)
    low, high = _bounds(image.quad)
    left, top = (max(v - border, 0) for v in low)
    right, bottom = (min(v + border, size) for v, size in zip(high, image.image.size, strict=True))
    quad = image.quad - np.array([left, top], dtype=F32)
    return replace(image, image=image.image.crop((left, top, right, bottom)), quad=quad, border=border)


def enlarge(pixels: OfficialImage) -> tuple[OfficialImage, int]:
    """Return the pixels enlarged by Lanczos until it has as many pixels as the result; and the power of 2, or 1.

    It stands in for the super-resolution network. `border` stays, as it does in the tool.
    """
    factor = 2 ** max(math.ceil(np.log2(pixels.zoom)), 0)
    if factor == 1:
        return pixels, 1
    size = (pixels.image.width * factor, pixels.image.height * factor)
    image = pixels.image.resize(size, Image.Resampling.LANCZOS)
    return replace(pixels, image=image, quad=pixels.quad * F32(factor), zoom=pixels.zoom / F32(factor)), factor


def pad(image: OfficialImage) -> tuple[OfficialImage, bool]:
    """Return the image mirrored, blurred and faded beyond its edges where the crop leaves it; and whether it does.

    `padding.pad_photo` has the formula. Here the blur is scipy's, cut off at 4 standard deviations and mirrored at
    the new edges, and the median is that of every pixel.
    """
    (left, top), (right, bottom) = _bounds(image.quad)
    width, height = image.image.size
    overhang = (-left, -top, right - width, bottom - height)
    pads = [max(over + image.border, 0) for over in overhang]
    if max(pads) <= image.border - 4:
        return image, False
    least = round(image.share(0.3))
    left, top, right, bottom = (max(pad, least) for pad in pads)
    mirrored = np.pad(np.asarray(image.image), ((top, bottom), (left, right), (0, 0)), "reflect")
    mask = _mask(mirrored.shape[0], mirrored.shape[1], (left, top, right, bottom))
    for channel in range(3):  # one after the other: a float of every pixel is large enough
        mirrored[..., channel] = _faded(mirrored[..., channel].astype(F32), mask, image.share(0.02))
    quad = image.quad + np.array([left, top], dtype=F32)
    return replace(image, image=Image.fromarray(mirrored), quad=quad), True


def resample(pixels: OfficialImage) -> Image.Image:
    """Return the crop turned upright, RGB at the result's size: bilinear to 4 times its side, then Lanczos."""
    fine = pixels.resolution * SUPERSAMPLING
    corners = tuple((pixels.quad + F32(0.5)).flatten())
    image = pixels.image.transform((fine, fine), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)
    return image.resize((pixels.resolution, pixels.resolution), Image.Resampling.LANCZOS)


def _rot90(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.array([-vector[1], vector[0]], dtype=F32)


def _bounds(quad: NDArray[np.float32]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the smallest box of whole pixels around a quad: (left, top), (right, bottom)."""
    low, high = np.floor(quad.min(axis=0)), np.ceil(quad.max(axis=0))
    return (int(low[0]), int(low[1])), (int(high[0]), int(high[1]))


def _mask(height: int, width: int, pads: tuple[int, int, int, int]) -> NDArray[np.float64]:
    """Return 1 - the distance from the nearest new edge in paddings, [H, W]; double, as float32 / integer is there."""
    left, top, right, bottom = pads
    x, y = np.arange(width, dtype=np.float64)[None], np.arange(height, dtype=np.float64)[:, None]
    nearest = np.minimum(np.minimum(x / left, y / top), np.minimum((width - 1 - x) / right, (height - 1 - y) / bottom))
    return np.subtract(1.0, nearest, out=nearest)


def _faded(plane: NDArray[np.float32], mask: NDArray[np.float64], sigma: float) -> NDArray[np.uint8]:
    """Return a channel [H, W] blurred by 3 mask + 1 and faded to its median by the mask; float32 after each of both."""
    soft = ndimage.gaussian_filter(plane, sigma)
    plane += (soft - plane) * np.clip(mask * 3.0 + 1.0, 0.0, 1.0)
    plane += (np.median(plane) - plane) * np.clip(mask, 0.0, 1.0)
    return np.clip(np.rint(plane), 0, 255).astype(np.uint8)
