"""Degradations that turn clean crops into CelebA-like inputs."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from celebahq_builder.restoration.photos import Pixels

MCU_PX = 16
"""Largest block that JPEG codes as a unit (4:2:0 chroma)."""

_SAMPLING = (
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)


@dataclass(frozen=True)
class DegradationSettings:
    """How often and how hard the training images are damaged; shares are in [0, 1]."""

    quality_min: int = 8
    """Lowest JPEG quality of OpenCV's (libjpeg's) scale."""
    quality_max: int = 98
    quality_power: float = 1.0
    """1 draws all qualities alike; more than 1 draws low ones more often, as the power of a uniform number."""
    clean_share: float = 0.06
    """Share of images left as they are, so that the network learns to leave good ones alone."""
    grey_share: float = 0.06
    recoloured_share: float = 0.0
    """Share of images whose three channels change places: strong colours of every hue, which photos rarely have."""
    twice_share: float = 0.3
    """Share of images compressed twice, on shifted grids."""
    rescale_share: float = 0.4
    """Share of those that are also scaled down between the two compressions."""
    off_grid_share: float = 0.2
    """Share of images whose cut does not start on the grid of the last compression."""
    sampling_shares: tuple[float, float, float] = (0.65, 0.1, 0.25)
    """Shares of 4:2:0, 4:2:2 and 4:4:4 chroma."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality_min <= self.quality_max <= 100:
            raise ValueError(f"quality_min = {self.quality_min} and quality_max = {self.quality_max}: need 1 to 100")
        for name in ("clean_share", "grey_share", "recoloured_share", "twice_share", "rescale_share", "off_grid_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be a share, 0 to 1")
        if abs(sum(self.sampling_shares) - 1) > 1e-6 or min(self.sampling_shares) < 0:
            raise ValueError(f"sampling_shares must sum to 1, got {self.sampling_shares}")


def clean_crop_px(patch_px: int) -> int:
    """Return how large a clean crop must be for `compressed_pair` to cut a patch of `patch_px` from it."""
    return 2 * (patch_px + 2 * MCU_PX)


def degraded_pair(
    clean: Pixels, patch_px: int, settings: DegradationSettings, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """Return a damaged image and the clean one it should become, both uint8 [patch_px, patch_px, 3].

    `clean` must be `source_px(patch_px)` wide and high.
    """
    room = patch_px + 2 * MCU_PX
    if rng.random() < settings.grey_share:
        clean = cv2.cvtColor(cv2.cvtColor(clean, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)  # type: ignore[assignment]
    if settings.recoloured_share and rng.random() < settings.recoloured_share:
        clean = np.ascontiguousarray(clean[..., rng.permutation(3)])
    if rng.random() < settings.clean_share:
        return clean[:patch_px, :patch_px], clean[:patch_px, :patch_px]
    damaged = clean
    if rng.random() < settings.twice_share:
        damaged, clean = _first_compression(clean, room, settings, rng)
    damaged, clean = damaged[:room, :room], clean[:room, :room]
    damaged = _jpeg(damaged, settings, rng)
    top, left = rng.integers(MCU_PX, size=2) if rng.random() < settings.off_grid_share else (0, 0)
    cut = (slice(top, top + patch_px), slice(left, left + patch_px))
    return damaged[cut], clean[cut]


def _first_compression(
    clean: Pixels, room: int, settings: DegradationSettings, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """Compress once, then move the grid (and perhaps scale down), so that a second compression does not match."""
    if rng.random() < settings.rescale_share:
        size = int(rng.integers(int(room * 1.05), 2 * room - MCU_PX))
        start = rng.integers(0, clean.shape[0] - size + 1, size=2)
        clean = clean[start[0] : start[0] + size, start[1] : start[1] + size]
        damaged = _jpeg(clean, settings, rng)
        to = (room, room)
        return (
            cv2.resize(damaged, to, interpolation=cv2.INTER_AREA),  # type: ignore[return-value]
            cv2.resize(clean, to, interpolation=cv2.INTER_AREA),
        )
    clean = clean[: room + MCU_PX, : room + MCU_PX]
    damaged = _jpeg(clean, settings, rng)
    top, left = rng.integers(MCU_PX, size=2)
    return damaged[top:, left:], clean[top:, left:]


def _jpeg(pixels: Pixels, settings: DegradationSettings, rng: np.random.Generator) -> Pixels:
    span = settings.quality_max + 1 - settings.quality_min
    quality = settings.quality_min + int(span * rng.random() ** settings.quality_power)
    sampling = _SAMPLING[rng.choice(3, p=settings.sampling_shares)]
    return apply_jpeg(pixels, quality, sampling)


def apply_jpeg(pixels: Pixels, quality: int, sampling: int = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420) -> Pixels:
    """Return an RGB image uint8 [H, W, 3] after one JPEG compression by OpenCV at `quality`."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, coded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), flags)
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)  # type: ignore[arg-type, return-value]
