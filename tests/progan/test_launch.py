"""The plan of a training shows what it will do, and impossible trainings are refused before they begin."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from celebahq_builder.cli.main import celebahq
from celebahq_builder.config import load
from celebahq_builder.errors import CelebAHQError, FormatError, RecipeError, TrainingError
from celebahq_builder.models.progan import Architecture
from celebahq_builder.progan import launch
from celebahq_builder.progan.launch import fit_memory
from celebahq_builder.progan.schedule import LossSettings, ProGANRecipe, Schedule, SchedulePoint, TrainingRequest
from celebahq_builder.progan.step import Microbatch, ProGANTrainer
from celebahq_builder.training.distributed import SINGLE_PROCESS, torch_threads
from celebahq_builder.training.interruption import StopRequest
from celebahq_builder.training.logger import read_lines
from tests.progan.tiny import NET, RECIPE, labelled, trained


def planned(data: Path, out: Path, recipe: Path, **more: object) -> list[str]:
    return list(launch.describe_training(TrainingRequest(data, out, **more), recipe, "cpu"))


def test_plan(data: Path, recipe: Path, tmp_path: Path) -> None:
    lines = planned(data, tmp_path / "run", recipe)
    assert "40 images of 16x16" in lines[0]
    assert [line.split()[:5] for line in lines[-3:]] == [
        ["4x4", "0", "8", "1", "0.001"],
        ["8x8", "0.032", "8", "1", "0.001"],
        ["16x16", "0.112", "8", "1", "0.001"],
    ]
    assert re.fullmatch(r"time:     about [\d.]+ \w+, estimated from single steps", lines[4])
    assert all(re.search(r" [\d.]+ (s|min)$", line) for line in lines[-3:])
    assert not (tmp_path / "run").exists()


def test_the_plan_shows_the_schedule_before_an_error(data: Path, recipe: Path, tmp_path: Path) -> None:
    """The schedule is printed before errors of the device, the data, or minibatches that processes cannot share."""
    rows = [" ".join(line.split()[:5]) for line in planned(data, tmp_path / "run", recipe)[-3:]]
    for words, message in (
        ([str(data), "--device", "cuda:7"], "--device cuda:7: torch finds 0 CUDA devices"),
        ([str(tmp_path / "none.h5"), "--device", "cpu"], "none.h5 does not exist"),
    ):
        done = CliRunner().invoke(
            celebahq, ["train", *words, "--out", str(tmp_path / "run"), "--recipe", str(recipe), "--dry-run"]
        )
        assert isinstance(done.exception, CelebAHQError)
        assert message in str(done.exception)
        assert [" ".join(line.split()[:5]) for line in done.output.splitlines()[-3:]] == rows


def test_the_plan_is_measured_with_the_threads_of_the_training(
    data: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: set[int] = set()

    def step(self: ProGANTrainer, *arguments: object) -> object:
        used.add(torch.get_num_threads())
        return real(self, *arguments)

    real = ProGANTrainer.step
    monkeypatch.setattr(ProGANTrainer, "step", step)
    before = torch.get_num_threads()
    words = ["train", str(data), "--out", str(tmp_path / "run"), "--recipe", str(recipe), "--device", "cpu"]
    done = CliRunner().invoke(celebahq, [*words, "--dry-run", "--threads", str(before + 1)])
    assert done.exit_code == 0, done.output
    assert used == {before + 1}
    assert torch.get_num_threads() == before


def test_fewer_images_than_a_minibatch(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The minibatch is lowered, which is recorded; a resumed run keeps it, in any number of processes."""
    recipe, run = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(RECIPE.replace("minibatch = 8", "minibatch = 16\nminibatches = { 4 = 64, 16 = 40 }"))
    launch.train_progan(data, run, recipe=recipe, device="cpu", total_kimg=0.064)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned == [
        f"warning: {data} has 40 images, fewer than the recipe's minibatches of up to 64; those above 40 are lowered "
        "to 32, and the results differ from those of the recipe"
    ]
    recorded = json.loads((run / "recipe.json").read_text())["schedule"]
    assert (recorded["minibatch"], recorded["minibatches"]) == (16, {"4": 32, "16": 40})
    assert [line["minibatch"] for line in read_lines(run / "stats.jsonl")] == [32, 16, 16]
    launch.train_progan(data, run, recipe=recipe, device="cpu")
    assert read_lines(run / "stats.jsonl")[-1]["minibatch"] == 40
    for processes in ("1", "2", "4"):
        monkeypatch.setenv("WORLD_SIZE", processes)
        assert [line.split()[2] for line in planned(data, run, recipe)[-3:]] == ["32", "16", "40"]


