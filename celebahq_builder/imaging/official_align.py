"""Alignment as the authors' public tool computes it, to the last bit, with NumPy, SciPy and Pillow.

The steps are, in order: `crop_quad`, `shrink`, `crop_region`, `enlarge`, `pad`, `resample`. Lengths are rounded to
float32 and masks to float64 wherever the tool's own arithmetic rounds them.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from celebahq_builder.imaging.geometry import bounding_box, plan_padding, rot90
from celebahq_builder.imaging.image_io import crop_image

SUPERSAMPLING = 4
"""Samples per result pixel and direction: 4096 for 1024."""

F32 = np.float32


@dataclass(frozen=True)
class OfficialImage:
    """An image between two steps of the tool."""

    image: Image.Image
    """RGB."""
    quad: NDArray[np.float32]
    """Corners [4, 2] of the crop in `image`, pixel-edge coordinates: top left, bottom left, bottom right, top right."""
    zoom: np.float32
    """Result pixels per pixel of `image`."""
    resolution: int
    """Side length of the result in px."""
    border: int = 0
    """Pixels that the padding needs around the crop's bounding box."""

    def crop_share(self, share: float) -> float:
        """Return a share of the crop's side length, in px of `image`."""
        return float(F32(self.resolution * share) / self.zoom)


def crop_quad(landmarks: NDArray[np.floating], resolution: int) -> tuple[NDArray[np.float32], np.float32]:
    """Return the crop around a face, computed in float32; see `geometry.crop_from_landmarks` for the formula.

    Args:
        landmarks: five points [5, 2] in CelebA's order, as pixel positions in px. They are not checked.
        resolution: side length of the result in px.

    Returns:
        Corners float32 [4, 2] in pixel-edge coordinates, and the result pixels per photo pixel.
    """
    points = np.asarray(landmarks, dtype=F32)
    half = F32(0.5)
    eyes = (points[0] + points[1]) * half + half
    mouth = (points[3] + points[4]) * half + half
    eye_to_eye, eye_to_mouth = points[1] - points[0], mouth - eyes
    x = eye_to_eye - rot90(eye_to_mouth)
    x /= np.hypot(*x)
    x *= max(np.hypot(*eye_to_eye) * F32(2.0), np.hypot(*eye_to_mouth) * F32(1.8))
    y = rot90(x)
    c = eyes + eye_to_mouth * F32(0.1)
    quad = np.stack([c - x - y, c - x + y, c + x + y, c + x - y])
    return quad, F32(resolution) / (np.hypot(*x) * F32(2.0))


def shrink(image: OfficialImage) -> tuple[OfficialImage, int]:
    """Reduce an image by Lanczos if the crop is at least 4 times as wide as the result.

    Returns:
        The image, and the factor by which it was reduced, or 1.
    """
    factor = math.floor(F32(0.5) / image.zoom)
    if factor <= 1:
        return image, 1
    size = (round(image.image.width / factor), round(image.image.height / factor))
    small = image.image.resize(size, Image.Resampling.LANCZOS)
    return replace(image, image=small, quad=image.quad / F32(factor), zoom=image.zoom * F32(factor)), factor


def crop_region(image: OfficialImage) -> OfficialImage:
    """Cut out the crop's bounding box and a border of a tenth of the crop's side length, at least 3 px."""
    border = max(round(image.crop_share(0.1)), 3)
    left, top, right, bottom = bounding_box(image.quad)
    left, top = max(left - border, 0), max(top - border, 0)
    right, bottom = min(right + border, image.image.width), min(bottom + border, image.image.height)
    quad = image.quad - np.array([left, top], dtype=F32)
    return replace(image, image=crop_image(image.image, (left, top, right, bottom)), quad=quad, border=border)


def enlarge(image: OfficialImage) -> tuple[OfficialImage, int]:
    """Enlarge an image by Lanczos until the crop has as many pixels as the result.

    This stands in for the super-resolution network. As in the tool, `border` keeps its value.

    Returns:
        The image, and the factor by which it was enlarged: a power of 2, or 1.
    """
    factor = 2 ** max(math.ceil(np.log2(image.zoom)), 0)
    if factor == 1:
        return image, 1
    size = (image.image.width * factor, image.image.height * factor)
    large = image.image.resize(size, Image.Resampling.LANCZOS)
    return replace(image, image=large, quad=image.quad * F32(factor), zoom=image.zoom / F32(factor)), factor


def pad(image: OfficialImage) -> tuple[OfficialImage, bool]:
    """Mirror, blur and fade an image beyond its edges where the crop leaves it; see `padding.pad_photo`.

    The blur is SciPy's: it ends at 4 standard deviations and mirrors at the new edges. The median is that of all
    pixels.

    Returns:
        The image, and whether it was padded.
    """
    plan = plan_padding(image.quad, *image.image.size, image.border, round(image.crop_share(0.3)))
    if plan is None:
        return image, False
    left, top, right, bottom = astuple(plan)
    mirrored = np.pad(np.asarray(image.image), ((top, bottom), (left, right), (0, 0)), "reflect")
    mask = _fade_mask(mirrored.shape[0], mirrored.shape[1], (left, top, right, bottom))
    for channel in range(3):  # one by one, because a single channel in float is large enough
        mirrored[..., channel] = _blur_and_fade(mirrored[..., channel].astype(F32), mask, image.crop_share(0.02))
    quad = image.quad + np.array([left, top], dtype=F32)
    return replace(image, image=Image.fromarray(mirrored), quad=quad), True


def resample(image: OfficialImage) -> Image.Image:
    """Return the upright crop at the result's resolution: bilinear to 4 times its side length, then Lanczos."""
    fine = image.resolution * SUPERSAMPLING
    corners = tuple((image.quad + F32(0.5)).flatten())
    upright = image.image.transform((fine, fine), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)
    return upright.resize((image.resolution, image.resolution), Image.Resampling.LANCZOS)


def _fade_mask(height: int, width: int, pads: tuple[int, int, int, int]) -> NDArray[np.float64]:
    """Return 1 - the distance from the nearest new edge, in paddings: [H, W], float64 as in the tool."""
    left, top, right, bottom = pads
    x, y = np.arange(width, dtype=np.float64)[None], np.arange(height, dtype=np.float64)[:, None]
    nearest = np.minimum(np.minimum(x / left, y / top), np.minimum((width - 1 - x) / right, (height - 1 - y) / bottom))
    return np.subtract(1.0, nearest, out=nearest)


def _blur_and_fade(plane: NDArray[np.float32], mask: NDArray[np.float64], sigma: float) -> NDArray[np.uint8]:
    """Mix a channel [H, W] with its blur by 3 mask + 1, then with its median by the mask; both sums are float32."""
    soft = ndimage.gaussian_filter(plane, sigma)
    plane += (soft - plane) * np.clip(mask * 3.0 + 1.0, 0.0, 1.0)
    plane += (np.median(plane) - plane) * np.clip(mask, 0.0, 1.0)
    return np.clip(np.rint(plane), 0, 255).astype(np.uint8)
