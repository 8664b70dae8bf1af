"""Images become tensors and back; the reduction is the one that super-resolution papers use."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from celebahq_builder.restoration.photos import bicubic_quarter, downscale_4x, to_pixels, to_tensor, validation_crop


def test_there_and_back() -> None:
    images = [np.random.default_rng(i).integers(0, 256, (8, 12, 3), dtype=np.uint8) for i in range(2)]
    batch = to_tensor(images, torch.device("cpu"))
    assert batch.shape == (2, 3, 8, 12)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert all(np.array_equal(a, b) for a, b in zip(to_pixels(batch), images, strict=True))
    assert to_pixels(torch.full((1, 3, 1, 1), 1.7))[0].max() == 255
    assert to_pixels(torch.full((1, 3, 1, 1), -0.2))[0].max() == 0


def test_quarter_is_not_rounded() -> None:
    batch = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(bicubic_quarter(batch), downscale_4x(batch))
    assert torch.allclose(bicubic_quarter(batch).clamp(0, 1), downscale_4x(batch), atol=0.5001 / 255)


def test_corner() -> None:
    photo = np.arange(24 * 24 * 3, dtype=np.int64).astype(np.uint8).reshape(24, 24, 3)[:21]
    assert np.array_equal(validation_crop(photo), photo[:16, :24])
    assert np.array_equal(validation_crop(photo, 8), photo[:8, :8])


def test_shrink4() -> None:
    """Rounded to 8 bits; of a ramp, the means of 4 x 4 px; and one colour stays."""
    ramp = (torch.arange(64.0)[None, None, None, :] * 3 / 255).expand(1, 3, 32, 64)
    small = downscale_4x(ramp)
    assert small.shape == (1, 3, 8, 16)
    assert torch.equal(small * 255, (small * 255).round())
    inner = (small - F.avg_pool2d(ramp, 4))[..., 2:-2].abs().max() * 255
    assert inner <= 0.51
    assert torch.allclose(downscale_4x(torch.full((1, 3, 16, 16), 77 / 255)), torch.tensor(77 / 255))


def test_shrink4_equals_pillow() -> None:
    """Pillow's bicubic filter, too, is Keys' with a = -0.5, widened to the scale."""
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((12, 8), Image.Resampling.BICUBIC)).astype(int)
    found = downscale_4x(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0) * 255
    assert np.abs(found.numpy() - expected).max() <= 1
