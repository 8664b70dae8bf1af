"""Patches lie at the drawn positions, which depend on the image number only; sums are those of the values."""

import numpy as np
import pytest
import torch

from celebahq_builder.metrics import descriptors
from celebahq_builder.metrics.descriptors import PATCHES_PER_IMAGE, channel_sums, draw_positions, extract_patches


def test_positions_depend_on_the_image_number_only() -> None:
    whole = draw_positions((3, 0), 16, 0, 200)
    assert whole.shape == (200, PATCHES_PER_IMAGE, 2)
    for start, stop in ((0, 1), (63, 65), (64, 128), (130, 200)):
        assert np.array_equal(draw_positions((3, 0), 16, start, stop), whole[start:stop])
    assert len(np.unique(whole.reshape(200, -1), axis=0)) == 200
    assert (whole != draw_positions((3, 1), 16, 0, 200)).mean() > 0.8


def test_positions_are_uniform_and_inside() -> None:
    positions = draw_positions((0,), 16, 0, 1000)
    for axis in range(2):
        counts = np.bincount(positions[..., axis].ravel(), minlength=10)
        assert len(counts) == 10
        assert np.abs(counts / counts.mean() - 1).max() < 0.05


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_equal_slices(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    level = torch.from_numpy(np.random.default_rng(0).random((5, 16, 16, channels), dtype=np.float32))
    positions = draw_positions((0,), 16, 0, 5)
    positions[0, :2], positions[4, :2] = (
        [[0, 0], [9, 9]],
        [[0, 9], [9, 9]],
    )  # corners, where a window could leave the array
    found = extract_patches(level, positions)
    for n in range(5):
        for p in range(PATCHES_PER_IMAGE):
            top, left = positions[n, p]
            expected = level[n, top : top + 7, left : left + 7].reshape(-1)
            assert torch.equal(found[n * PATCHES_PER_IMAGE + p], expected)
    monkeypatch.setattr(descriptors, "_patches_by_numpy", descriptors._patches_by_torch)  # as on a GPU
    assert torch.equal(extract_patches(level, positions), found)
    sums = channel_sums(found, 5)
    values = found.double().view(5, -1, channels)
    assert torch.allclose(sums[:, 0], values.sum(dim=1), rtol=1e-12)
    assert torch.allclose(sums[:, 1], values.square().sum(dim=1), rtol=1e-6)
