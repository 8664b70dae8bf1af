"""The networks have the paper's sizes and gains, equal a slow reference, and react to every option."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from celebahq_builder.models.progan import (
    Architecture,
    DiscriminatorNetwork,
    GaussianNoise,
    GeneratorNetwork,
    group_size,
    minibatch_stddev,
    pixel_norm,
    upsample,
)
from tests.reference import progan as reference

SMALL = Architecture(resolution=32, channels_base=128, channels_max=16, latent=12)


def seeded(architecture: Architecture) -> tuple[GeneratorNetwork, DiscriminatorNetwork]:
    torch.manual_seed(1)
    nets = GeneratorNetwork(architecture).double(), DiscriminatorNetwork(architecture).double()
    with torch.no_grad():
        for net in nets:
            for name, p in net.named_parameters():
                if name.endswith("bias"):
                    p.normal_()
    return nets


def test_sizes_at_1024() -> None:
    """Karras et al. 2018, section A.1 and tables 1, 2: 23.1 M parameters each, 512 channels up to 32x32, 16 at 1024."""
    with torch.device("meta"):
        nets = GeneratorNetwork(Architecture()), DiscriminatorNetwork(Architecture())
    assert [round(sum(p.numel() for p in net.parameters()) / 1e6, 1) for net in nets] == [23.1, 23.1]
    assert [Architecture().channels(level) for level in range(2, 11)] == [512] * 4 + [256, 128, 64, 32, 16]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_equal_the_reference_at_8x8(alpha: float) -> None:
    generator, discriminator = seeded(SMALL)
    latents, images = torch.randn(4, 12, dtype=torch.double), torch.randn(4, 3, 8, 8, dtype=torch.double)
    wanted = reference.generator(dict(generator.named_parameters()), latents, None, 3, alpha)
    torch.testing.assert_close(generator(latents, 3, alpha), wanted, rtol=0, atol=1e-5)
    scores, labels = discriminator(images, 3, alpha)
    wanted, _ = reference.discriminator(dict(discriminator.named_parameters()), images, 3, alpha)
    torch.testing.assert_close(scores, wanted, rtol=0, atol=1e-5)
    assert labels.shape == (4, 0)


@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 3, 3)])
def test_pixel_norm(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_allclose(pixel_norm(torch.from_numpy(x)).numpy(), reference.pixel_norm(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("n", "wanted", "size"), [(8, 4, 4), (14, 4, 2), (14, 0, 14), (7, 4, 1), (3, 16, 3), (6, 4, 3)]
)
def test_stddev_groups_fit_any_minibatch(n: int, wanted: int, size: int) -> None:
    assert group_size(n, wanted) == size
    x = np.random.default_rng(n).normal(size=(n, 3, 4, 4))
    found = minibatch_stddev(torch.from_numpy(x), wanted).numpy()
    np.testing.assert_allclose(found, reference.minibatch_stddev(x, size), atol=1e-6)


def test_a_minibatch_cut_by_strides_has_the_same_groups() -> None:
    x = torch.randn(16, 3, 4, 4)
    whole = minibatch_stddev(x, 4)
    for parts in (2, 4):
        for k in range(parts):
            assert torch.equal(minibatch_stddev(x[k::parts], 4), whole[k::parts])


@pytest.mark.parametrize("equalized", [True, False])
def test_initial_output_is_of_unit_scale(equalized: bool) -> None:
    """He et al.'s gains keep the scale of the features; a 1x1 layer of gain 1 then gives an image of unit scale."""
    torch.manual_seed(0)
    generator = GeneratorNetwork(Architecture(resolution=32, channels_base=1024, channels_max=64, equalized=equalized))
    with torch.no_grad():
        images = generator(torch.randn(64, 512), 5)
    assert 0.5 < float(images.std()) < 1.5
    weights = [p for name, p in generator.named_parameters() if name.endswith("weight") and "to_rgb" not in name]
    deviations = [float(p.detach().std()) for p in weights]
    assert all(0.9 < d < 1.1 for d in deviations) is equalized


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("level", [2, 3, 5])
def test_active_parameters_are_those_that_get_gradients(level: int, alpha: float) -> None:
    for net in seeded(SMALL):
        if isinstance(net, GeneratorNetwork):
            out = net(torch.randn(2, 12, dtype=torch.double), level, alpha)
        else:
            out = net(torch.randn(2, 3, 1 << level, 1 << level, dtype=torch.double), level, alpha)[0]
        out.sum().backward()
        used = {name for name, p in net.named_parameters() if p.grad is not None}
        assert used == {name for name, _ in net.active(level, alpha)}


