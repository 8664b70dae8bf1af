"""A network run in tiles gives what it gives on the whole photo, and sees no more than it must."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from celebahq_builder.imaging.tiles import run_tiled, spans


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def shifted(x: Tensor) -> Tensor:
    """Every pixel from 2 px above and 3 px to the left: exact, and wrong at once when a tile is misplaced."""
    return F.pad(x, (3, 0, 2, 0), mode="replicate")[..., :-2, :-3]


def averaged_cells(x: Tensor) -> Tensor:
    """Cells of 4 x 4 px replaced by their corner: exact only when every tile starts at a multiple of 4."""
    height, width = x.shape[-2:]
    return x[..., ::4, ::4].repeat_interleave(4, -2).repeat_interleave(4, -1)[..., :height, :width]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 400), st.integers(1, 80), st.integers(0, 40), st.sampled_from([1, 2, 4, 8]))
def test_spans(length: int, tile: int, context: int, stride: int) -> None:
    found = list(spans(length, tile, context, stride))
    assert found[0].start == 0
    assert found[-1].stop == length
    assert all(left.stop == right.start for left, right in pairwise(found))
    for span in found:
        assert 0 < span.stop - span.start <= max(tile, stride)
        assert span.seen_start % stride == 0
        assert span.seen_start <= max(span.start - context, 0)
        assert span.seen_stop >= min(span.stop + context, length)
        assert span.seen_start >= 0
        assert span.seen_stop <= length
        assert span.seen_stop - span.seen_start <= max(tile, stride) + 2 * (context + stride - 1)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(6, 30), st.integers(3, 9))
def test_tiles_lie_where_they_belong(height: int, width: int, tile: int, context: int) -> None:
    pixels = photo(height, width)
    whole = shifted(pixels[None].float())[0].to(torch.uint8)
    found = run_tiled(shifted, pixels, scale=1, tile_px=tile, context_px=context, stride_px=1)
    assert found.dtype == torch.uint8
    assert torch.equal(found, whole)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(6, 30), st.integers(0, 9))
def test_tiles_start_at_multiples_of_the_stride(height: int, width: int, tile: int, context: int) -> None:
    pixels = photo(height, width)
    whole = averaged_cells(pixels[None].float())[0].to(torch.uint8)
    found = run_tiled(averaged_cells, pixels, scale=1, tile_px=tile, context_px=context, stride_px=4)
    assert torch.equal(found, whole)


def test_tiles_of_one_pixel() -> None:
    pixels = photo(5, 4)
    whole = shifted(pixels[None].float())[0].to(torch.uint8)
    assert torch.equal(run_tiled(shifted, pixels, scale=1, tile_px=1, context_px=3, stride_px=1), whole)


class Convolutions(nn.Module):
    """Three 3 x 3 convolutions, and nearest-neighbour enlargement."""

    CONTEXT_PX = 3

    def __init__(self, scale: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
            self.tail = nn.Conv2d(8, 3 * scale**2, 3, padding=1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.tail(self.body(x)), self.scale) * 5 + 0.5


def untiled(net: nn.Module, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        return net(pixels[None] / 255)[0].mul(255).round().clamp(0, 255)


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 37), (23, 45), (32, 32)])
def test_equals_the_untiled_network(scale: int, size: tuple[int, int]) -> None:
    net, pixels = Convolutions(scale), photo(*size)
    whole = untiled(net, pixels)
    found = run_tiled(net, pixels, scale=scale, tile_px=8, context_px=3, stride_px=1)
    assert found.shape == (3, size[0] * scale, size[1] * scale)
    assert (found - whole).abs().max() <= 1
    assert (found != whole).float().mean() < 0.002
    assert whole.std() > 20 or min(size) == 1


def test_too_little_context_would_show() -> None:
    net, pixels = Convolutions(1), photo(32, 32)
    found = run_tiled(net, pixels, scale=1, tile_px=8, context_px=1, stride_px=1)
    assert (found - untiled(net, pixels)).abs().max() > 3


@pytest.mark.parametrize(("factor", "level"), [(3.0, 255), (-1.0, 0), (0.5, 50)])
def test_clipped_and_rounded(factor: float, level: int) -> None:
    pixels = torch.full((3, 5, 5), 101, dtype=torch.uint8)
    found = run_tiled(lambda x: x * factor, pixels, scale=1, tile_px=4, context_px=0, stride_px=1)
    assert found.unique().tolist() == [level]


def test_network_sees_unit_range_and_bounded_tiles() -> None:
    seen: list[Tensor] = []

    def net(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    run_tiled(net, photo(70, 90), scale=1, tile_px=16, context_px=5, stride_px=2)
    assert all(float(x.min()) >= 0 and float(x.max()) <= 1 and x.dtype == torch.float32 for x in seen)
    assert max(max(x.shape[-2:]) for x in seen) <= 16 + 2 * 6
    assert len(seen) == 5 * 6
