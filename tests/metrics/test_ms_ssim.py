"""MS-SSIM is that of the original; pairs follow each other whatever the batches."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from celebahq_builder.errors import FormatError, RecipeError
from celebahq_builder.metrics import ssim
from celebahq_builder.metrics.ssim import mean_ms_ssim, ms_ssim
from tests.reference.ms_ssim import ms_ssim as plain_ms_ssim


def images(n: int, height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (n, height, width, channels)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(p, (0, 0), 3).reshape(p.shape) for p in noise])
    return np.clip(400 * smooth + 5 * noise + 128, 0, 255).astype(np.uint8).transpose(0, 3, 1, 2)


def batches(pixels: np.ndarray, size: int):
    return lambda: iter(torch.split(torch.from_numpy(np.ascontiguousarray(pixels)), size))


def test_figures_of_the_original(shared: Path) -> None:
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
def test_equals_the_plain_version(height: int, width: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, other = images(5, height, width, channels), images(5, height, width, channels, seed=1)
    b = (0.5 * a + 0.5 * other).astype(np.uint8)
    found = ms_ssim(torch.from_numpy(a), torch.from_numpy(b))
    assert found.dtype == torch.float64
    expected = plain_ms_ssim(a, b)
    assert found.numpy() == pytest.approx(expected, abs=1e-9)
    assert 0.1 < expected.min() < expected.max() < 0.95
    monkeypatch.setattr(ssim, "_by_opencv", ssim._by_torch)  # as on a GPU
    assert ms_ssim(torch.from_numpy(a), torch.from_numpy(b)).numpy() == pytest.approx(expected, abs=1e-9)


def test_one_for_itself_and_nought_for_the_opposite() -> None:
    a = torch.from_numpy(images(3, 64, 64))
    assert torch.allclose(ms_ssim(a, a), torch.ones(3, dtype=torch.float64))
    assert torch.equal(ms_ssim(a, 255 - a), torch.zeros(3, dtype=torch.float64))
    assert ms_ssim(a[:0], a[:0]).shape == (0,)
    with pytest.raises(ValueError, match="one shape"):
        ms_ssim(a, a[:2])


def test_pairs_follow_each_other_whatever_the_batches() -> None:
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
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(ms_ssim(a, b), expected)
    finally:
        torch.set_num_threads(before)


def test_less_varied_is_higher() -> None:
    a = images(40, 32, 32)
    one_face = (0.7 * a[:1] + 0.3 * a).astype(np.uint8)
    assert mean_ms_ssim(batches(one_face, 8), 20) > mean_ms_ssim(batches(a, 8), 20) + 0.2


def test_bad_input() -> None:
    a = images(9, 32, 32)
    with pytest.raises(FormatError, match="the fakes has 9 images, 10 were asked for"):
        mean_ms_ssim(batches(a, 4), 5, name="the fakes")
    with pytest.raises(RecipeError, match="0 pairs have no MS-SSIM"):
        mean_ms_ssim(batches(a, 4), 0)
