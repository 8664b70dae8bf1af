"""The pyramid equals OpenCV's; patches lie at the drawn positions; sums are those of the values."""

import cv2
import numpy as np
import pytest
import torch

from celebahq_builder.metrics import descriptors
from celebahq_builder.metrics.descriptors import (
    PATCHES_PER_IMAGE,
    channel_sums,
    draw_positions,
    extract_patches,
    laplacian_level,
    laplacian_pyramid,
    pyramid_down,
    pyramid_up,
)

# --- Pyramid --------------------------------------------------------------------------------------------------


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32) * 255


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]


def pixels(images: torch.Tensor) -> np.ndarray:
    return images[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", [(64, 64), (32, 48), (33, 48), (31, 47)])
def test_equals_opencv(size: tuple[int, int]) -> None:
    image = random_image(*size)
    small = cv2.pyrDown(image)
    assert np.abs(pixels(pyramid_down(tensor(image))) - small).max() < 1e-3
    assert np.abs(pixels(pyramid_up(tensor(small))) - cv2.pyrUp(small)).max() < 1e-3
    expected = image - cv2.pyrUp(small, dstsize=size[::-1])
    assert np.abs(pixels(laplacian_level(tensor(image))) - expected).max() < 1e-3


@pytest.mark.parametrize("channels", [1, 3])
def test_both_implementations_agree(channels: int) -> None:
    """The sum of the levels is the image."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, channels, 64, 64), dtype=np.uint8))
    found, other = [*laplacian_pyramid(images, 16)], [*descriptors._pyramid_by_torch(images, 16)]
    assert [tuple(level.shape) for level in found] == [(3, side, side, channels) for side in (64, 32, 16)]
    assert len(found) == len(other) == 3
    assert all(torch.allclose(a, b, rtol=0, atol=1e-3) for a, b in zip(found, other, strict=True))
    rebuilt = found[-1][1].numpy()
    for level in found[-2::-1]:
        rebuilt = cv2.pyrUp(rebuilt).reshape(level[1].shape) + level[1].numpy()
    assert np.abs(rebuilt - images[1].permute(1, 2, 0).numpy()).max() < 1e-3


def test_levels_of_odd_sizes() -> None:
    image = random_image(45, 31)
    found = [*laplacian_pyramid(tensor(image), 16)]
    small = cv2.pyrDown(image)
    assert np.abs(found[0][0].numpy() - (image - cv2.pyrUp(small, dstsize=(31, 45)))).max() < 1e-3
    assert np.array_equal(found[1][0].numpy(), small)
    other = [*descriptors._pyramid_by_torch(tensor(image), 16)]
    assert len(found) == len(other) == 2
    assert all(torch.allclose(a, b, rtol=0, atol=1e-3) for a, b in zip(found, other, strict=True))


# --- Descriptors ----------------------------------------------------------------------------------------------


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
    # Corners, where a window could leave the array.
    positions[0, :2], positions[4, :2] = [[0, 0], [9, 9]], [[0, 9], [9, 9]]
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
