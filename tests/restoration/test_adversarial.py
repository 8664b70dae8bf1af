"""Adversarial training goes on where it was cut, starts from the weights it names, and moves both networks."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from celebahq_builder.errors import TrainingError
from celebahq_builder.models.registry import load_network
from celebahq_builder.restoration.adversarial_training import AdversarialRecipe, AdversarialTask, ChainSettings
from celebahq_builder.restoration.loop import Phase, fit
from celebahq_builder.training.distributed import ALONE

RECIPE = AdversarialRecipe(
    task="upscale-adversarially",
    start="upscaler-psnr",
    phases=(Phase(3, 16, 1),),
    held_out=1,
    validate_every=1,
    bf16=False,
    chain=ChainSettings(share=0.5),
)


def train_adversarially(recipe: AdversarialRecipe, photos: Path, out: Path) -> Path:
    return fit(AdversarialTask(recipe, photos, ALONE), out, ALONE)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (72, 72, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    train_adversarially(RECIPE, photos, out)
    return out


def test_cut_run_goes_on_to_the_same_bits(
    whole: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = AdversarialTask.update

    def update(task: AdversarialTask, step: int, drawn: Any) -> torch.Tensor:
        if step == 2:
            raise KeyboardInterrupt
        return original(task, step, drawn)

    with monkeypatch.context() as patch:
        patch.setattr(AdversarialTask, "update", update)
        with pytest.raises(KeyboardInterrupt):
            train_adversarially(RECIPE, photos, tmp_path)
    train_adversarially(RECIPE, photos, tmp_path)
    for name in ("checkpoint.safetensors", "weights.safetensors"):
        one, other = load_file(tmp_path / name), load_file(whole / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_both_networks_move_from_where_they_start(whole: Path) -> None:
    state = load_file(whole / "checkpoint.safetensors")
    start = load_network("upscaler-psnr").state_dict()
    moved = [float((state[f"net.{key}"] - value).abs().max()) for key, value in start.items()]
    assert 0 < max(moved) < 3 * RECIPE.learning_rate * 1.2
    moments = {key: value for key, value in state.items() if key.startswith("discriminator.adam.exp_avg_sq.")}
    # Within the hinge's margins the last bias has no gradient: it moves real and fake alike.
    assert all(float(value.abs().max()) > 0 for key, value in moments.items() if "bias" not in key)


def test_log_names_the_losses(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    scores = {"psnr_y_db", "spectrum_error_db", "swd"}
    assert {"pixel", "texture", "feature", "adversarial", "discriminator", *scores} <= lines[0].keys()


def test_another_recipe_is_refused(whole: Path, photos: Path) -> None:
    with pytest.raises(TrainingError, match=r"pixel_weight = 1\.0, this run asks 2\.0"):
        train_adversarially(dataclasses.replace(RECIPE, pixel_weight=2.0), photos, whole)


def test_weights_say_that_they_take_noise(whole: Path) -> None:
    with safe_open(whole / "weights.safetensors", "pt") as file:
        shape = json.loads(file.metadata()["shape"])
    assert shape == {"architecture": "srgan", "widths": [48, 8], "blocks": [6]}
    assert load_file(whole / "weights.safetensors")["noise.weight"].shape == (48, 8, 3, 3)


def test_without_noise(photos: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, noise=0, phases=(Phase(1, 16, 1),))
    train_adversarially(recipe, photos, tmp_path)
    assert "noise.weight" not in load_file(tmp_path / "weights.safetensors")


def test_start_must_be_an_upscaler(photos: Path) -> None:
    with pytest.raises(TrainingError, match="start = denoiser is of .*; wanted an upscaler without noise, or of 8"):
        AdversarialTask(dataclasses.replace(RECIPE, start="denoiser"), photos, ALONE)


def test_exported_weights_are_the_averaged_ones_mixed_and_levelled(photos: Path, tmp_path: Path) -> None:
    train_adversarially(dataclasses.replace(RECIPE, start_share=0.2, phases=(Phase(1, 16, 1),)), photos, tmp_path)
    state, exported = (load_file(tmp_path / f"{name}.safetensors") for name in ("checkpoint", "weights"))
    start = load_network("upscaler-psnr").state_dict()
    for key, value in exported.items():
        mixture = 0.8 * state[f"averaged.{key}"] + (0.2 * start[key] if key in start else 0)
        if key == "tail.bias":
            assert 0 < float((value - mixture).abs().max()) < 0.05
            torch.testing.assert_close(value.view(3, 16).mean(dim=1), mixture.view(3, 16).mean(dim=1))
        else:
            torch.testing.assert_close(value, mixture)
