"""Noise hashed from pixels: white, of unit variance, and the same wherever and whenever the pixels are."""

import numpy as np
import pytest
import torch
from torch import Tensor

from celebahq_builder.models.srgan import hash_noise

WRAP = 2**64


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    """A smooth image, as photos are: neighbours differ by few levels."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(-1, 2, (3, height, width)).cumsum(axis=1).cumsum(axis=2)
    return torch.from_numpy(np.clip(128 + steps / 4, 0, 255).round().astype(np.float32))[None] / 255


def signed(value: int) -> int:
    value %= WRAP
    return value - WRAP if value >= WRAP // 2 else value


def slow(levels: np.ndarray, top: int, left: int, channel: int) -> float:
    """The noise of one pixel, in Python's own integers: wrapping to 64 bits, shifting with the sign."""
    height, width = levels.shape[1:]
    key = 0
    for y in (top - 1, top, top + 1):
        for x in (left - 1, left, left + 1):
            r, g, b = (int(v) for v in levels[:, min(max(y, 0), height - 1), min(max(x, 0), width - 1)])
            key = signed((key ^ (r + 256 * g + 65536 * b)) * 0x5851F42D4C957F2D + 0x14057B7EF767814F)
            key = key ^ (key >> 29)
    key = signed(key + channel * 0x1E3779B97F4A7C15)
    key = signed((key ^ (key >> 30)) * 0x3F58476D1CE4E5B9)
    key = signed((key ^ (key >> 27)) * 0x14D049BB133111EB)
    return ((key >> 31) & 0xFFFF) / 65535 * 12**0.5 - 3**0.5


def test_as_written_down() -> None:
    x = photo(6, 7)
    levels = (x[0] * 255).round().int().numpy()
    found = hash_noise(x, 3)[0]
    for place in [(0, 0, 0), (1, 2, 3), (2, 5, 6), (0, 3, 0), (2, 0, 6)]:
        assert float(found[place]) == pytest.approx(slow(levels, place[1], place[2], place[0]), abs=1e-5)


def test_white_and_of_unit_variance() -> None:
    noise = hash_noise(photo(200, 200), 4)[0].double()
    assert noise.mean(dim=(1, 2)).abs().max() < 0.03
    assert (noise.var(dim=(1, 2)) - 1).abs().max() < 0.03
    flat = noise.flatten(1)
    assert (torch.corrcoef(flat) - torch.eye(4)).abs().max() < 0.03
    for shift in ((0, 1), (1, 0), (1, 1)):
        moved = torch.roll(noise, shift, dims=(1, 2))[:, 1:, 1:]
        assert (noise[:, 1:, 1:] * moved).mean(dim=(1, 2)).abs().max() < 0.03


def test_moves_with_the_pixels() -> None:
    x = photo(30, 30)
    assert torch.equal(hash_noise(x, 2)[..., 6:20, 8:19], hash_noise(x[..., 5:21, 7:20], 2)[..., 1:-1, 1:-1])


def test_rounding_noise_of_floats_does_not_show() -> None:
    x = photo(20, 20)
    assert torch.equal(hash_noise(x, 2), hash_noise(x + 1e-4 * torch.rand_like(x), 2))


def test_one_level_changes_all_around() -> None:
    x = photo(20, 20)
    other = x.clone()
    other[0, 1, 10, 10] += 1 / 255
    changed = (hash_noise(other, 1) != hash_noise(x, 1))[0, 0].nonzero()
    assert sorted(map(tuple, changed.tolist())) == [(y, z) for y in (9, 10, 11) for z in (9, 10, 11)]


def test_one_colour_has_one_noise() -> None:
    noise = hash_noise(torch.full((1, 3, 9, 9), 0.5), 2)
    assert (noise == noise[..., :1, :1]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1)])
def test_any_size(size: tuple[int, int]) -> None:
    noise = hash_noise(photo(*size), 3)
    assert noise.shape == (1, 3, *size)
    assert noise.dtype == torch.float32
    assert not noise.requires_grad
