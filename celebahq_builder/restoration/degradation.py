"""JPEG degradation of clean photos, from which the denoiser learns."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from celebahq_builder.image_set import Pixels

MCU_PX = 16
"""Width and height of the largest block that JPEG compresses as a unit (4:2:0 chroma)."""

_SAMPLING = (
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)


@dataclass(frozen=True)
class DegradationSettings:
    """Frequency and strength of the degradations of training images. Shares are probabilities, in [0, 1]."""

    quality_min: int = 8
    """Lowest JPEG quality, on the scale of OpenCV and libjpeg, 1 to 100."""
    quality_max: int = 98
    """Highest JPEG quality."""
    quality_power: float = 1.0
    """The quality is `quality_min` + range * u ** `quality_power`, with u uniform in [0, 1): 1 draws all qualities
    equally often, more than 1 draws low qualities more often."""
    clean_share: float = 0.06
    """Share of images that stay clean, so that the network learns to leave good images unchanged."""
    grey_share: float = 0.06
    """Share of images that are converted to grey."""
    smooth_share: float = 0.0
    """Share of images that are smooth areas of the photos, where blocks are visible; see
    `TrainingPhotos.smooth_crop`."""
    recoloured_share: float = 0.0
    """Share of images whose channels are permuted. This gives strong colours of every hue, which are rare in photos."""
    twice_share: float = 0.3
    """Share of images that are compressed twice, on shifted block grids."""
    rescale_share: float = 0.4
    """Share of the images compressed twice that are also scaled down between the compressions."""
    off_grid_share: float = 0.2
    """Share of images whose patch does not start on the block grid of the last compression. The others start on it."""
    sampling_shares: tuple[float, float, float] = (0.65, 0.1, 0.25)
    """Shares of 4:2:0, 4:2:2 and 4:4:4 chroma subsampling."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality_min <= self.quality_max <= 100:
            raise ValueError(f"quality_min = {self.quality_min} and quality_max = {self.quality_max}: need 1 to 100")
        for name in (
            *("clean_share", "grey_share", "smooth_share", "recoloured_share"),
            *("twice_share", "rescale_share", "off_grid_share"),
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be a share, 0 to 1")
        if abs(sum(self.sampling_shares) - 1) > 1e-6 or min(self.sampling_shares) < 0:
            raise ValueError(f"sampling_shares must sum to 1, got {self.sampling_shares}")


def clean_crop_px(patch_px: int) -> int:
    """Return the width and height of the clean crop from which `degraded_pair` makes a patch of `patch_px`."""
    return 2 * (patch_px + 2 * MCU_PX)


def degraded_pair(
    clean: Pixels, patch_px: int, settings: DegradationSettings, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """Return a degraded patch and its clean target.

    Args:
        clean: uint8 [S, S, 3], RGB, with S = `clean_crop_px(patch_px)`.
        patch_px: width and height of the patch.
        settings: frequency and strength of the degradation.
        rng: all random choices come from it.

    Returns:
        Two images, uint8 [patch_px, patch_px, 3].
    """
    size = patch_px + 2 * MCU_PX
    # --- Colour
    if rng.random() < settings.grey_share:
        clean = np.asarray(cv2.cvtColor(cv2.cvtColor(clean, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)
    if settings.recoloured_share and rng.random() < settings.recoloured_share:
        clean = np.ascontiguousarray(clean[..., rng.permutation(3)])
    if rng.random() < settings.clean_share:
        return clean[:patch_px, :patch_px], clean[:patch_px, :patch_px]
    # --- Compression
    degraded = clean
    if rng.random() < settings.twice_share:
        degraded, clean = _first_compression(clean, size, settings, rng)
    degraded, clean = degraded[:size, :size], clean[:size, :size]
    degraded = _random_jpeg(degraded, settings, rng)
    # --- Patch
    top, left = rng.integers(MCU_PX, size=2) if rng.random() < settings.off_grid_share else (0, 0)
    patch = (slice(top, top + patch_px), slice(left, left + patch_px))
    return degraded[patch], clean[patch]


def _first_compression(
    clean: Pixels, size: int, settings: DegradationSettings, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """Compress an image, then scale it down or shift its block grid, so that the next compression has another grid."""
    if rng.random() < settings.rescale_share:
        large = int(rng.integers(int(size * 1.05), 2 * size - MCU_PX))
        top, left = rng.integers(0, clean.shape[0] - large + 1, size=2)
        clean = clean[top : top + large, left : left + large]
        degraded = _random_jpeg(clean, settings, rng)
        return reduced(degraded, size), reduced(clean, size)
    clean = clean[: size + MCU_PX, : size + MCU_PX]
    degraded = _random_jpeg(clean, settings, rng)
    top, left = rng.integers(MCU_PX, size=2)
    return degraded[top:, left:], clean[top:, left:]


def _random_jpeg(pixels: Pixels, settings: DegradationSettings, rng: np.random.Generator) -> Pixels:
    span = settings.quality_max + 1 - settings.quality_min
    quality = settings.quality_min + int(span * rng.random() ** settings.quality_power)
    sampling = _SAMPLING[rng.choice(3, p=settings.sampling_shares)]
    return apply_jpeg(pixels, quality, sampling)


def apply_jpeg(pixels: Pixels, quality: int, sampling: int = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420) -> Pixels:
    """Return an RGB image, uint8 [H, W, 3], after one JPEG compression by OpenCV with quality 1 to 100.

    `sampling` is the chroma subsampling, one of OpenCV's ``IMWRITE_JPEG_SAMPLING_FACTOR_*``.
    """
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), flags)
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1])


def reduced(image: Pixels, size_px: int) -> Pixels:
    """Return a square image reduced by an area filter."""
    return np.asarray(cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA), np.uint8)
