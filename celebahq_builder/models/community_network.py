"""A network that spandrel runs, with the tiles that it needs: context, stride and memory, measured once per file."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from celebahq_builder.config import from_mapping
from celebahq_builder.errors import CelebAHQError, WeightsError
from celebahq_builder.limits import MAX_VALUE_BYTES
from celebahq_builder.storage import parse_json, read_text, write_json

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor

log = logging.getLogger(__name__)

MEMORY_BYTES = 2 << 30
"""Memory that one tile may take, 2 GB: as many workers as cores fit a common machine, and one fits a small GPU."""

TILE_MIN_PX = 32
"""Smallest side length of a tile, also where the memory is exceeded."""

REACH_LEVELS = 0.02
"""Differences below this many grey levels do not count as reach. Tiled and untiled results must differ by less than 1
on any photo, and photos react more strongly than the probe: with 0.1, a photo differed by 2 levels."""

CONTEXT_STEP_PX = 8
"""The context is a multiple of this, so that the last bits of a machine do not decide it."""

CONTEXT_MAX_PX = 112
"""Largest context; a network that looks farther looks at the whole image, such as one with global pooling."""

WINDOW_PX = 64
"""Stride of networks whose result depends on the position of the tile: the size of attention windows divides it."""

PROBE_PX = (64, 256)
"""Height and width of the image on which the reach is measured; it is cut near the middle."""

MULTIPLE_MAX_PX = PROBE_PX[1] // 2
"""Networks that require sizes of larger multiples are refused: the image could not be cut."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luma (ITU-R BT.601)."""


