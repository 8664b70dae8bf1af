"""Patches are uniform; missing texture is measured for each image and each part of it."""

import numpy as np
import pytest
import torch

from celebahq_builder.metrics.descriptors import laplacian_level, pyramid_down
from celebahq_builder.metrics.fidelity import LUMA_BT601
from celebahq_builder.metrics.sliced import random_directions
from celebahq_builder.metrics.texture import (
    ENERGY_FLOOR,
    LAGS,
    autocorrelation_loss,
    draw_quarter_patches,
    lattice,
    local_autocorrelation,
    normalize_patches,
    random_patches,
    texture_distance,
    texture_loss,
)


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32) * 255


def loss_of(results: torch.Tensor, truths: torch.Tensor, directions: torch.Tensor, first: int = 0) -> torch.Tensor:
    """Return the texture loss of images whose random generators have the seeds `first`, `first` + 1, ..."""
    rngs = [np.random.default_rng(first + i) for i in range(len(truths))]
    return texture_loss(results, truths, draw_quarter_patches(rngs, *truths.shape[-2:]), directions)


def test_patches_are_windows_of_their_own_image() -> None:
    rows, columns = np.mgrid[:12, :15]
    level = torch.from_numpy(np.stack([np.stack([rows, columns, rows * 0 + i]) for i in range(3)])).float()
    found = random_patches(level, np.random.default_rng(0), 200)
    assert found.shape == (600, 3, 7, 7)
    assert torch.equal(found[:, 2, 3, 3], torch.arange(3.0).repeat_interleave(200))
    assert torch.equal(found[:, 0] - found[:, 0, :1, :1], torch.arange(7.0)[None, :, None].expand(600, 7, 7))
    assert torch.equal(found[:, 1] - found[:, 1, :1, :1], torch.arange(7.0)[None, None, :].expand(600, 7, 7))
    tops, lefts = found[:, 0, 0, 0], found[:, 1, 0, 0]
    assert set(tops.tolist()) == set(range(6))
    assert set(lefts.tolist()) == set(range(9))
    assert float(lefts.mean()) == pytest.approx(4, abs=0.4)


def test_a_level_smaller_than_a_patch() -> None:
    assert random_patches(torch.zeros(1, 3, 7, 7), np.random.default_rng(0), 2).shape == (2, 3, 7, 7)
    with pytest.raises(ValueError, match="a level of 6x9 has no patch of 7x7"):
        random_patches(torch.zeros(1, 3, 6, 9), np.random.default_rng(0))


