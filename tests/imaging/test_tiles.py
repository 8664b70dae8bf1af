"""Tiled inference: windows give the result of the whole photo, whatever else is in the batch."""

from itertools import pairwise
from math import ceil, inf
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from celebahq_builder.imaging.tiles import Network, Span, run_tiled, run_tiled_all, spans
from celebahq_builder.models.autoencoder import Autoencoder
from celebahq_builder.models.srgan import SRGenerator
from tests.models.tiny_networks import perturbed, tiny_autoencoder, tiny_generator

PHOTOS = Path(__file__).parents[1] / "sample" / "celeba" / "img_celeba"


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def crop(name: str, height: int, width: int) -> Tensor:
    """The middle of a photo of the sample, uint8 [3, height, width]."""
    with Image.open(PHOTOS / name) as image:
        left, top = (image.width - width) // 2, (image.height - height) // 2
        pixels = np.asarray(image.convert("RGB").crop((left, top, left + width, top + height)))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def shifted(x: Tensor) -> Tensor:
    """Each pixel from 2 px above and 3 px to the left: exact, and wrong as soon as a window is misplaced."""
    return F.pad(x, (3, 0, 2, 0), mode="replicate")[..., :-2, :-3]


def averaged_cells(x: Tensor) -> Tensor:
    """Cells of 4 x 4 px replaced by their corner: exact only when every window starts at a multiple of 4."""
    height, width = x.shape[-2:]
    return x[..., ::4, ::4].repeat_interleave(4, -2).repeat_interleave(4, -1)[..., :height, :width]


def context_of(pixel: int, span: Span, end: int) -> float:
    """Pixels that a window sees beyond a pixel, on the side where it sees fewer; infinite where the axis ends."""
    before = pixel - span.seen_start if span.seen_start > 0 else inf
    after = span.seen_stop - 1 - pixel if span.seen_stop < end else inf
    return min(before, after)


axes = given(st.integers(1, 400), st.integers(1, 80), st.integers(0, 40), st.sampled_from([1, 2, 3, 4, 8]))
many = settings(max_examples=300, deadline=None, derandomize=True)


@many
@axes
def test_spans_cover_the_axis_once(length: int, tile: int, context: int, stride: int) -> None:
    found = spans(length, tile, context, stride)
    assert [found[0].start, found[-1].stop] == [0, length]
    assert all(one.stop == other.start for one, other in pairwise(found))
    assert all(span.start < span.stop for span in found)


@many
@axes
def test_windows_are_equal_and_start_at_strides(length: int, tile: int, context: int, stride: int) -> None:
    found = spans(length, tile, context, stride)
    whole = ceil(length / stride) * stride
    assert len({span.seen_stop - span.seen_start for span in found}) == 1
    assert all(span.seen_start % stride == 0 for span in found)
    assert all(one.seen_start < other.seen_start for one, other in pairwise(found))
    assert [found[0].seen_start, found[-1].seen_stop] == [0, whole]


@many
@axes
def test_windows_are_few_and_bounded(length: int, tile: int, context: int, stride: int) -> None:
    found = spans(length, tile, context, stride)
    whole, step = ceil(length / stride) * stride, max(tile // stride, 1) * stride
    around = 2 * ceil(context / stride) * stride
    seen = found[0].seen_stop - found[0].seen_start
    assert seen <= step + around
    assert len(found) == max(1, ceil((whole - around) / step))
    assert len(found) == 1 or len(found) * (seen - stride - around) + around < whole


@many
@axes
def test_every_pixel_has_its_context_or_the_true_border(length: int, tile: int, context: int, stride: int) -> None:
    found = spans(length, tile, context, stride)
    end = found[-1].seen_stop
    for span in found:
        assert min(context_of(pixel, span, end) for pixel in range(span.start, span.stop)) >= context


@settings(max_examples=60, deadline=None, derandomize=True)
@axes
def test_every_pixel_comes_from_the_window_that_sees_most(length: int, tile: int, context: int, stride: int) -> None:
    found = spans(length, tile, context, stride)
    end = found[-1].seen_stop
    for span in found:
        for pixel in range(span.start, span.stop):
            others = [other for other in found if other.seen_start <= pixel < other.seen_stop]
            assert context_of(pixel, span, end) == max(context_of(pixel, other, end) for other in others)


def test_spans_by_hand() -> None:
    assert spans(284, 256, 14, 1) == [Span(0, 284, 0, 284)]
    assert spans(100, 16, 8, 8) == [
        Span(0, 24, 0, 32),
        Span(24, 40, 16, 48),
        Span(40, 56, 32, 64),
        Span(56, 72, 48, 80),
        Span(72, 84, 64, 96),
        Span(84, 100, 72, 104),
    ]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30), st.integers(3, 9))
