"""Batches, scores, losses and recipes of a training with a pixel loss."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from celebahq_builder.errors import TrainingError
from celebahq_builder.metrics.fidelity import block_profile, blocking_loss
from celebahq_builder.models.registry import NetworkShape, find_entry, load_network
from celebahq_builder.restoration.degradation import DegradationSettings
from celebahq_builder.restoration.photos import to_float
from celebahq_builder.restoration.pixel_training import PixelRecipe, PixelTask, pixel_loss
from celebahq_builder.restoration.task import Phase
from celebahq_builder.training.distributed import SINGLE_PROCESS
from tests.restoration.runs import DENOISE, RECIPES, log_lines, train


def test_denoiser_learns(tmp_path: Path) -> None:
    """On black and white cells of 4 px an untrained network gains 0 dB; a trained one gains at all qualities."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        cells = np.random.default_rng(i).integers(0, 2, (30, 30, 1), dtype=np.uint8) * np.uint8(255)
        Image.fromarray(np.kron(cells, np.ones((4, 4, 3), np.uint8))).save(folder / f"{i}.png")
    recipe = PixelRecipe(
        task="denoise",
        net=NetworkShape("autoencoder", (12, 12, 12), (1, 1, 1)),
        phases=(Phase(60, 16, 8),),
        learning_rate=0.02,
        ema=0.9,
        held_out=2,
        validate_every=60,
        bf16=False,
        degradation=DegradationSettings(quality_max=60, clean_share=0, grey_share=0, twice_share=0),
    )
    train(recipe, folder, tmp_path / "out")
    gains = log_lines(tmp_path / "out")[0]
    assert gains["gain_mean_db"] > 0.4
    assert min(value for key, value in gains.items() if key.startswith("gain")) > 0.05


def test_photos_that_are_too_small_for_the_largest_patch(photos: Path, tmp_path: Path) -> None:
    large = dataclasses.replace(DENOISE, phases=(Phase(1, 16, 1), Phase(1, 64, 1)))
    with pytest.raises(TrainingError, match="0 of 6 photos are at least 192 px"):
        train(large, photos, tmp_path)


# --- Batches and scores -----------------------------------------------------------------------------------------


def test_batches_depend_only_on_the_step(photos: Path) -> None:
    for recipe in RECIPES.values():
        task = PixelTask(recipe, photos, SINGLE_PROCESS)
        first, again, other = task.draw_batch(2), task.draw_batch(2), task.draw_batch(1)
        assert torch.equal(first.targets, again.targets)
        assert not torch.equal(first.targets, other.targets)
        if first.inputs is not None:
            assert again.inputs is not None
            assert torch.equal(first.inputs, again.inputs)


@pytest.mark.parametrize(
    ("name", "step", "count", "side"), [("denoise", 3, 2, 16), ("denoise", 4, 1, 32), ("upscale", 2, 2, 64)]
)
def test_batches_are_those_of_the_phase(name: str, step: int, count: int, side: int, photos: Path) -> None:
    batch = PixelTask(RECIPES[name], photos, SINGLE_PROCESS).draw_batch(step)
    assert batch.targets.shape == (count, side, side, 3)
    assert (batch.inputs is None) == (name == "upscale")
    if batch.inputs is not None:
        assert batch.inputs.shape == batch.targets.shape
        assert batch.inputs.dtype == batch.targets.dtype == torch.uint8
        assert float((batch.inputs.float() - batch.targets).abs().mean()) < 25


def test_start_from_registered_weights(photos: Path, tmp_path: Path) -> None:
    bundled = find_entry("denoiser").shape
    recipe = dataclasses.replace(DENOISE, net=bundled, start="denoiser", learning_rate=1e-9, phases=(Phase(1, 16, 1),))
    train(recipe, photos, tmp_path / "out")
    trained, known = load_file(tmp_path / "out" / "weights.safetensors"), load_network("denoiser").state_dict()
    assert trained.keys() == known.keys()
    assert all(torch.allclose(trained[key], known[key], atol=1e-6) for key in known)
    with pytest.raises(TrainingError, match=r"start = denoiser is NetworkShape\(.*32, 64, 96.*the recipe's net is"):
        train(dataclasses.replace(DENOISE, start="denoiser"), photos, tmp_path / "other")


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_rmse_loss_by_hand(scale: float) -> None:
    """For errors of 2 and 6 levels it is their mean, not the root of the mean square."""
    clean = torch.zeros(2, 3, 8, 8)
    restored = torch.stack([torch.full((3, 8, 8), 2 / 255), torch.full((3, 8, 8), -6 / 255)]) * scale
    assert float(pixel_loss(restored, clean, "rmse")) * 255 == pytest.approx(4 * scale, abs=0.02)


def test_blocking_is_part_of_the_loss(tmp_path: Path) -> None:
    """In photos with flat areas, two steps that differ only in the weight of blocking have other losses."""
    for i in range(4):
        coarse = np.random.default_rng(i).integers(100, 140, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((200, 200), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.png")
    losses = []
    for weight in (0.0, 1.0):
        task = PixelTask(dataclasses.replace(DENOISE, blocking_weight=weight, bf16=False), tmp_path, SINGLE_PROCESS)
        batch = task.draw_batch(0)
        profile = block_profile(*(to_float(images) * 255 for images in (batch.inputs, batch.targets)))
        left = float(blocking_loss(profile))
        losses.append(float(task.training_step(0, batch)[0]))
    assert left != 0
    assert losses[1] - losses[0] == pytest.approx(left, rel=0.01)  # an untrained network does not change its input


def test_half_of_the_crops_are_smooth(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    degradation = DegradationSettings(smooth_share=0.5)
    task = PixelTask(
        dataclasses.replace(DENOISE, degradation=degradation, phases=(Phase(1, 16, 200),)), photos, SINGLE_PROCESS
    )
    drawn = []
    smooth_crop = type(task.photos).smooth_crop
    monkeypatch.setattr(type(task.photos), "smooth_crop", lambda *args: drawn.append(0) or smooth_crop(*args))
    task.draw_batch(0)
    assert 70 < len(drawn) < 130


def test_invalid_weight_of_blocking() -> None:
    with pytest.raises(ValueError, match="blocking_weight = -1 must be at least 0"):
        dataclasses.replace(DENOISE, blocking_weight=-1)


def test_phases_and_learning_rates() -> None:
    assert DENOISE.steps == 7
    assert [DENOISE.phase_at(step).patch_px for step in range(7)] == [16, 16, 16, 16, 32, 32, 32]
    long = dataclasses.replace(DENOISE, phases=(Phase(1000, 16, 1),), learning_rate=1.0)
    rates = [long.learning_rate_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 200)
    assert rates[:200] == sorted(rates[:200])
    assert rates[200:] == sorted(rates[200:], reverse=True)
    assert rates[500] == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-5
    assert max(rates) < 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"phases": ()}, "phases must name at least one"),
        ({"phases": (Phase(0, 16, 1),)}, "one step"),
        ({"phases": (Phase(1, 16, 0),)}, "one patch"),
        ({"phases": (Phase(1, 24, 1),)}, "patch_px must be a multiple of 16"),
        ({"phases": (Phase(1, 0, 1),)}, "patch_px"),
        ({"task": "upscale"}, r"task = upscale trains an srgan, net\.architecture is autoencoder"),
        ({"validate_every": 0}, "validate_every"),
        ({"held_out": 0}, "held_out"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"ema": 1.5}, "ema"),
    ],
)
def test_invalid_recipes(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(DENOISE, **changed)