def test_normalized_channels_have_mean_0_and_deviation_1() -> None:
    points = (
        torch.from_numpy(np.random.default_rng(0).normal(5, 3, (100, 3, 7, 7))) * torch.tensor([1, 2, 4])[:, None, None]
    )
    vectors = normalize_patches(points, points).view(100, 3, 49)
    assert torch.allclose(vectors.mean(dim=(0, 2)), torch.zeros(3, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(vectors.std(dim=(0, 2), correction=0), torch.ones(3, dtype=torch.float64), atol=1e-9)


def test_texture_distance() -> None:
    """It is 0 for equal images and grows as texture is lost; too much texture counts as well; sizes may differ."""
    truths = [torch.from_numpy(image(40 + i, 50, i).transpose(2, 0, 1).copy()) for i in range(3)]

    def blend(share: float) -> list[torch.Tensor]:
        return [share * t + (1 - share) * t.mean() for t in truths]

    found = [texture_distance(blend(share), truths) for share in (1, 0.9, 0.5, 0)]
    assert found[0] == 0
    assert found == sorted(found)
    assert found[3] == pytest.approx(0.8, abs=0.1)  # the mean of |x|, x normal, of deviation 1
    assert texture_distance(blend(1.5), truths) == pytest.approx(found[2], rel=1e-3)
    assert texture_distance(blend(0.5), truths) == found[2]
    assert texture_distance(blend(0.5), truths, seed=1) != found[2]
    whole = [t.to(torch.uint8) for t in truths]
    assert texture_distance(whole, whole) == 0


def test_quarter_patches_lie_inside_their_quarter() -> None:
    rngs = [np.random.default_rng(i) for i in range(2)]
    finest, halved = draw_quarter_patches(rngs, 40, 64, patches=400)
    assert (finest.shape, halved.shape) == ((2, 1600), (2, 800))
    for starts, height, width in ((finest, 40, 64), (halved, 20, 32)):
        for quarter, part in enumerate(starts.view(2, 4, -1).unbind(dim=1)):
            tops, lefts = part // width - quarter // 2 * height // 2, part % width - quarter % 2 * width // 2
            assert set(tops.flatten().tolist()) == set(range(height // 2 - 6))
            assert set(lefts.flatten().tolist()) == set(range(width // 2 - 6))
    assert not torch.equal(finest[0], finest[1])
    with pytest.raises(ValueError, match="a quarter of 24x64 at half size has no patch of 7x7"):
        draw_quarter_patches(rngs, 24, 64)


def test_texture_loss_by_hand() -> None:
    """The loss computed patch by patch."""
    truths, results = torch.from_numpy(np.stack([image(28, 28, i).transpose(2, 0, 1) for i in range(2)]))[:, None] / 255
    along = random_directions(147, np.random.default_rng(0), 8)
    positions = draw_quarter_patches([np.random.default_rng(0)], 28, 28, patches=6)
    expected = 0.0
    for starts, size in zip(positions, (28, 14), strict=True):
        levels = [laplacian_level(images)[0] for images in (results, truths)]
        for quarter in starts[0].view(4, -1):
            rows, columns = quarter // size, quarter % size
            projected = [
                torch.stack([level[:, y : y + 7, x : x + 7].flatten() for y, x in zip(rows, columns, strict=True)])
                for level in levels
            ]
            sorted_pair = [(vectors @ along).sort(dim=0).values for vectors in projected]
            expected += float((sorted_pair[0] - sorted_pair[1]).abs().mean()) / 4
        results, truths = pyramid_down(results), pyramid_down(truths)
    full = [torch.from_numpy(image(28, 28, i).transpose(2, 0, 1))[None] / 255 for i in (1, 0)]
    assert float(texture_loss(*full, positions, along)) == pytest.approx(expected, rel=1e-5)


def test_texture_loss_is_the_distance_of_each_image_and_falls_along_its_gradient() -> None:
    truths = torch.from_numpy(np.stack([image(64, 64, i).transpose(2, 0, 1) for i in range(2)])) / 255
    results = (truths - 0.5) * 0.3 + 0.5
    results.requires_grad_(True)
    along = random_directions(147, np.random.default_rng(0), 64)

    def loss(found: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        return loss_of(found, true, along)

    assert float(loss(truths, truths)) == 0
    before = loss(results, truths)
    expected, found, true = 0.0, results.detach(), truths
    for _ in range(2):
        expected += float(laplacian_level(true).std()) * texture_distance(list(found), list(true))
        found, true = pyramid_down(found), pyramid_down(true)
    assert float(before.detach()) == pytest.approx(expected, rel=0.1)
    before.backward()
    after = loss(results - 0.5 * results.grad / results.grad.abs().max(), truths)
    assert float(after.detach()) < float(before.detach())


def test_texture_loss_compares_each_quarter_with_its_own() -> None:
    """Texture that is missing in the left half is not compensated by texture in the right half."""
    truth = torch.from_numpy(image(64, 64, 0).transpose(2, 0, 1))[None] / 255
    truth[..., 32:] = 0.5
    along = random_directions(147, np.random.default_rng(0), 64)
    mirrored = loss_of(truth.flip(3), truth, along)
    nothing = loss_of(torch.full_like(truth, 0.5), truth, along)
    assert float(mirrored) > 1.5 * float(nothing)


def test_texture_loss_compares_each_image_with_its_own() -> None:
    """Two images with exchanged textures are right as a set and wrong as pairs."""
    pair = torch.from_numpy(np.stack([image(64, 64, i).transpose(2, 0, 1) for i in range(2)])) / 255
    truths = torch.stack([pair[0], (pair[1] - 0.5) * 0.1 + 0.5])
    swapped = truths.flip(0)
    along = random_directions(147, np.random.default_rng(0), 64)
    apart = [loss_of(swapped[i : i + 1], truths[i : i + 1], along, first=i) for i in range(2)]
    together = loss_of(swapped, truths, along)
    assert float(together) == pytest.approx(float(sum(apart)) / 2)
    as_a_set = float(laplacian_level(truths).std()) * texture_distance(list(swapped), list(truths), patches=2000)
    assert float(together) > 5 * as_a_set


def test_autocorrelation_by_hand() -> None:
    """The autocorrelation of one window in the middle, computed pixel by pixel."""
    plane = torch.from_numpy(image(48, 48)[..., 0])[None, None] / 255
    level = laplacian_level(plane)[0, 0]
    found = local_autocorrelation(plane)
    assert found.shape == (1, len(LAGS), 3, 3)
    window = level[16:32, 16:32]
    for k, (down, right) in enumerate(LAGS):
        shifted = level[16 - down : 32 - down, 16 - right : 32 - right]
        expected = float((window * shifted).mean() / (window.square().mean() + ENERGY_FLOOR))
        assert float(found[0, k, 1, 1]) == pytest.approx(expected, abs=1e-6)


def test_autocorrelation_loss_is_that_of_the_luma_at_two_levels() -> None:
    results, truths = (torch.from_numpy(image(64, 64, i).transpose(2, 0, 1))[None] / 255 for i in range(2))
    planes = [
        (images * torch.tensor(LUMA_BT601)[:, None, None]).sum(dim=1, keepdim=True) for images in (results, truths)
    ]
    expected = 0.0
    for _ in range(2):
        found, true = map(local_autocorrelation, planes)
        expected += float((found - true).abs().mean())
        planes = [pyramid_down(plane) for plane in planes]
    assert float(autocorrelation_loss(results, truths)) == pytest.approx(expected, rel=1e-5)


def test_autocorrelation_depends_on_the_kind_of_texture_only() -> None:
    """Half of the texture is no error, a lattice is one, and the loss falls along its gradient."""
    truths = torch.from_numpy(image(64, 64).transpose(2, 0, 1))[None] / 255
    half = (truths - 0.5) * 0.5 + 0.5
    repeated = truths[..., :4, :4].repeat(1, 1, 16, 16)
    assert float(autocorrelation_loss(half, truths)) < 0.01
    assert float(autocorrelation_loss(repeated, truths)) > 0.5
    results = (0.5 * repeated + 0.5 * truths).requires_grad_()
    before = autocorrelation_loss(results, truths)
    before.backward()
    assert results.grad is not None
    after = autocorrelation_loss(results.detach() - 0.02 * results.grad.sign(), truths)
    assert float(after) < float(before.detach())


def test_lattice() -> None:
    truth = torch.from_numpy(image(64, 64).transpose(2, 0, 1).copy())
    assert lattice(truth, truth) == 0
    assert lattice(truth[..., :4, :4].repeat(1, 16, 16), truth) == pytest.approx(1, abs=0.1)
    assert lattice(truth[..., :5, :5].repeat(1, 13, 13)[..., :64, :64], truth) < 0.2