@dataclass(frozen=True)
class Footprint:
    """Tiles of a network, as measured."""

    context_px: int
    """Input px around a pixel on which its result depends noticeably."""
    stride_px: int
    """Tiles start at multiples of this, in input px."""
    bytes_per_px: int
    """Largest memory during a run, per input px, in float32."""
    beyond_levels: float
    """Largest effect of what lies beyond the context, in grey levels; more than `REACH_LEVELS` only at the largest
    context."""

    def tile_px(self, at_most: int) -> int:
        """Return the side length of tiles whose windows take at most `MEMORY_BYTES`, in input px.

        >>> Footprint(context_px=80, stride_px=1, bytes_per_px=12_000, beyond_levels=0.1).tile_px(at_most=512)
        263
        """
        around = 2 * (self.context_px + -self.context_px % self.stride_px)
        return max(min(at_most, math.isqrt(MEMORY_BYTES // self.bytes_per_px) - around), TILE_MIN_PX)


class CommunityNetwork(nn.Module):
    """A network of a weight file, with the interface of `SRGenerator` and `Autoencoder`.

    Shapes: [N, 3, H, W] -> [N, 3, SCALE H, SCALE W], any H, W >= 1. Float, RGB in [0, 1]. Images pass the network one
    by one, padded to the sizes that it requires, so a result does not depend on the batch. A network for grey images
    gets the luma; the colour differences are enlarged bicubically.

    Args:
        descriptor: the network and its properties, from spandrel.
        path: of the file, for messages.
        digest: SHA-256 of the file.
    """

    def __init__(self, descriptor: ImageModelDescriptor[nn.Module], path: Path, digest: str) -> None:
        super().__init__()
        self.model = descriptor.model.float().eval().requires_grad_(False)
        self.descriptor = descriptor
        self.path = path
        self.SCALE: int = descriptor.scale
        self.footprint = cached_footprint(digest, self.measure)
        self.context_px, self.STRIDE_PX = self.footprint.context_px, self.footprint.stride_px

    def __str__(self) -> str:
        """Return architecture, size and tiles in a few words."""
        found = " ".join([self.descriptor.architecture.name, *self.descriptor.tags])
        return f"{self.path.name}: {found}, {self.SCALE}x; context of tiles {self.context_px} px"

    @property
    def warning(self) -> str:
        """Return a warning if seams of the tiles may be visible; an empty string for most networks."""
        if self.footprint.beyond_levels <= REACH_LEVELS:
            return ""
        return (
            f"{self.path}: a result depends on the whole image, by up to {self.footprint.beyond_levels:.1f} grey "
            f"levels beyond {self.context_px} px; the tiles of large faces may have seams, a larger tile_px avoids them"
        )

    def measure(self) -> Footprint:
        """Return the measured footprint; see `measure_footprint`.

        Raises:
            WeightsError: the network uses random numbers.
        """
        found = measure_footprint(self, self.descriptor.size_requirements.multiple_of)
        if found.beyond_levels > REACH_LEVELS:
            with torch.inference_mode():
                first, second = self(probe_image()), self(probe_image())
            if not torch.equal(first, second):
                raise WeightsError(
                    f"{self.path} ({self.descriptor.architecture.name}) gives another result each time; a build needs "
                    "a network without random numbers"
                )
        return found

    def forward(self, photos: Tensor) -> Tensor:
        """Return the images after the network, float32."""
        return torch.cat([self._run(photo[None]) for photo in photos])

    def _run(self, photo: Tensor) -> Tensor:
        if self.descriptor.input_channels == 3:
            return self._enlarge(photo)
        luma = (photo * photo.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
        colour = photo - luma
        if self.SCALE > 1:
            colour = F.interpolate(colour, scale_factor=self.SCALE, mode="bicubic", align_corners=False)
        return self._enlarge(luma) + colour

    def _enlarge(self, image: Tensor) -> Tensor:
        """Return the network's result [1, C, SCALE H, SCALE W] for an image with its number of channels."""
        result: Tensor = self.descriptor(image)  # it pads the image to the required size, and cuts the result
        return result.float()


# --- Measurement ------------------------------------------------------------------------------------------------


def cached_footprint(digest: str, measure: Callable[[], Footprint]) -> Footprint:
    """Return the footprint of a weight file from the cache of the user, or measure it and write it there.

    Args:
        digest: SHA-256 of the file.
        measure: measures the footprint.
    """
    import pooch  # takes 0.2 s

    path = Path(pooch.os_cache("celebahq_builder")) / f"tiles-1-{digest}.json"
    with contextlib.suppress(OSError, ValueError, CelebAHQError):
        values = parse_json(read_text(path, MAX_VALUE_BYTES))
        if isinstance(values, dict):
            return from_mapping(Footprint, values, where=str(path))
    log.info("measuring the context that the tiles of the network need; this takes up to a minute, once per file")
    found = measure()
    with contextlib.suppress(OSError, CelebAHQError):  # without a cache, each process measures the same
        write_json(path, asdict(found))
    return found


def measure_footprint(net: Callable[[Tensor], Tensor], multiple_of: int = 1) -> Footprint:
    """Measure the context, the stride and the memory of the tiles of a network, on the CPU in float32.

    A synthetic image is cut near the middle, as tiles cut a photo. The context is the distance from the cut at which
    the result agrees with that of the whole image, along both axes. A cut changes more than a single pixel would. If
    the results agree for a cut at an odd multiple of `multiple_of`, this is the stride. If not, the network may divide
    its input into windows, and the stride is a multiple of `WINDOW_PX`.

    Args:
        net: maps float [1, 3, H, W] in [0, 1] to [1, 3, scale H, scale W].
        multiple_of: stride that the network requires, at most `MULTIPLE_MAX_PX`.

    Examples:
        >>> blur = torch.nn.AvgPool2d(21, stride=1, padding=10, count_include_pad=False)
        >>> found = measure_footprint(blur)
        >>> found.context_px, found.stride_px
        (16, 1)
    """
    image, peak = probe_image(), _PeakBytes()
    pairs = [(image, 3), (image.transpose(2, 3).contiguous(), 2)]
    with torch.inference_mode():
        with peak:
            wholes = [net(pairs[0][0]), net(pairs[1][0])]
        for stride in dict.fromkeys((multiple_of, -(-WINDOW_PX // multiple_of) * multiple_of)):
            cut = max((PROBE_PX[1] // 2 - 1) // stride, 1) * stride  # an odd multiple of small strides
            effects = np.maximum(
                *(_effects(net, one, whole, axis, cut) for (one, axis), whole in zip(pairs, wholes, strict=True))
            )
            reach = int(np.flatnonzero(effects > REACH_LEVELS).max(initial=-1)) + 1
            context = min(reach + -reach % CONTEXT_STEP_PX, CONTEXT_MAX_PX)
            if reach <= CONTEXT_MAX_PX:
                break
    return Footprint(
        context_px=context,
        stride_px=stride,
        bytes_per_px=-(-peak.largest // (PROBE_PX[0] * PROBE_PX[1])),
        beyond_levels=round(float(effects[context:].max()), 3),
    )


def _effects(net: Callable[[Tensor], Tensor], image: Tensor, whole: Tensor, axis: int, cut: int) -> NDArray[np.float32]:
    """Return the largest difference at each distance from a cut, in grey levels, float [length of the probe - cut]."""
    length = image.shape[axis]
    part = net(image.narrow(axis, cut, length - cut).contiguous())
    scale = whole.shape[axis] // length
    difference = (whole.narrow(axis, cut * scale, (length - cut) * scale) - part).abs().mul_(255)
    effects: NDArray[np.float32] = difference.movedim(axis, 0).reshape(length - cut, -1).amax(dim=1).numpy()
    return effects


@functools.cache
def probe_image() -> Tensor:
    """Return an image of overlapping discs, float [1, 3, 64, 256], with edges and flat areas of many sizes.

    Discs whose radii have a density of r^-3 have the power spectrum of photographs (Lee, Mumford & Huang 2001,
    "Occlusion models for natural images").
    """
    height, width = PROBE_PX
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    image = np.zeros((height, width, 3), np.float32)
    smallest_px, largest_px = 2, 64
    for _ in range(4000):  # enough to cover every pixel
        radius = smallest_px / random.uniform((smallest_px / largest_px) ** 2, 1) ** 0.5
        inside = (rows - random.uniform(0, height)) ** 2 + (columns - random.uniform(0, width)) ** 2 < radius**2
        image[inside] = random.uniform(0, 1, 3)
    return torch.from_numpy(image.transpose(2, 0, 1)[None].copy())


class _PeakBytes(TorchDispatchMode):
    """Measure the memory of all tensors that exist at once while operations run."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self._now = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known.add(storage)
            self._now += storage.nbytes()
            self.largest = max(self.largest, self._now)
            weakref.finalize(storage, self._remove, storage.nbytes())

    def _remove(self, size_bytes: int) -> None:
        self._now -= size_bytes
