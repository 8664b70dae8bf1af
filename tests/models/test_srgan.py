"""The upscaler starts as bicubic enlargement, keeps places and colours, sees as far as it says; all of it learns."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from celebahq_builder.models.srgan import SRDiscriminator, SRGenerator
from tests.reference.bicubic import enlarge

SIZES = [(1, 1), (1, 6), (5, 7), (8, 8)]


def fresh(blocks: int = 2) -> SRGenerator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SRGenerator(width=6, blocks=blocks)


def trained(blocks: int = 2) -> SRGenerator:
    """A network none of whose layers is zero any more."""
    net = fresh(blocks).requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in net.parameters():
            parameter += torch.randn_like(parameter) * 0.05
    return net


def photo(height: int, width: int, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height * width))


def reduced(image: NDArray[np.floating]) -> NDArray[np.float32]:
    """A quarter of the size, by Pillow's antialiased bicubic filter of floats; [3, 4H, 4W]."""
    to = (image.shape[2] // 4, image.shape[1] // 4)
    channels = (Image.fromarray(channel.astype(np.float32)) for channel in image)
    return np.stack([np.asarray(channel.resize(to, Image.Resampling.BICUBIC)) for channel in channels])


@pytest.mark.parametrize("size", SIZES)
def test_fresh_network_is_bicubic_and_one_back_projection(size: tuple[int, int]) -> None:
    x = photo(*size)
    low = x[0].double().numpy()
    first = enlarge(low, 4)
    expected = first + enlarge(low - reduced(first), 4)
    assert torch.allclose(fresh()(x)[0], torch.from_numpy(expected).float(), atol=1e-5)


def test_whatever_detail_is_made_up_the_colours_stay() -> None:
    net, x = trained(), F.avg_pool2d(photo(32, 32), 9, stride=1)
    with torch.no_grad():
        net.tail.bias += 0.2  # far too light
        y = net(x)[0]
    assert torch.allclose(y.mean(dim=(1, 2)), x[0].mean(dim=(1, 2)), atol=1e-3)
    assert float(np.abs(reduced(y.numpy()) - x[0].numpy()).mean()) < 0.01


@pytest.mark.parametrize("size", SIZES)
def test_any_size(size: tuple[int, int]) -> None:
    y = trained()(photo(*size, count=2))
    assert y.shape == (2, 3, size[0] * 4, size[1] * 4)
    assert y.dtype == torch.float32


def test_detail_lies_where_the_photo_has_it() -> None:
    """Far from the edges, a photo moved by 1 px gives the result moved by 4 px."""
    net, x = trained(), photo(40, 40)
    inner = net(x)[..., 48:-48, 48:-48]
    moved = net(torch.roll(x, (1, 1), (2, 3)))[..., 52:-44, 52:-44]
    assert torch.allclose(inner, moved, atol=1e-5)


@pytest.mark.parametrize("blocks", [0, 1, 6, 9])
def test_sees_as_far_as_its_context(blocks: int) -> None:
    net = trained(blocks)
    x = photo(64, 64).requires_grad_()
    net(x)[..., 32 * 4 : 33 * 4, 32 * 4 : 33 * 4].sum().backward()
    assert x.grad is not None
    reached = (x.grad.abs().sum(dim=(0, 1)).nonzero() - 32).abs().max()
    assert net.context_px - 1 <= reached <= net.context_px


def noisy() -> SRGenerator:
    """A network that makes up texture, of weights other than zero."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = SRGenerator(width=6, blocks=1, noise=4).requires_grad_(False)
        for parameter in net.parameters():
            parameter += torch.randn_like(parameter) * 0.05
    return net


def test_noise_belongs_to_the_pixels() -> None:
    """A window gives what the whole photo gives there, once it sees the context; and so does a photo moved by 1 px."""
    net, x = noisy(), photo(60, 60).mul(255).round().div(255)
    whole, margin = net(x), net.context_px
    window = net(x[..., 7:55, 5:50])
    inner = (
        slice(None),
        slice(None),
        slice((7 + margin) * 4, (55 - margin) * 4),
        slice((5 + margin) * 4, (50 - margin) * 4),
    )
    assert torch.allclose(whole[inner], window[..., margin * 4 : -margin * 4, margin * 4 : -margin * 4], atol=1e-5)
    assert not torch.allclose(whole, SRGenerator(6, 1)(x), atol=1e-3)


def test_noise_matters() -> None:
    net, x = noisy(), photo(40, 40)
    other = x.clone()
    other[:, :, 20, 20] += 1 / 255
    far = (net(other) - net(x))[..., 78:86, 78:86]
    net.noise = None
    assert far.abs().mean() > 3 * (net(other) - net(x))[..., 78:86, 78:86].abs().mean()


def test_photos_of_a_batch_do_not_meet() -> None:
    net, x = trained(), photo(5, 7, count=3)
    together = net(x)
    for i in range(3):
        assert torch.allclose(net(x[i : i + 1])[0], together[i], atol=1e-6)


def test_memory_layout_does_not_matter() -> None:
    net, x = trained(), photo(5, 7)
    expected = net(x)
    net = net.to(memory_format=torch.channels_last)
    assert torch.allclose(net(x.contiguous(memory_format=torch.channels_last)), expected, atol=1e-6)


def test_all_parameters_learn() -> None:
    """The last layers start at zero, so gradients reach the first ones from the third step on."""
    net = fresh()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    x, truth = photo(6, 6, count=2), photo(24, 24, count=2)
    for _ in range(3):
        optimiser.zero_grad()
        F.mse_loss(net(x), truth).backward()
        optimiser.step()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
    assert all(p.dtype == torch.float32 for p in net.parameters())


def critic() -> SRDiscriminator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SRDiscriminator(width=4)


@pytest.mark.parametrize("size", [(8, 8), (8, 24), (32, 32)])
def test_discriminator_judges_neighbourhoods(size: tuple[int, int]) -> None:
    logits, features = critic()(photo(*size, count=2))
    assert logits.shape == (2, 1, size[0] // 8, size[1] // 8)
    assert [f.shape[1] for f in features] == [4, 8, 12, 16, 16]
    assert features[0].shape[2:] == size


def test_discriminator_is_local() -> None:
    """A logit depends on the pixels near it alone."""
    x = photo(128, 128).requires_grad_()
    critic().eval()(x)[0][0, 0, 8, 8].backward()
    assert x.grad is not None
    reached = x.grad.abs().sum(dim=(0, 1)).nonzero()
    assert 24 <= (reached - 67.5).abs().max() <= 29.5


def test_discriminator_has_bounded_slopes() -> None:
    """Spectral normalisation: each layer's matrix has norm 1, once its power iteration has settled."""
    net = critic().train()
    for _ in range(40):
        net(photo(16, 16))
    for layer in (*net.layers, net.judge):
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1, abs=0.02)


def test_discriminator_learns() -> None:
    net = critic()
    logits, features = net(photo(16, 16))
    (logits.square().mean() + sum(f.mean() for f in features)).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
