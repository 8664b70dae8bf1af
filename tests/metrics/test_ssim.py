"""SSIM and MS-SSIM equal slow references and the authors' figures; pairs do not depend on batches."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from celebahq_builder.errors import FormatError, RecipeError
from celebahq_builder.metrics import ssim as ssim_module
from celebahq_builder.metrics.batches import array_batches as batches
from celebahq_builder.metrics.ssim import mean_ms_ssim, ms_ssim, ssim
from celebahq_builder.training.distributed import torch_threads
from tests.reference.ms_ssim import ms_ssim as plain_ms_ssim


def by_hand(a: np.ndarray, b: np.ndarray, size: int, sigma: float) -> tuple[float, float]:
    """One channel; window by window, from the definitions."""
    at = np.arange(size) - (size - 1) / 2
    weights = np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    whole, contrast = [], []
    for top in range(a.shape[0] - size + 1):
        for left in range(a.shape[1] - size + 1):
            x, y = (p[top : top + size, left : left + size].astype(float) for p in (a, b))
            mx, my = (weights * x).sum(), (weights * y).sum()
            vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
            cov = (weights * (x - mx) * (y - my)).sum()
            contrast.append((2 * cov + c2) / (vx + vy + c2))
            whole.append(contrast[-1] * (2 * mx * my + c1) / (mx**2 + my**2 + c1))
    return float(np.mean(whole)), float(np.mean(contrast))


@pytest.mark.parametrize(("height", "width", "size"), [(14, 17, 11), (11, 11, 11), (8, 12, 8), (4, 4, 4)])
def test_equals_the_definition(height: int, width: int, size: int) -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (2, 3, height, width), dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 20, a.shape), 0, 255).astype(np.uint8)
    found = ssim(torch.from_numpy(a), torch.from_numpy(b))
    for n in range(2):
        expected = np.mean([by_hand(a[n, c], b[n, c], size, 1.5 * size / 11) for c in range(3)], axis=0)
        assert float(found[0][n]) == pytest.approx(expected[0], abs=1e-9)
        assert float(found[1][n]) == pytest.approx(expected[1], abs=1e-9)


def test_ssim_is_one_for_equal_images() -> None:
    a = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 20, 20), dtype=np.uint8))
    assert float(ssim(a, a)[0]) == pytest.approx(1)
    assert float(ssim(a, 255 - a)[0]) < 0
    lighter = a.float() * 0.5 + 100
    assert float(ssim(a.float() * 0.5, lighter)[1]) == pytest.approx(1)  # a constant changes the luminance alone
    assert float(ssim(a.float() * 0.5, lighter)[0]) < 0.9


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(1, 3, 20, 20\) and \(1, 3, 20, 21\)"):
        ssim(torch.zeros(1, 3, 20, 20), torch.zeros(1, 3, 20, 21))


# MS-SSIM


def images(n: int, height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (n, height, width, channels)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(p, (0, 0), 3).reshape(p.shape) for p in noise])
    return np.clip(400 * smooth + 5 * noise + 128, 0, 255).astype(np.uint8).transpose(0, 3, 1, 2)


def test_figures_of_the_authors_code(shared: Path) -> None:
    expected = json.loads((shared / "reference" / "metrics_reference.json").read_text())
    paths = [shared / "data" / "faces" / "img_celeba" / f"{i:06d}.jpg" for i in range(1, 257)]
    photos = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]
    a = np.stack([cv2.resize(p, (64, 64), interpolation=cv2.INTER_AREA) for p in photos])
    blur = np.stack([cv2.GaussianBlur(p, (0, 0), 1) for p in a])
    a, blur = a.transpose(0, 3, 1, 2), blur.transpose(0, 3, 1, 2)
    assert mean_ms_ssim(batches(a, 50), 128) == pytest.approx(expected["ms_ssim_A_even_vs_odd"], abs=1e-4)
    found = ms_ssim(*(torch.from_numpy(np.ascontiguousarray(p)) for p in (a, blur)))
    assert float(found.mean()) == pytest.approx(expected["ms_ssim_A_vs_blur1(A)"], abs=1e-4)


@pytest.mark.parametrize(("height", "width", "channels"), [(128, 128, 3), (64, 64, 1), (32, 32, 3), (45, 70, 3)])
def test_ms_ssim_equals_the_reference(height: int, width: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, other = images(5, height, width, channels), images(5, height, width, channels, seed=1)
    b = (0.5 * a + 0.5 * other).astype(np.uint8)
    found = ms_ssim(torch.from_numpy(a), torch.from_numpy(b))
    assert found.dtype == torch.float64
    expected = plain_ms_ssim(a, b)
    assert found.numpy() == pytest.approx(expected, abs=1e-9)
    assert 0.1 < expected.min() < expected.max() < 0.95
    monkeypatch.setattr(ssim_module, "_by_opencv", ssim_module._by_torch)  # as on a GPU
    assert ms_ssim(torch.from_numpy(a), torch.from_numpy(b)).numpy() == pytest.approx(expected, abs=1e-9)


def test_ms_ssim_is_one_for_equal_and_zero_for_opposite_images() -> None:
    a = torch.from_numpy(images(3, 64, 64))
    assert torch.allclose(ms_ssim(a, a), torch.ones(3, dtype=torch.float64))
    assert torch.equal(ms_ssim(a, 255 - a), torch.zeros(3, dtype=torch.float64))
    assert ms_ssim(a[:0], a[:0]).shape == (0,)
    with pytest.raises(ValueError, match="one shape"):
        ms_ssim(a, a[:2])


def test_pairs_do_not_depend_on_batches() -> None:
    a = images(21, 32, 32)
    first, second = (torch.from_numpy(np.ascontiguousarray(a[i:20:2])) for i in range(2))
    expected = float(ms_ssim(first, second).mean())
    for size in (1, 2, 3, 7, 21):
        done: list[int] = []
        assert mean_ms_ssim(batches(a, size), 10, advance=done.append) == expected
        assert sum(done) == 20


def test_threads_do_not_matter() -> None:
    a, b = (torch.from_numpy(images(40, 32, 32, seed=i)) for i in range(2))
    expected = ms_ssim(a, b)
    with torch_threads(3):
        assert torch.equal(ms_ssim(a, b), expected)


def test_a_less_varied_set_has_a_higher_value() -> None:
    a = images(40, 32, 32)
    one_face = (0.7 * a[:1] + 0.3 * a).astype(np.uint8)
    assert mean_ms_ssim(batches(one_face, 8), 20) > mean_ms_ssim(batches(a, 8), 20) + 0.2


def test_bad_input() -> None:
    a = images(9, 32, 32)
    with pytest.raises(FormatError, match="the fakes has 9 images, 10 were asked for"):
        mean_ms_ssim(batches(a, 4), 5, name="the fakes")
    with pytest.raises(RecipeError, match="0 pairs have no MS-SSIM"):
        mean_ms_ssim(batches(a, 4), 0)
