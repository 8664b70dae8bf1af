"""The upscaler starts as bicubic enlargement, keeps positions and colours, and all of its parameters learn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from celebahq_builder.models.srgan import SRDiscriminator, SRGenerator, UNetDiscriminator, hash_noise
from tests.models.tiny_networks import perturbed, tiny_generator
from tests.reference.bicubic import enlarge

SIZES = [(1, 1), (1, 6), (5, 7), (8, 8)]


def photo(height: int, width: int, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height * width))


def reduced(image: NDArray[np.floating]) -> NDArray[np.float32]:
    """A quarter of the size, by Pillow's antialiased bicubic filter of floats; [3, 4H, 4W]."""
    to = (image.shape[2] // 4, image.shape[1] // 4)
    channels = (Image.fromarray(channel.astype(np.float32)) for channel in image)
    return np.stack([np.asarray(channel.resize(to, Image.Resampling.BICUBIC)) for channel in channels])


@pytest.mark.parametrize("size", SIZES)
def test_new_network_is_bicubic_and_one_back_projection(size: tuple[int, int]) -> None:
    x = photo(*size)
    low = x[0].double().numpy()
    first = enlarge(low, 4)
    expected = first + enlarge(low - reduced(first), 4)
    assert torch.allclose(tiny_generator()(x)[0], torch.from_numpy(expected).float(), atol=1e-5)


def test_colours_stay_whatever_the_detail_is() -> None:
    net, x = perturbed(tiny_generator()), F.avg_pool2d(photo(32, 32), 9, stride=1)
    with torch.no_grad():
        net.tail.bias += 0.2  # far too light
        y = net(x)[0]
    assert torch.allclose(y.mean(dim=(1, 2)), x[0].mean(dim=(1, 2)), atol=1e-3)
    assert float(np.abs(reduced(y.numpy()) - x[0].numpy()).mean()) < 0.01


@pytest.mark.parametrize("size", SIZES)
def test_any_size(size: tuple[int, int]) -> None:
    y = perturbed(tiny_generator())(photo(*size, count=2))
    assert y.shape == (2, 3, size[0] * 4, size[1] * 4)
    assert y.dtype == torch.float32


def test_detail_lies_where_the_photo_has_it() -> None:
    """Far from the edges, a photo moved by 1 px gives the result moved by 4 px."""
    net, x = perturbed(tiny_generator()), photo(40, 40)
    inner = net(x)[..., 48:-48, 48:-48]
    moved = net(torch.roll(x, (1, 1), (2, 3)))[..., 52:-44, 52:-44]
    assert torch.allclose(inner, moved, atol=1e-5)


@pytest.mark.parametrize("blocks", [0, 1, 6, 9])
def test_context_is_the_receptive_field(blocks: int) -> None:
    net = perturbed(tiny_generator(blocks))
    x = photo(64, 64).requires_grad_()
    net(x)[..., 32 * 4 : 33 * 4, 32 * 4 : 33 * 4].sum().backward()
    assert x.grad is not None
    reached = (x.grad.abs().sum(dim=(0, 1)).nonzero() - 32).abs().max()
    assert net.context_px - 1 <= reached <= net.context_px


def noisy() -> SRGenerator:
    return perturbed(tiny_generator(blocks=1, noise=4))


def test_noise_moves_with_the_pixels() -> None:
    """A window gives the result of the whole photo, except near its edges."""
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


def test_noise_affects_the_result() -> None:
    net, x = noisy(), photo(40, 40)
    other = x.clone()
    other[:, :, 20, 20] += 1 / 255
    far = (net(other) - net(x))[..., 78:86, 78:86]
    net.noise = None
    assert far.abs().mean() > 3 * (net(other) - net(x))[..., 78:86, 78:86].abs().mean()


def test_photos_of_a_batch_are_independent() -> None:
    net, x = perturbed(tiny_generator()), photo(5, 7, count=3)
    together = net(x)
    for i in range(3):
        assert torch.allclose(net(x[i : i + 1])[0], together[i], atol=1e-6)


def test_memory_layout_does_not_matter() -> None:
    net, x = perturbed(tiny_generator()), photo(5, 7)
    expected = net(x)
    net = net.to(memory_format=torch.channels_last)
    assert torch.allclose(net(x.contiguous(memory_format=torch.channels_last)), expected, atol=1e-6)


def test_all_parameters_learn() -> None:
    """The last layers start at zero, so gradients reach the first ones from the third step on."""
    net = tiny_generator()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    x, truth = photo(6, 6, count=2), photo(24, 24, count=2)
    for _ in range(3):
        optimizer.zero_grad()
        F.mse_loss(net(x), truth).backward()
        optimizer.step()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
    assert all(p.dtype == torch.float32 for p in net.parameters())


def critic() -> SRDiscriminator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SRDiscriminator(width=4)


@pytest.mark.parametrize("size", [(8, 8), (8, 24), (32, 32)])
def test_discriminator_shapes(size: tuple[int, int]) -> None:
    logits, features = critic()(photo(*size, count=2))
    assert logits.shape == (2, 1, size[0] // 8, size[1] // 8)
    assert [f.shape[1] for f in features] == [4, 8, 12, 16, 16]
    assert features[0].shape[2:] == size


def test_discriminator_is_local() -> None:
    """A logit depends only on the pixels near it."""
    x = photo(128, 128).requires_grad_()
    critic().eval()(x)[0][0, 0, 8, 8].backward()
    assert x.grad is not None
    reached = x.grad.abs().sum(dim=(0, 1)).nonzero()
    assert 24 <= (reached - 67.5).abs().max() <= 29.5


def test_discriminator_has_bounded_slopes() -> None:
    """Spectral normalization: each layer's matrix has norm 1, once its power iteration has settled."""
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


def unet_critic() -> UNetDiscriminator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNetDiscriminator(width=4)


def test_unet_discriminator_shapes() -> None:
    logits, features = unet_critic()(photo(16, 24, count=2))
    assert logits.shape == (2, 1, 16, 24)
    assert [tuple(f.shape[1:]) for f in features] == [(4, 16, 24), (8, 8, 12), (16, 4, 6), (32, 2, 3)]


def test_logit_of_the_unet_discriminator_depends_on_its_pixel_and_on_its_surroundings() -> None:
    x = photo(96, 96).requires_grad_()
    unet_critic().eval()(x)[0][0, 0, 48, 48].backward()
    assert x.grad is not None
    strength = x.grad.abs().sum(dim=(0, 1))
    assert strength[48, 48] > 20 * strength.mean()
    assert strength[36, 48] > 0


def test_all_layers_of_the_unet_discriminator_learn() -> None:
    net = unet_critic()
    net(photo(16, 16))[0].square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_unet_discriminator_has_bounded_slopes() -> None:
    """All layers but the last, which only weighs features, are normalized."""
    net = unet_critic().train()
    for _ in range(40):
        net(photo(16, 16))
    for layer in (net.head, *net.down, *net.up, net.last):
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1, abs=0.02)


# Noise hashed from pixels

WRAP = 2**64


def smooth_photo(height: int, width: int, seed: int = 0) -> Tensor:
    """A photo whose neighbouring pixels differ by few grey levels."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(-1, 2, (3, height, width)).cumsum(axis=1).cumsum(axis=2)
    return torch.from_numpy(np.clip(128 + steps / 4, 0, 255).round().astype(np.float32))[None] / 255


def signed(value: int) -> int:
    value %= WRAP
    return value - WRAP if value >= WRAP // 2 else value


def slow_noise(levels: np.ndarray, top: int, left: int, channel: int) -> float:
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


def test_noise_equals_the_reference() -> None:
    x = smooth_photo(6, 7)
    levels = (x[0] * 255).round().int().numpy()
    found = hash_noise(x, 3)[0]
    for place in [(0, 0, 0), (1, 2, 3), (2, 5, 6), (0, 3, 0), (2, 0, 6)]:
        assert float(found[place]) == pytest.approx(slow_noise(levels, place[1], place[2], place[0]), abs=1e-5)


def test_noise_is_white_and_of_unit_variance() -> None:
    noise = hash_noise(smooth_photo(200, 200), 4)[0].double()
    assert noise.mean(dim=(1, 2)).abs().max() < 0.03
    assert (noise.var(dim=(1, 2)) - 1).abs().max() < 0.03
    flat = noise.flatten(1)
    assert (torch.corrcoef(flat) - torch.eye(4)).abs().max() < 0.03
    for shift in ((0, 1), (1, 0), (1, 1)):
        moved = torch.roll(noise, shift, dims=(1, 2))[:, 1:, 1:]
        assert (noise[:, 1:, 1:] * moved).mean(dim=(1, 2)).abs().max() < 0.03


def test_noise_of_a_window_is_that_of_the_photo() -> None:
    x = smooth_photo(30, 30)
    assert torch.equal(hash_noise(x, 2)[..., 6:20, 8:19], hash_noise(x[..., 5:21, 7:20], 2)[..., 1:-1, 1:-1])


def test_noise_ignores_rounding_errors_of_floats() -> None:
    x = smooth_photo(20, 20)
    assert torch.equal(hash_noise(x, 2), hash_noise(x + 1e-4 * torch.rand_like(x), 2))


def test_one_grey_level_changes_the_noise_of_3x3_pixels() -> None:
    x = smooth_photo(20, 20)
    other = x.clone()
    other[0, 1, 10, 10] += 1 / 255
    changed = (hash_noise(other, 1) != hash_noise(x, 1))[0, 0].nonzero()
    assert sorted(map(tuple, changed.tolist())) == [(y, z) for y in (9, 10, 11) for z in (9, 10, 11)]


def test_noise_of_one_colour_is_constant() -> None:
    noise = hash_noise(torch.full((1, 3, 9, 9), 0.5), 2)
    assert (noise == noise[..., :1, :1]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1)])
def test_noise_of_any_size(size: tuple[int, int]) -> None:
    noise = hash_noise(smooth_photo(*size), 3)
    assert noise.shape == (1, 3, *size)
    assert noise.dtype == torch.float32
    assert not noise.requires_grad
