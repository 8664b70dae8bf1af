"""Tiled inference: a network runs over photos of any size in overlapping windows, in bounded memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]
"""Maps float [N, 3, H, W] in [0, 1] to [N, 3, scale H, scale W], each image independently of its batch."""


@dataclass(frozen=True)
class Span:
    """Part of one axis in input px: the pixels that are taken from a window, and those that the network sees."""

    start: int
    stop: int
    seen_start: int
    seen_stop: int
    """Beyond the end of the axis, by less than a stride, if the axis is no multiple of the stride."""


def spans(length: int, tile: int, context: int, stride: int) -> list[Span]:
    """Cut an axis into spans that are all seen through windows of the same length.

    One window is enough if the axis has at most `tile` px plus `context` px on both sides. Otherwise the axis gets as
    few windows of at most that length as possible, each as short as their number allows, because overlaps are computed
    twice. Windows start at multiples of `stride`, and the last one is shifted inwards to end with the axis. So a
    network's own padding lies at the photo's true border or at least `context` px away, and a strided network sees
    each window in the same phase. Where windows overlap, a pixel is taken from the window that sees most around it.

    Args:
        length: of the axis in px.
        tile: px that a window may yield.
        context: px around each pixel that a result depends on.
        stride: of the network, in px.

    Examples:
        >>> for span in spans(300, tile=256, context=14, stride=1):
        ...     print(span)
        Span(start=0, stop=150, seen_start=0, seen_stop=164)
        Span(start=150, stop=300, seen_start=136, seen_stop=300)
    """
    tile = max(tile - tile % stride, stride)
    around = 2 * (context + -context % stride)
    whole = length + -length % stride
    if whole <= tile + around:
        return [Span(0, length, 0, whole)]
    count = -(-(whole - around) // tile)
    seen = -(-(whole - around) // (count * stride)) * stride + around
    starts = [min(i * (seen - around), whole - seen) for i in range(count)]
    cuts = [0, *((one + another + seen) // 2 for one, another in pairwise(starts)), length]
    return [Span(*cut, start, start + seen) for cut, start in zip(pairwise(cuts), starts, strict=True)]


@dataclass(frozen=True, eq=False)
class _Window:
    """Part of a photo that passes the network at once, and the place of its result."""

    photo: Tensor
    result: Tensor
    row: Span
    column: Span

    @property
    def shape(self) -> tuple[int, int]:
        return self.row.seen_stop - self.row.seen_start, self.column.seen_stop - self.column.seen_start

    def fill(self, seen: Tensor) -> None:
        """Write the network's input to `seen`, float [3, H, W]; beyond the photo its last pixels are repeated."""
        part = self.photo[:, self.row.seen_start : self.row.seen_stop, self.column.seen_start : self.column.seen_stop]
        _, height, width = part.shape
        seen[:, :height, :width] = part
        seen[:, height:, :width] = seen[:, height - 1 : height, :width]
        seen[:, :, width:] = seen[:, :, width - 1 : width]

    def store(self, output: Tensor, scale: int) -> None:
        """Write the window's share of the network's output [3, scale H, scale W] to the result."""
        row, column = self.row, self.column
        top, left = (row.start - row.seen_start) * scale, (column.start - column.seen_start) * scale
        rows, columns = (row.stop - row.start) * scale, (column.stop - column.start) * scale
        inner = output[:, top : top + rows, left : left + columns]
        place = self.result[:, row.start * scale :, column.start * scale :][:, :rows, :columns]
        place.copy_(inner.mul(255).round_().clamp_(0, 255))


def run_tiled_all(
    net: Network,
    photos: Sequence[Tensor],
    *,
    scale: int,
    tile_px: int,
    context_px: int,
    stride_px: int,
    batch: int = 1,
) -> list[Tensor]:
    """Run photos of any sizes through a network; windows of equal shape pass it together.

    A photo's result depends neither on the other photos nor on `batch`, except for the rounding of sums, which kernels
    for other batch sizes may add in another order.

    Args:
        net: maps float [N, 3, H, W] in [0, 1] to [N, 3, scale H, scale W].
        photos: uint8 [3, H, W] each, all on the network's device.
        scale: result pixels per input pixel, in each direction.
        tile_px: a window has at most this many input px, plus `context_px` on both sides.
        context_px: input px around each pixel that the network sees, where the photo has them.
        stride_px: windows start at its multiples; the photo is extended to a multiple by repeating its last pixels.
        batch: largest number of windows that pass the network together.

    Returns:
        uint8 [3, scale H, scale W] for each photo: the network's output times 255, rounded and clipped.

    Examples:
        >>> photo = torch.arange(3 * 40 * 50).view(3, 40, 50).to(torch.uint8)
        >>> settings = {"scale": 1, "tile_px": 16, "context_px": 4, "stride_px": 1}
        >>> negative, = run_tiled_all(lambda x: 1 - x, [photo], **settings, batch=8)
        >>> torch.equal(negative, 255 - photo)
        True
    """
    results = [photo.new_empty((3, photo.shape[1] * scale, photo.shape[2] * scale)) for photo in photos]
    shapes: defaultdict[tuple[int, int], list[_Window]] = defaultdict(list)
    for photo, result in zip(photos, results, strict=True):
        rows, columns = (spans(length, tile_px, context_px, stride_px) for length in photo.shape[1:])
        for window in (_Window(photo, result, row, column) for row in rows for column in columns):
            shapes[window.shape].append(window)
    with torch.inference_mode():
        for windows in shapes.values():
            for first in range(0, len(windows), batch):
                _run(net, windows[first : first + batch], scale)
    return results


def run_tiled(
    net: Network, pixels: Tensor, *, scale: int, tile_px: int, context_px: int, stride_px: int, batch: int = 1
) -> Tensor:
    """Run one photo uint8 [3, H, W] through a network; see `run_tiled_all`."""
    settings = {"scale": scale, "tile_px": tile_px, "context_px": context_px, "stride_px": stride_px, "batch": batch}
    return run_tiled_all(net, [pixels], **settings)[0]


def _run(net: Network, windows: Sequence[_Window], scale: int) -> None:
    """Run windows of equal shape through the network as one batch."""
    shape = (len(windows), 3, *windows[0].shape)
    device = windows[0].photo.device
    seen = torch.empty(shape, dtype=torch.float32, device=device, memory_format=torch.channels_last)
    for window, place in zip(windows, seen, strict=True):
        window.fill(place)
    for window, output in zip(windows, net(seen.div_(255)), strict=True):
        window.store(output, scale)
