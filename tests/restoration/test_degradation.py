"""Degraded and clean patches show the same place; degradation is as frequent and as strong as the settings say."""

import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from celebahq_builder.image_set import Pixels
from celebahq_builder.restoration.degradation import DegradationSettings, apply_jpeg, clean_crop_px, degraded_pair

NEVER = DegradationSettings(clean_share=0, grey_share=0, twice_share=0, rescale_share=0, off_grid_share=0)
"""One compression on the block grid and no other degradation."""


def photo(side: int, seed: int = 0) -> Pixels:
    noise = np.random.default_rng(seed).normal(size=(side, side, 3))
    return np.clip(gaussian_filter(noise, (1.5, 1.5, 0)) * 300 + 128, 0, 255).astype(np.uint8)


def pair(patch_px: int, seed: int, base: DegradationSettings = NEVER, **changed: Any) -> tuple[Pixels, Pixels]:
    """Return a pair; its clean crop depends only on the size of the patch."""
    settings_ = dataclasses.replace(base, **changed)
    return degraded_pair(photo(clean_crop_px(patch_px)), patch_px, settings_, np.random.default_rng(seed))


def distance(a: Pixels, b: Pixels) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from([16, 32, 48]), st.integers(0, 10**6))
def test_a_pair_shows_the_same_place(patch_px: int, seed: int) -> None:
    degraded, clean = pair(patch_px, seed, DegradationSettings(quality_min=60))
    for image in (degraded, clean):
        assert (image.shape, image.dtype) == ((patch_px, patch_px, 3), np.uint8)
    shifted = distance(np.roll(degraded, 4, axis=0), clean)
    assert distance(degraded, clean) < max(shifted, 1) / 2


def test_same_seed_gives_the_same_pair() -> None:
    base = DegradationSettings()
    for seed in range(20):
        for first, again in zip(pair(16, seed, base), pair(16, seed, base), strict=True):
            np.testing.assert_array_equal(first, again)
    assert len({pair(16, seed, base)[0].tobytes() for seed in range(20)}) > 15


def test_one_compression_on_the_block_grid() -> None:
    """The patch is the top left corner of the compressed image, so its blocks start where those of a file start."""
    room = photo(clean_crop_px(32))[: 32 + 32, : 32 + 32]
    degraded, clean = pair(32, 5, quality_min=30, quality_max=30, sampling_shares=(1.0, 0.0, 0.0))
    np.testing.assert_array_equal(clean, room[:32, :32])
    np.testing.assert_array_equal(degraded, apply_jpeg(room, 30)[:32, :32])


def test_two_compressions_on_shifted_grids() -> None:
    """Two compressions are worse than one."""
    one = {"quality_min": 30, "quality_max": 30, "sampling_shares": (0.0, 0.0, 1.0)}
    once = [distance(*pair(32, seed, **one)) for seed in range(12)]
    twice = [distance(*pair(32, seed, **one, twice_share=1)) for seed in range(12)]
    assert np.mean(twice) > 1.1 * np.mean(once)


def test_rescaled_images_show_more_of_the_scene() -> None:
    clean = [pair(32, seed, twice_share=1, rescale_share=1)[1] for seed in range(8)]
    plain = [pair(32, seed, twice_share=1)[1] for seed in range(8)]

    def detail(images: list[Pixels]) -> float:
        return float(np.mean([np.abs(np.diff(p.astype(int), axis=0)).mean() for p in images]))

    assert detail(clean) > 1.1 * detail(plain)
    whole = photo(clean_crop_px(32))
    windows = np.lib.stride_tricks.sliding_window_view(whole, (32, 32), axis=(0, 1))
    assert all((windows == image.transpose(2, 0, 1)).all(axis=(2, 3, 4)).any() for image in plain)
    assert not any((windows == image.transpose(2, 0, 1)).all(axis=(2, 3, 4)).any() for image in clean)


def test_off_grid_patches() -> None:
    whole = photo(clean_crop_px(16))
    corner = whole[:16, :16]
    moved = [not np.array_equal(pair(16, seed, off_grid_share=1)[1], corner) for seed in range(40)]
    assert sum(moved) > 35
    assert all(np.array_equal(pair(16, seed)[1], corner) for seed in range(10))


def share(count: int, holds: Any, **changed: Any) -> float:
    return sum(bool(holds(*pair(16, seed, **changed))) for seed in range(count)) / count


def is_grey(degraded: Pixels, clean: Pixels) -> bool:
    return bool((clean == clean[..., :1]).all())


def is_clean(degraded: Pixels, clean: Pixels) -> bool:
    return np.array_equal(degraded, clean)


@pytest.mark.parametrize("wanted", [0.0, 0.3, 1.0])
def test_share_of_grey_images(wanted: float) -> None:
    assert share(200, is_grey, grey_share=wanted) == pytest.approx(wanted, abs=0.1 if 0 < wanted < 1 else 0)


@pytest.mark.parametrize("wanted", [0.0, 0.3, 1.0])
def test_share_of_clean_images(wanted: float) -> None:
    found = share(200, is_clean, clean_share=wanted, quality_max=60)
    assert found == pytest.approx(wanted, abs=0.1 if 0 < wanted < 1 else 0)


def test_lower_quality_is_worse() -> None:
    distances = []
    for quality in (10, 30, 60, 95):
        pairs = [pair(32, seed, quality_min=quality, quality_max=quality) for seed in range(5)]
        distances.append(float(np.mean([distance(*p) for p in pairs])))
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 2 * distances[-1]


def test_qualities_and_samplings_span_their_range(monkeypatch: pytest.MonkeyPatch) -> None:
    from celebahq_builder.restoration import degradation

    seen = []
    original = apply_jpeg

    def spy(pixels: Pixels, quality: int, sampling: int) -> Pixels:
        seen.append((quality, sampling))
        return original(pixels, quality, sampling)

    monkeypatch.setattr(degradation, "apply_jpeg", spy)
    for seed in range(300):
        pair(16, seed, quality_min=40, quality_max=44, sampling_shares=(0.5, 0.2, 0.3))
    assert {quality for quality, _ in seen} == {40, 41, 42, 43, 44}
    samplings = [sampling for _, sampling in seen]
    for sampling, wanted in (
        (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, 0.5),
        (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422, 0.2),
        (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, 0.3),
    ):
        assert samplings.count(sampling) / len(samplings) == pytest.approx(wanted, abs=0.1)


def test_jpeg_keeps_the_order_of_the_channels() -> None:
    """Red stays red, and 4:4:4 keeps colours that 4:2:0 mixes."""
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    assert distance(apply_jpeg(red, 95), red) < 3
    checks = red * (np.indices((16, 16)).sum(axis=0) % 2).astype(np.uint8)[..., None]
    full = distance(apply_jpeg(checks, 98, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444), checks)
    assert full < 0.5 * distance(apply_jpeg(checks, 98), checks)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"quality_min": 0}, "quality_min = 0"),
        ({"quality_max": 101}, "quality_max = 101"),
        ({"quality_min": 60, "quality_max": 50}, "quality_min = 60 and quality_max = 50"),
        ({"sampling_shares": (0.5, 0.2, 0.2)}, "sampling_shares must sum to 1"),
        ({"sampling_shares": (1.5, -0.5, 0.0)}, "sampling_shares"),
        ({"clean_share": 1.5}, "clean_share"),
        ({"twice_share": -0.1}, "twice_share"),
    ],
)
def test_invalid_settings(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DegradationSettings(**changed)