def test_windows_are_placed_correctly(height: int, width: int, tile: int, context: int) -> None:
    pixels = photo(height, width)
    whole = shifted(pixels[None].float())[0].to(torch.uint8)
    found = run_tiled(shifted, pixels, scale=1, tile_px=tile, context_px=context, stride_px=1)
    assert found.dtype == torch.uint8
    assert torch.equal(found, whole)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30), st.integers(0, 9))
def test_windows_start_at_multiples_of_the_stride(height: int, width: int, tile: int, context: int) -> None:
    pixels = photo(height, width)
    whole = averaged_cells(pixels[None].float())[0].to(torch.uint8)
    found = run_tiled(averaged_cells, pixels, scale=1, tile_px=tile, context_px=context, stride_px=4)
    assert torch.equal(found, whole)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), max_size=6), st.integers(1, 7), st.sampled_from([1, 4])
)
def test_photos_of_a_batch_come_back_in_order(sizes: list[tuple[int, int]], batch: int, stride: int) -> None:
    net = shifted if stride == 1 else averaged_cells
    photos = [photo(*size, seed) for seed, size in enumerate(sizes)]
    found = run_tiled_all(net, photos, scale=1, tile_px=16, context_px=4, stride_px=stride, batch=batch)
    for pixels, result in zip(photos, found, strict=True):
        assert torch.equal(result, net(pixels[None].float())[0].to(torch.uint8))


class Convolutions(nn.Module):
    """Three 3 x 3 convolutions, and nearest-neighbour enlargement."""

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


def test_too_little_context_shows() -> None:
    net, pixels = Convolutions(1), photo(32, 32)
    found = run_tiled(net, pixels, scale=1, tile_px=8, context_px=1, stride_px=1)
    assert (found - untiled(net, pixels)).abs().max() > 3


@pytest.mark.parametrize(("factor", "level"), [(3.0, 255), (-1.0, 0), (0.5, 50)])
def test_clipped_and_rounded(factor: float, level: int) -> None:
    pixels = torch.full((3, 5, 5), 101, dtype=torch.uint8)
    found = run_tiled(lambda x: x * factor, pixels, scale=1, tile_px=4, context_px=0, stride_px=1)
    assert found.unique().tolist() == [level]


