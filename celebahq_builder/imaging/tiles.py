"""Running a network over a photo in overlapping tiles, so that memory does not grow with the photo."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """Part of one axis: what a tile yields and what the network must see for it, in input px."""

    start: int
    stop: int
    seen_start: int
    seen_stop: int


def spans(length: int, tile: int, context: int, stride: int) -> Iterator[Span]:
    """Cut an axis of `length` px into spans of at most `tile` px, seen with `context` px on both sides.

    What is seen starts at multiples of `stride`, so that a strided network meets each tile in the same phase.
    """
    tile = max(tile - tile % stride, stride)
    context += -context % stride
    for start in range(0, length, tile):
        stop = min(start + tile, length)
        yield Span(start, stop, max(start - context, 0), min(stop + context, length))


def run_tiled(
    net: Callable[[Tensor], Tensor], pixels: Tensor, *, scale: int, tile_px: int, context_px: int, stride_px: int
) -> Tensor:
    """Run a photo through a network, tile by tile.

    Args:
        net: maps float [1, 3, H, W] in [0, 1] to [1, 3, scale H, scale W].
        pixels: uint8 [3, H, W] on the network's device.
        tile_px: side of a tile's result in input px.
        context_px: what the network sees around it.
        stride_px: tiles start at multiples of it.

    Returns:
        uint8 [3, scale H, scale W]: the network's result, clipped and rounded.
    """
    _, height, width = pixels.shape
    result = torch.empty((3, height * scale, width * scale), dtype=torch.uint8, device=pixels.device)
    with torch.inference_mode():
        for row in spans(height, tile_px, context_px, stride_px):
            for column in spans(width, tile_px, context_px, stride_px):
                seen = pixels[:, row.seen_start : row.seen_stop, column.seen_start : column.seen_stop]
                batch = seen[None].float().div_(255).contiguous(memory_format=torch.channels_last)
                output = net(batch)[0]
                top, left = (row.start - row.seen_start) * scale, (column.start - column.seen_start) * scale
                rows, columns = (row.stop - row.start) * scale, (column.stop - column.start) * scale
                inner = output[:, top : top + rows, left : left + columns]
                place = result[:, row.start * scale :, column.start * scale :][:, :rows, :columns]
                place.copy_(inner.mul(255).round_().clamp_(0, 255))
    return result
