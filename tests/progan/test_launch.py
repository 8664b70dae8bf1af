"""What a training would do is told as it will be done, and what stands in its way before it begins."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from celebahq_builder.cli.main import celebahq
from celebahq_builder.config import load
from celebahq_builder.errors import CelebAHQError, FormatError, RecipeError, TrainingError
from celebahq_builder.progan import launch
from celebahq_builder.progan.schedule import ProGANRecipe
from celebahq_builder.progan.step import ProGANStep
from celebahq_builder.progan.train import TrainingRequest
from celebahq_builder.training.distributed import SINGLE_PROCESS
from tests.progan.tiny import RECIPE, trained


def planned(data: Path, out: Path, recipe: Path, **more: object) -> list[str]:
    return list(launch.plan(TrainingRequest(data, out, **more), recipe, device="cpu"))  # type: ignore[arg-type]


def test_plan(data: Path, recipe: Path, tmp_path: Path) -> None:
    lines = planned(data, tmp_path / "run", recipe)
    assert "40 images of 16x16" in lines[0]
    assert [line.split() for line in lines[-3:]] == [
        ["4x4", "0", "8", "1", "0.001"],
        ["8x8", "0.032", "8", "1", "0.001"],
        ["16x16", "0.112", "8", "1", "0.001"],
    ]
    assert not (tmp_path / "run").exists()


def test_the_plan_knows_the_run(data: Path, recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert f"run:      {run}: begins" in planned(data, run, recipe)
    with pytest.raises(TrainingError, match="holds no checkpoint to resume from"):
        planned(data, run, recipe, resume=True)
    trained(data, run, load(ProGANRecipe, recipe), 0.032)
    before = sorted(path.name for path in run.rglob("*"))
    assert f"run:      {run}: goes on from 0.032 kimg" in planned(data, run, recipe)
    other = tmp_path / "other.toml"
    other.write_text(RECIPE.replace("latent = 8", "latent = 9"))
    with pytest.raises(TrainingError, match=r"recipe\.net\.latent = 8, this run asks 9"):
        planned(data, run, other)
    assert sorted(path.name for path in run.rglob("*")) == before


def test_the_plan_is_of_all_processes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torchrun a process has a part of the minibatch, and one of them tells."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace("minibatch = 8", "minibatch = 16\nper_gpu = { 8 = 8, 16 = 4 }"))
    passes = [[line.split()[3] for line in planned(data, tmp_path, recipe)[-3:]]]
    monkeypatch.setenv("WORLD_SIZE", "2")
    passes.append([line.split()[3] for line in planned(data, tmp_path, recipe)[-3:]])
    assert passes == [["1", "2", "4"], ["1", "1", "2"]]
    recipe.write_text(RECIPE.replace("minibatch = 8", "minibatch = 9"))
    with pytest.raises(RecipeError, match="a minibatch of 9 at 4x4 cannot be shared equally by 2 GPUs"):
        planned(data, tmp_path, recipe)
    recipe.write_text(RECIPE)
    asked = [
        "train",
        str(data),
        "--out",
        str(tmp_path / "run"),
        "--recipe",
        str(recipe),
        "--dry-run",
        "--device",
        "cpu",
    ]
    told = {}
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        told[rank] = CliRunner().invoke(celebahq, asked).output
    assert "2 processes" in told["0"]
    assert told["1"] == ""


def test_the_rate_that_is_reached(data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace("minibatch = 8", "minibatch = 8\nrampup_kimg = 0.05"))
    lines = planned(data, tmp_path / "run", recipe)
    assert [line.split()[4] for line in lines[-3:]] == ["0.001"] * 3
    assert any("rise from 0 over the first 0.05 kimg" in line for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("minibatch = 8", "minibatch = 8\nper_gpu = { 8 = 3 }", RecipeError, "cannot be cut into passes of at most 3"),
        ("grid = [3, 2]", 'metric_ticks = 1\nmetrics = ["foo"]', CelebAHQError, "foo is no metric"),
        ("latent = 8", "labels = 4", TrainingError, "has 3 labels for each image, the recipe net.labels = 4"),
    ],
)
def test_what_stands_in_the_way(
    old: str, new: str, error: type[CelebAHQError], message: str, data: Path, tmp_path: Path
) -> None:
    shutil.copy(data, tmp_path / "noise.h5")
    np.save(tmp_path / "noise-labels.npy", np.eye(3, dtype=np.float32)[np.arange(40) % 3])
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace(old, new))
    for does in (planned, lambda *asked: launch.train(TrainingRequest(asked[0], asked[1]), asked[2], device="cpu")):
        with pytest.raises(error, match=re.escape(message)):
            does(tmp_path / "noise.h5", tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()


def test_labels_that_are_missing_or_were_replaced(data: Path, tmp_path: Path) -> None:
    recipe, own, run = tmp_path / "recipe.toml", tmp_path / "noise.h5", tmp_path / "run"
    recipe.write_text(RECIPE.replace("latent = 8", "latent = 8\nlabels = 3"))
    shutil.copy(data, own)
    with pytest.raises(FormatError, match=r"noise-labels\.npy does not exist"):
        planned(own, run, recipe)
    labels = np.eye(3, dtype=np.float32)[np.arange(40) % 3]
    np.save(tmp_path / "noise-labels.npy", labels)
    trained(own, run, load(ProGANRecipe, recipe), 0.016)
    np.save(tmp_path / "noise-labels.npy", labels[::-1])
    with pytest.raises(TrainingError, match=r"was trained with data\.labels_sha256 = "):
        planned(own, run, recipe)


def test_classes_and_attributes_are_told_apart_once() -> None:
    """Not by every minibatch: a few images may each happen to have one attribute."""
    import torch

    settings = ProGANRecipe("progan")
    small = type(settings.net)(resolution=4, latent=4, channels_base=8, channels_max=4, labels=2)
    recipe = ProGANRecipe("progan", net=small)
    assert ProGANStep(recipe, SINGLE_PROCESS, torch.eye(2)).classes
    assert not ProGANStep(recipe, SINGLE_PROCESS, torch.tensor([[1.0, 0.0], [1.0, 1.0]])).classes


def test_nothing_to_measure(data: Path, recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the recipe measures nothing; set tick.metric_ticks"):
        planned(data, tmp_path, recipe, against=data)


def test_a_length_that_is_no_number(data: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(celebahq, ["train", str(data), "--out", str(tmp_path / "run"), "--total-kimg", "nan"])
    assert told.exit_code == 2
    assert "nan is not a number of images" in told.output