def seen_by(net: Network, photos: list[Tensor], **settings: int) -> list[Tensor]:
    """The inputs of a network that runs over some photos."""
    seen: list[Tensor] = []

    def watching(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return net(x)

    run_tiled_all(watching, photos, **settings)
    return seen


def test_network_sees_unit_range_and_bounded_windows() -> None:
    seen = seen_by(shifted, [photo(70, 90)], scale=1, tile_px=16, context_px=5, stride_px=2)
    assert all(float(x.min()) >= 0 and float(x.max()) <= 1 and x.dtype == torch.float32 for x in seen)
    assert max(max(x.shape[-2:]) for x in seen) <= 16 + 2 * 6
    assert len(seen) == 4 * 5


def test_the_photos_edge_is_repeated_up_to_the_stride() -> None:
    pixels = photo(21, 30)
    (seen,) = seen_by(shifted, [pixels], scale=1, tile_px=32, context_px=8, stride_px=8)
    assert torch.equal(seen, F.pad(pixels[None].float() / 255, (0, 2, 0, 3), mode="replicate"))


def test_batches_are_full_across_photos() -> None:
    """Three photos of 2 x 2 equal windows make batches of 5 + 5 + 2; a photo of another shape has its own."""
    photos = [photo(40, 40, seed) for seed in range(3)] + [photo(20, 11)]
    seen = seen_by(shifted, photos, scale=1, tile_px=24, context_px=4, stride_px=1, batch=5)
    assert [tuple(x.shape) for x in seen] == [(5, 3, 24, 24), (5, 3, 24, 24), (2, 3, 24, 24), (1, 3, 20, 11)]


def test_no_photos() -> None:
    assert run_tiled_all(shifted, [], scale=1, tile_px=24, context_px=4, stride_px=1) == []


NETWORKS = {
    name: perturbed(net).to(memory_format=torch.channels_last)  # as `models.registry.load` returns them
    for name, net in {
        "autoencoder": tiny_autoencoder(),
        "generator": tiny_generator(blocks=1),
        "generator with noise": tiny_generator(blocks=1, noise=4),
    }.items()
}


def settings_of(net: Autoencoder | SRGenerator, tile_px: int) -> dict[str, int]:
    """The settings with which the stages run a network."""
    scale = net.SCALE if isinstance(net, SRGenerator) else 1
    return {"scale": scale, "tile_px": tile_px, "context_px": net.context_px, "stride_px": net.STRIDE_PX}


@pytest.mark.parametrize(
    ("name", "tile", "sizes"),
    [
        ("autoencoder", 64, [(330, 291), (331, 290), (200, 291), (97, 40)]),
        ("generator with noise", 32, [(150, 181), (151, 180), (90, 60), (33, 20)]),
    ],
)
def test_batches_do_not_matter(name: str, tile: int, sizes: list[tuple[int, int]]) -> None:
    """On some CPUs, the last bits of a convolution depend on the size of the batch: a few values differ by a level."""
    net = NETWORKS[name]
    names = ("000001.jpg", "000006.jpg", "000012.jpg", "000003.jpg")
    photos = [crop(file, *size) for file, size in zip(names, sizes, strict=True)]
    alone = [run_tiled(net, pixels, **settings_of(net, tile)) for pixels in photos]
    assert max(x.shape[0] for x in seen_by(net, photos, **settings_of(net, tile), batch=5)) == 5
    for batch in (1, 2, 5):
        together = run_tiled_all(net, photos, **settings_of(net, tile), batch=batch)
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1)
            assert (one != other).float().mean() < 1e-3


@pytest.mark.parametrize(
    ("name", "tile", "side"), [("autoencoder", 64, 408), ("generator", 32, 100), ("generator with noise", 32, 100)]
)
def test_windows_do_not_show(name: str, tile: int, side: int) -> None:
    net, pixels = NETWORKS[name], crop("000001.jpg", side, side)
    assert len(spans(side, tile, net.context_px, net.STRIDE_PX)) > 1
    found = run_tiled(net, pixels, **settings_of(net, tile), batch=3)
    whole = untiled(net, pixels)
    assert (found - whole).abs().max() <= 1
    assert (found != whole).float().mean() < 0.005
    assert (whole - pixels if name == "autoencoder" else whole).abs().max() > 5


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (33, 47), (48, 64)])
@pytest.mark.parametrize("name", ["autoencoder", "generator with noise"])
def test_small_photo_passes_as_it_is(name: str, size: tuple[int, int]) -> None:
    """Extending it to the stride outside the network gives the same bits as the network's own padding."""
    net, pixels = NETWORKS[name], crop("000001.jpg", *size)
    x = (pixels[None] / 255).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        whole = net(x)[0].mul(255).round().clamp(0, 255)
    assert torch.equal(run_tiled(net, pixels, **settings_of(net, 64)), whole.to(torch.uint8))
