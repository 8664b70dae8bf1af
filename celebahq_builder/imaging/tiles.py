"""Running a network over photos in overlapping windows: memory for one batch of them, however large the photos are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]
"""Maps float [N, 3, H, W] in [0, 1] to [N, 3, scale H, scale W]; each image of a batch for itself."""


@dataclass(frozen=True)
class Span:
    """Part of one axis: what a window yields and what the network sees for it, in input px."""

    start: int
    stop: int
    seen_start: int
    seen_stop: int
    """Past the end of the axis by less than a stride where that is no multiple of it."""


def spans(length: int, tile: int, context: int, stride: int) -> list[Span]:
    """Cut an axis of `length` px into spans that are all seen through windows of the same length.

    The window is the whole axis if that has at most `tile` px and `context` px on both sides. Else there are as few
    windows of at most this length as will do, each as short as their number allows: what overlaps is computed twice.
    They start at multiples of `stride`, and the last one is shifted inwards to end where the axis ends. So a network
    that pads meets its padding at the photo's true border or at least `context` px away, and a strided one meets each
    window in the same phase. Where windows overlap, each pixel is taken from the one that sees most around it.
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
    """Part of a photo that passes the network at once, and where its result goes."""

    photo: Tensor
    result: Tensor
    row: Span
    column: Span

    @property
    def shape(self) -> tuple[int, int]:
        return self.row.seen_stop - self.row.seen_start, self.column.seen_stop - self.column.seen_start

    def fill(self, seen: Tensor) -> None:
        """Write what the network sees into float [3, H, W]; beyond the photo its last pixels are repeated."""
        part = self.photo[:, self.row.seen_start : self.row.seen_stop, self.column.seen_start : self.column.seen_stop]
        _, height, width = part.shape
        seen[:, :height, :width] = part
        seen[:, height:, :width] = seen[:, height - 1 : height, :width]
        seen[:, :, width:] = seen[:, :, width - 1 : width]

    def keep(self, output: Tensor, scale: int) -> None:
        """Write what the window yields of the network's output [3, scale H, scale W] into the result."""
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
    """Run photos of any sizes through a network, windows of equal shape together.

    What a photo becomes does not depend on the others nor on `batch`, up to the rounding of sums that a kernel for
    another batch size may take in another order.

    Args:
        net: see `Network`.
        photos: uint8 [3, H, W] each, all on the network's device.
        scale: result pixels per input pixel, in each direction.
        tile_px: bounds a window: at most this and `context_px` on both sides, in input px.
        context_px: what the network sees around each pixel, where the photo has it.
        stride_px: windows start at multiples of it; the photo's last pixels are repeated up to one.
        batch: windows that pass the network together, at most.

    Returns:
        uint8 [3, scale H, scale W] each: the network's results, clipped and rounded.
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
    """Run one photo, uint8 [3, H, W], through a network; see `run_tiled_all`."""
    settings = {"scale": scale, "tile_px": tile_px, "context_px": context_px, "stride_px": stride_px, "batch": batch}
    return run_tiled_all(net, [pixels], **settings)[0]


def _run(net: Network, windows: Sequence[_Window], scale: int) -> None:
    """Run windows of equal shape through the network at once."""
    shape = (len(windows), 3, *windows[0].shape)
    device = windows[0].photo.device
    seen = torch.empty(shape, dtype=torch.float32, device=device, memory_format=torch.channels_last)
    for window, place in zip(windows, seen, strict=True):
        window.fill(place)
    for window, output in zip(windows, net(seen.div_(255)), strict=True):
        window.keep(output, scale)