def test_the_plan_of_an_existing_run(data: Path, recipe: Path, settings: ProGANRecipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert f"run:      {run}: new" in planned(data, run, recipe)
    with pytest.raises(TrainingError, match="has no checkpoint; leave out `resume`"):
        planned(data, run, recipe, resume=True)
    trained(data, run, settings, 0.032)
    before = sorted(path.name for path in run.rglob("*"))
    assert f"run:      {run}: resumes from 0.032 kimg" in planned(data, run, recipe)
    other = tmp_path / "other.toml"
    other.write_text(RECIPE.replace("latent = 8", "latent = 9"))
    with pytest.raises(TrainingError, match=r"net\.latent = 8, this run has net\.latent = 9"):
        planned(data, run, other)
    assert sorted(path.name for path in run.rglob("*")) == before


def test_the_plan_of_several_processes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torchrun each process takes a part of the minibatch, and the main process prints the plan."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace("minibatch = 8", "minibatch = 16\nper_gpu = { 8 = 8, 16 = 4 }"))
    passes = [[line.split()[3] for line in planned(data, tmp_path, recipe)[-3:]]]
    monkeypatch.setenv("WORLD_SIZE", "2")
    passes.append([line.split()[3] for line in planned(data, tmp_path, recipe)[-3:]])
    assert passes == [["1", "2", "4"], ["1", "1", "2"]]
    recipe.write_text(RECIPE.replace("minibatch = 8", "minibatch = 9"))
    shown: list[str] = []
    with pytest.raises(RecipeError, match="a minibatch of 9 at 4x4 cannot be shared equally by 2 GPUs"):
        shown.extend(launch.describe_training(TrainingRequest(data, tmp_path), recipe, "cpu"))
    assert [line.split()[2:4] for line in shown[-3:]] == [["9", "?"]] * 3
    recipe.write_text(RECIPE)
    asked = f"train {data} --out {tmp_path / 'run'} --recipe {recipe} --dry-run --device cpu".split()
    outputs = {}
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        outputs[rank] = CliRunner().invoke(celebahq, asked).output
    assert "2 processes" in outputs["0"]
    assert outputs["1"] == ""


def test_the_plan_with_rampup(data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace("minibatch = 8", "minibatch = 8\nrampup_kimg = 0.05"))
    lines = planned(data, tmp_path / "run", recipe)
    assert [line.split()[4] for line in lines[-3:]] == ["0.001"] * 3
    assert any("rise from 0 over the first 0.05 kimg" in line for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        (
            "minibatch = 8",
            'minibatch = 8\nper_gpu = { 8 = 3 }\n[loss]\nkind = "lsgan"',
            RecipeError,
            "schedule.per_gpu.8 = 3 splits a group of the minibatch standard deviation",
        ),
        ("grid = [3, 2]", 'metric_ticks = 1\nmetrics = ["foo"]', CelebAHQError, "foo is no metric"),
        ("latent = 8", "labels = 4", TrainingError, "has 3 labels for each image, the recipe has net.labels = 4"),
    ],
)
def test_impossible_trainings(
    old: str, new: str, error: type[CelebAHQError], message: str, data: Path, tmp_path: Path
) -> None:
    data, recipe = labelled(data, tmp_path), tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace(old, new))
    for does in (planned, lambda *asked: launch.train_progan(asked[0], asked[1], recipe=asked[2], device="cpu")):
        with pytest.raises(error, match=re.escape(message)):
            does(data, tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()


def test_missing_or_changed_labels(data: Path, tmp_path: Path) -> None:
    recipe, own, run = tmp_path / "recipe.toml", tmp_path / "noise.h5", tmp_path / "run"
    recipe.write_text(RECIPE.replace("latent = 8", "latent = 8\nlabels = 3"))
    shutil.copy(data, own)
    with pytest.raises(FormatError, match=r"noise-labels\.npy does not exist"):
        planned(own, run, recipe)
    labels = np.load(labelled(data, tmp_path).with_name("noise-labels.npy"))
    trained(own, run, load(ProGANRecipe, recipe), 0.016)
    np.save(tmp_path / "noise-labels.npy", labels[::-1])
    with pytest.raises(TrainingError, match=r"was trained with data\.labels_sha256 = "):
        planned(own, run, recipe)


def test_classes_and_attributes() -> None:
    """All labels decide: in a minibatch, each image may have one attribute by chance."""
    recipe = ProGANRecipe("progan", net=replace(NET, labels=2))
    assert ProGANTrainer(recipe, SINGLE_PROCESS, torch.eye(2)).exclusive_labels
    assert not ProGANTrainer(recipe, SINGLE_PROCESS, torch.tensor([[1.0, 0.0], [1.0, 1.0]])).exclusive_labels


def test_a_reference_without_metrics(data: Path, recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the recipe has no metrics; set tick.metric_ticks"):
        planned(data, tmp_path, recipe, against=data)


def test_threads(data: Path, recipe: Path, tmp_path: Path) -> None:
    """A training uses one thread by default, and the number of torch is afterwards what it was."""
    seen = set()

    class Looking(StopRequest):
        @property
        def requested(self) -> bool:
            seen.add(torch.get_num_threads())
            return False

        @requested.setter
        def requested(self, value: bool) -> None:
            pass

    for threads in ({}, {"threads": 2}):
        with torch_threads(3):
            asked = {"recipe": recipe, "device": "cpu", "total_kimg": 0.016, "stop": Looking(), **threads}
            launch.train_progan(data, tmp_path / f"run{len(seen)}", **asked)
            assert torch.get_num_threads() == 3
    assert seen == {1, 2}


def test_a_length_that_is_not_a_number(data: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(celebahq, ["train", str(data), "--out", str(tmp_path / "run"), "--total-kimg", "nan"])
    assert done.exit_code == 2
    assert "nan is not a finite number" in done.output


GROWING = ProGANRecipe(
    "progan",
    Architecture(resolution=16, channels_base=32, channels_max=4, latent=4),
    Schedule(train_kimg=1, fade_kimg=1, minibatch=8, minibatches={"4": 32}, per_gpu={"4": 16}),
)


def short_of_memory(monkeypatch: pytest.MonkeyPatch, pixels: int) -> list[tuple[int, float, int, int]]:
    """Let passes of more pixels than this run out of memory; return the list of the steps that were tried."""
    tried = []
    real = ProGANTrainer.step

    def step(progan: ProGANTrainer, number: int, now: SchedulePoint, reals: Sequence[Microbatch]) -> torch.Tensor:
        n = len(reals[0].images) // now.parts(1, progan.recipe.net.stddev_group)
        tried.append((now.resolution, now.alpha, n, len(reals)))
        if n * now.resolution**2 > pixels:
            raise torch.cuda.OutOfMemoryError("no room")
        return real(progan, number, now, reals)

    monkeypatch.setattr(ProGANTrainer, "step", step)
    return tried


def test_passes_that_fit_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = short_of_memory(monkeypatch, 10**6)
    assert fit_memory(GROWING, SINGLE_PROCESS) == GROWING
    assert tried == [(4, 1.0, 16, 2), (8, 0.5, 8, 1), (16, 0.5, 8, 1)]


def test_passes_that_do_not_fit_are_split(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    short_of_memory(monkeypatch, 4 * 16**2)
    assert fit_memory(GROWING, SINGLE_PROCESS).schedule.per_gpu == {"4": 16, "16": 4}
    assert "16x16: 8 images do not fit cpu together; they are split into 2 passes of 4" in caplog.text


def test_groups_are_split_where_one_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory holds a part of a group; LSGAN and batch normalization need whole groups."""
    short_of_memory(monkeypatch, 3 * 16**2)
    assert fit_memory(GROWING, SINGLE_PROCESS).schedule.per_gpu == {"4": 16, "16": 2}
    whole = replace(GROWING.net, pixel_norm=False, batch_norm=True)
    for recipe in (replace(GROWING, loss=LossSettings("lsgan")), replace(GROWING, net=whole)):
        with pytest.raises(TrainingError, match="a minibatch of 8 at 16x16 does not fit cpu even in passes of 4"):
            fit_memory(recipe, SINGLE_PROCESS)
