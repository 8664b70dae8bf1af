"""SSIM equals a plain re-derivation on single windows, and behaves as its paper says."""

import numpy as np
import pytest
import torch

from celebahq_builder.metrics.ssim import ssim


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


def test_one_for_itself_and_less_for_others() -> None:
    a = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 20, 20), dtype=np.uint8))
    assert float(ssim(a, a)[0]) == pytest.approx(1)
    assert float(ssim(a, 255 - a)[0]) < 0
    lighter = a.float() * 0.5 + 100
    assert float(ssim(a.float() * 0.5, lighter)[1]) == pytest.approx(1)  # a constant changes the luminance alone
    assert float(ssim(a.float() * 0.5, lighter)[0]) < 0.9


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(1, 3, 20, 20\) and \(1, 3, 20, 21\)"):
        ssim(torch.zeros(1, 3, 20, 20), torch.zeros(1, 3, 20, 21))