@pytest.mark.parametrize(
    "changed",
    [
        {"pixel_norm": False},
        {"pixel_norm": False, "batch_norm": True},
        {"leaky": False},
        {"stddev_group": 2},
        {"stddev_group": 1},
        {"labels": 3},
        {"colours": 1},
    ],
)
def test_every_option_changes_the_result_and_trains(changed: dict[str, int]) -> None:
    architecture = Architecture(**{**SMALL.__dict__, **changed})
    plain, other = seeded(SMALL), seeded(architecture)
    assert repr(architecture) != repr(SMALL)
    labels = torch.eye(3, dtype=torch.double)[[0, 1, 2, 0]] if architecture.labels else None
    latents = torch.randn(4, 12, dtype=torch.double)
    other[0].eval()  # batch normalization takes scales away, and with them their gradients
    made = other[0](latents, 4, 0.7, labels)
    assert made.shape == (4, architecture.colours, 16, 16)
    scores, told = other[1](made, 4, 0.7)
    assert told.shape == (4, architecture.labels)
    (scores.sum() + told.sum()).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for _, p in other[0].active(4, 0.7))
    if not changed.keys() & {"labels", "colours"}:
        with torch.no_grad():
            same = plain[1](plain[0](latents, 4, 0.7), 4, 0.7)[0]
        assert not torch.allclose(same, scores)


def test_batch_and_layer_normalization() -> None:
    """In training, normalized features have mean 0 and deviation 1; in `eval`, an image ignores its minibatch."""
    generator, discriminator = seeded(Architecture(**{**SMALL.__dict__, "pixel_norm": False, "batch_norm": True}))
    seen = {}
    for net in (generator, discriminator):
        for name, module in net.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.GroupNorm):
                key = (type(net).__name__, name)
                module.reset_parameters()
                module.register_forward_hook(lambda _module, _inputs, out, key=key: seen.update({key: out}))
    latents = torch.randn(6, 12, dtype=torch.double)
    with torch.no_grad():
        discriminator(generator(latents, 4), 4)
        assert len(seen) == (1 + 2 + 2) * 2
        for (net, _), features in seen.items():
            over = (0, 2, 3) if net == "GeneratorNetwork" else (1, 2, 3)
            assert torch.allclose(features.mean(dim=over), torch.zeros((), dtype=torch.double), atol=1e-6)
            assert torch.allclose(features.std(dim=over, correction=0), torch.ones((), dtype=torch.double), atol=1e-2)
        together = generator.eval()(latents, 4)
        assert torch.allclose(together[2:3], generator(latents[2:3], 4))
        assert not torch.allclose(together, generator.train()(latents, 4))


def test_noise_is_one_factor_for_each_image_and_channel() -> None:
    noise = GaussianNoise(0.1, torch.Generator().manual_seed(0))
    factors = noise(torch.ones(500, 16, 2, 2, dtype=torch.double))
    assert torch.equal(factors, factors[:, :, :1, :1].expand_as(factors))
    assert float(factors.mean()) == pytest.approx(1, abs=0.02)
    assert float(factors.std()) == pytest.approx(0.1 * 4, rel=0.05)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(GaussianNoise(0, torch.Generator())(x), x)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resolution": 48}, "resolution = 48 must be a power of two from 4 to 1024"),
        ({"resolution": 2048}, "power of two"),
        ({"colours": 4}, "colours = 4 must be 3, or 1"),
        ({"latent": 0}, "latent = 0 must be from 1 to 65536"),
        ({"channels_base": 100}, "leaves no channel at 1024x1024"),
        ({"batch_norm": True}, "pixel_norm and batch_norm exclude each other"),
    ],
)
def test_bad_architectures(values: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Architecture(**values)


def test_bad_calls() -> None:
    generator, discriminator = seeded(SMALL)
    latents = torch.randn(2, 12, dtype=torch.double)
    with pytest.raises(ValueError, match="level 6 is not one of 2 to 5"):
        generator(latents, 6)
    with pytest.raises(ValueError, match="takes 0 labels"):
        generator(latents, 4, labels=torch.eye(2))
    with pytest.raises(ValueError, match=r"expected images of \[3, 16, 16\] at level 4, got \[3, 8, 8\]"):
        discriminator(torch.zeros(1, 3, 8, 8, dtype=torch.double), 4)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_features_keep_bfloat16_under_autocast(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast of CUDA widens nearest-neighbour upsampling to float32; that of the CPU does not, and is made to."""
    interpolate = F.interpolate

    def as_on_cuda(x: torch.Tensor, **arguments: object) -> torch.Tensor:
        wide = x.float() if torch.is_autocast_enabled(x.device.type) else x
        return interpolate(wide, **arguments)

    monkeypatch.setattr(F, "interpolate", as_on_cuda)
    generator, discriminator = GeneratorNetwork(SMALL), DiscriminatorNetwork(SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        images = generator(torch.randn(4, 12), 5, alpha)
        scores, _ = discriminator(images, 5, alpha)
    assert (images.dtype, scores.dtype) == (torch.bfloat16, torch.bfloat16)
    (images.float().square().mean() + scores.float().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for _, p in generator.active(5, alpha))


def test_upsampling_keeps_type_and_memory_format() -> None:
    x = torch.randn(2, 3, 4, 5).to(torch.bfloat16, memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        doubled = upsample(x)
    assert torch.equal(doubled, x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert doubled.dtype == x.dtype
    assert doubled.is_contiguous(memory_format=torch.channels_last)
