"""The discriminator's input, compared with a slow reference."""

import numpy as np
import pytest
import torch

from celebahq_builder.data.dataset import Batch, fade_in, to_device
from tests.hdf5.files import Images, noise


def slowly(data: Images, alpha: float) -> np.ndarray:
    """Interpolate each pixel with the mean of its 2x2 block, then scale [0, 255] to [-1, 1]."""
    mixed = np.empty(data.shape)
    for n, c, y, x in np.ndindex(data.shape):
        block = data[n, c, y // 2 * 2 : y // 2 * 2 + 2, x // 2 * 2 : x // 2 * 2 + 2].astype(np.float64)
        mixed[n, c, y, x] = alpha * data[n, c, y, x] + (1 - alpha) * block.sum() / block.size
    return mixed / 255 * 2 - 1


def batch(data: Images, alpha: float | None = None, labels: torch.Tensor | None = None) -> Batch:
    return Batch(torch.from_numpy(data), labels, torch.arange(len(data)), alpha)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.7, 1.0])
def test_equals_slow_reference(alpha: float) -> None:
    data = noise(3, 8)
    reals, _ = to_device(batch(data), "cpu", alpha)
    assert reals.dtype == torch.float32
    np.testing.assert_allclose(reals.numpy(), slowly(data, alpha), atol=5e-7)


def test_range() -> None:
    data = np.array([0, 255, 0, 255], np.uint8).reshape(1, 1, 2, 2)
    assert to_device(batch(data), "cpu")[0].unique().tolist() == [-1, 1]
    assert to_device(batch(data), "cpu", 0.0)[0].unique().tolist() == [0]


def test_alpha_of_the_data_set_by_default() -> None:
    data = noise(2, 4)
    whole, _ = to_device(batch(data), "cpu")
    half, _ = to_device(batch(data), "cpu", 0.5)
    assert not torch.equal(whole, half)
    assert torch.equal(to_device(batch(data, alpha=0.5), "cpu")[0], half)
    assert torch.equal(to_device(batch(data, alpha=0.5), "cpu", 1.0)[0], whole)


def test_labels() -> None:
    labels = torch.eye(3)
    assert torch.equal(to_device(batch(noise(3, 4), labels=labels), "cpu")[1], labels)
    assert to_device(batch(noise(3, 4)), "cpu")[1] is None


def test_alpha_0_is_the_level_below_repeated() -> None:
    data = torch.from_numpy(noise(2, 8)).float()
    below = fade_in(data, 0)
    assert torch.equal(below[..., 0::2, 0::2], below[..., 1::2, 1::2])
    assert torch.equal(fade_in(below, 0.3), below)
    assert torch.equal(fade_in(data, 1), data)


def test_batch_is_not_changed() -> None:
    data = noise(2, 8)
    to_device(batch(data), "cpu", 0.5)[0].zero_()
    np.testing.assert_array_equal(data, noise(2, 8))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_out_of_range(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        to_device(batch(noise(1, 4)), "cpu", alpha)


def test_one_pixel_cannot_fade_in() -> None:
    assert to_device(batch(noise(1, 1)), "cpu", 1)[0].shape == (1, 3, 1, 1)
    with pytest.raises(ValueError, match="no level below"):
        to_device(batch(noise(1, 1)), "cpu", 0.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu() -> None:
    data = noise(3, 8)
    reals, _ = to_device(batch(data).pinned(), "cuda", 0.25)
    np.testing.assert_allclose(reals.cpu().numpy(), slowly(data, 0.25), atol=5e-7)
