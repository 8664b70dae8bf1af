"""A resumed training has the same bits as an uninterrupted one; several processes compute what one does."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from celebahq_builder.config import load
from celebahq_builder.errors import CelebAHQError, RecipeError, TrainingError
from celebahq_builder.evaluation.evaluate import evaluate
from celebahq_builder.evaluation.image_sources import SourceImages, open_data_set
from celebahq_builder.evaluation.protocol import EvaluationProtocol
from celebahq_builder.hdf5.codecs import Gzip
from celebahq_builder.hdf5.create import write_images
from celebahq_builder.progan import launch
from celebahq_builder.progan.evaluation import open_source
from celebahq_builder.progan.real_images import RealImages
from celebahq_builder.progan.schedule import ProGANRecipe, TrainingRequest
from celebahq_builder.training.checkpoint import checkpoint_paths, read_checkpoint, write_checkpoint
from celebahq_builder.training.distributed import SINGLE_PROCESS
from celebahq_builder.training.logger import read_lines
from tests.progan.tiny import RECIPE, Noise, assert_equal, changed, labelled, last, trained, without_time


@pytest.fixture(scope="module")
def uninterrupted(data: Path, settings: ProGANRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    trained(data, out, settings)
    return out


def test_files_of_a_run(uninterrupted: Path) -> None:
    names = {path.name for path in uninterrupted.iterdir()}
    assert {"recipe.json", "stats.jsonl", "tensorboard", "reals.png", "checkpoints", "generator.safetensors"} <= names
    lines = without_time(uninterrupted)
    assert [line["tick"] for line in lines] == list(range(1, 11))
    assert [line["resolution"] for line in lines] == [4, 4, 8, 8, 8, 8, 8, 16, 16, 16]
    assert lines[-1]["kimg"] == 0.16
    with Image.open(uninterrupted / "reals.png") as reals:
        assert reals.size == (48, 32)
    facts = json.loads((uninterrupted / "generator.json").read_text())
    assert (facts["level"], facts["kimg"]) == (4, 0.16)
    kept = sorted(path.name for path in (uninterrupted / "checkpoints").iterdir())
    wanted = ["000000032-r0004", "000000112-r0008", "000000144-r0016", "000000160-r0016"]
    assert kept == [f"checkpoint-{name}.pt" for name in wanted]


@pytest.mark.parametrize("cut_kimg", [0.016, 0.048, 0.144])
def test_a_resumed_run_has_the_same_bits(
    cut_kimg: float, uninterrupted: Path, data: Path, settings: ProGANRecipe, tmp_path: Path
) -> None:
    trained(data, tmp_path, settings, cut_kimg)
    trained(data, tmp_path, settings)
    assert_equal(last(tmp_path), last(uninterrupted))
    assert without_time(tmp_path) == without_time(uninterrupted)
    assert (tmp_path / "generator.safetensors").read_bytes() == (uninterrupted / "generator.safetensors").read_bytes()


def test_data_that_are_replaced_during_a_training(data: Path, settings: ProGANRecipe, tmp_path: Path) -> None:
    """The file is opened again for each resolution."""
    settings, path, kimg = settings, tmp_path / "data.h5", [0.0]
    shutil.copy(data, path)
    reals = RealImages(path, settings, SINGLE_PROCESS)
    batches = reals.minibatches(lambda: settings.schedule.at(kimg[0], settings.net.level_max))
    next(batches)
    shutil.copy(data, tmp_path / "new.h5")
    (tmp_path / "new.h5").replace(path)
    next(batches)  # from the file as it was
    kimg[0] = 0.05
    with pytest.raises(TrainingError, match=r"data\.h5 was replaced or changed during the training; resume it with"):
        next(batches)


def test_adam_is_reset_when_a_level_enters(uninterrupted: Path) -> None:
    """Adam has counted the steps since the last level entered, and in the first step of the level it had no moments."""
    for path, steps in zip(checkpoint_paths(uninterrupted / "checkpoints"), (4, 10, 4, 6), strict=True):
        networks = read_checkpoint(path).state["networks"]
        for net, adam in (("generator", "generator_adam"), ("discriminator", "discriminator_adam")):
            counts = {int(one["step"]) for one in networks[adam]["state"].values()}
            assert max(counts) == steps, (path, net)
            assert [group["betas"] for group in networks[adam]["param_groups"]] == [(0.0, 0.99)]


@pytest.mark.parametrize("ingredient", ["batch_norm", "labels"])
def test_batch_norm_and_labels_are_resumed(ingredient: str, data: Path, settings: ProGANRecipe, tmp_path: Path) -> None:
    changes = {"labels": {"labels": 3}, "batch_norm": {"batch_norm": True, "pixel_norm": False}}[ingredient]
    settings = changed(settings, net=changes)
    data = labelled(data, tmp_path)
    for cuts, out in (((None,), tmp_path / "one"), ((0.064, None), tmp_path / "two")):
        for cut in cuts:
            trained(data, out, settings, cut)
    state = last(tmp_path / "one")
    assert_equal(last(tmp_path / "two"), state)
    moments = {key: value for key, value in state.items() if key.endswith("running_mean")}
    assert bool(moments) is (ingredient == "batch_norm")
    for key, value in moments.items():
        if key.startswith("/networks/averaged"):
            assert torch.equal(value, state[key.replace("averaged", "generator", 1)])
            assert float(value.abs().sum()) > 0


def command_line(data: Path, out: Path, recipe: Path, *launcher: str) -> list[str]:
    rest = ["-m", "celebahq_builder", "train", str(data), "--out", str(out), "--recipe", str(recipe)]
    return [sys.executable, *launcher, *rest, "--device", "cpu"]


def until(condition: object, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("nothing happened for a minute")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed(
    number: signal.Signals, uninterrupted: Path, data: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(command_line(data, out, recipe), stderr=subprocess.PIPE, text=True)
    until(lambda: len(read_lines(out / "stats.jsonl")) >= 3, process)
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    if number == signal.SIGTERM and len(read_lines(out / "stats.jsonl")) < 10:
        assert process.returncode == 143, message
        last_line = message.splitlines()[-1]
        kimg = int(checkpoint_paths(out / "checkpoints")[-1].name[11:20]) / 1000
        assert last_line == (
            f"interrupted by SIGTERM; the checkpoint of {kimg:g} kimg is saved; run the same command again to resume; "
            f"report: {out}/report/index.html"
        )
    assert subprocess.run(command_line(data, out, recipe), capture_output=True, check=False).returncode == 0
    assert_equal(last(out), last(uninterrupted))
    assert without_time(out) == without_time(uninterrupted)


@pytest.mark.slow
def test_two_processes_compute_what_one_does(data: Path, recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(command_line(data, tmp_path, recipe, *torchrun), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for one, other in zip(without_time(tmp_path), without_time(uninterrupted), strict=True):
        for name, value in one.items():
            assert value == pytest.approx(other[name], rel=1e-4, abs=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_processes_are_interrupted(number: signal.Signals, data: Path, recipe: Path, tmp_path: Path) -> None:
    """SIGTERM is sent to torchrun, Ctrl-C by a terminal to all processes. One line says what is saved."""
    out, long = tmp_path / "run", tmp_path / "long.toml"
    long.write_text(recipe.read_text().replace("total_kimg = 0.16", "total_kimg = 1000"))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = subprocess.Popen(
        command_line(data, out, long, *torchrun), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until(lambda: len(read_lines(out / "stats.jsonl")) >= 3, process)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, message = process.communicate(timeout=120)
    kimg = int(checkpoint_paths(out / "checkpoints")[-1].name[11:20]) / 1000
    lines = [line for line in message.splitlines() if line.startswith("interrupted")]
    what = "interrupted by SIGTERM" if number == signal.SIGTERM else "interrupted"
    assert len(lines) == 1, message
    assert lines[0].startswith(f"{what}; the checkpoint of {kimg:g} kimg is saved; run the same command again"), message
    assert "another process of this training ended" not in message
    trained(data, out, load(ProGANRecipe, long), kimg + 0.016)


@pytest.mark.parametrize("labels", [0, 3])
def test_passes_change_rounding_only(labels: int, data: Path, settings: ProGANRecipe, tmp_path: Path) -> None:
    settings, data = changed(settings, net={"labels": labels}), labelled(data, tmp_path)
    trained(data, tmp_path / "whole", settings)
    trained(data, tmp_path / "cut", changed(settings, schedule={"per_gpu": {"4": 4, "8": 4, "16": 4}}))
    lines = zip(without_time(tmp_path / "cut"), without_time(tmp_path / "whole"), strict=True)
    for one, other in list(lines)[: 10 - labels]:  # rounding errors grow with the steps, sooner with labels
        for name, value in one.items():
            assert value == pytest.approx(other[name], rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize("kind", ["lsgan", "logistic"])
def test_other_losses_train(kind: str, data: Path, settings: ProGANRecipe, tmp_path: Path) -> None:
    trained(data, tmp_path, changed(settings, loss={"kind": kind}), 0.048)
    assert len(read_lines(tmp_path / "stats.jsonl")) == 3


def test_bf16_trains(data: Path, settings: ProGANRecipe, tmp_path: Path) -> None:
    trained(data, tmp_path, changed(settings, precision="bf16"), 0.096)
    lines = read_lines(tmp_path / "stats.jsonl")
    assert len(lines) == 6
    assert all(np.isfinite(line["discriminator_loss"]) for line in lines)


@pytest.mark.parametrize("damage", ["cut", "bit"])
def test_a_damaged_checkpoint_is_skipped(
    damage: str,
    uninterrupted: Path,
    data: Path,
    settings: ProGANRecipe,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    path = checkpoint_paths(run / "checkpoints")[-1]
    raw = bytearray(path.read_bytes())
    if damage == "bit":
        raw[raw.index(last(run)["/networks/generator/dense.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(raw[:1000] if damage == "cut" else raw)
    trained(data, run, settings)
    assert f"{path} is damaged (" in caplog.text
    assert_equal(last(run), last(uninterrupted))
    assert without_time(run) == without_time(uninterrupted)


def test_another_recipe_or_other_data_are_refused(
    uninterrupted: Path, data: Path, settings: ProGANRecipe, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"loss\.penalty = 10\.0, this run has loss\.penalty = 5\.0"):
        trained(data, uninterrupted, changed(settings, loss={"penalty": 5.0}))

    class Others(Noise):
        count = 41

    other = tmp_path / "other.h5"
    write_images(Others(), other, codec=Gzip())
    with pytest.raises(TrainingError, match=r"data\.images = 40, this run has data\.images = 41"):
        trained(other, uninterrupted, settings)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("resolution = 16 -> resolution = 32", TrainingError, "has images of 16x16, the recipe trains to 32"),
        ("latent = 8 -> colours = 1", TrainingError, "has 3 channels, the recipe has net.colours = 1"),
        ("latent = 8 -> latents = 8", RecipeError, "unknown key net.latents; did you mean latent?"),
        ('task = "progan" -> task = "denoise"', RecipeError, "task = denoise; this command trains task = progan"),
        ("minibatch = 8 -> minibatches = { 32 = 8 }", RecipeError, "names 32, above net.resolution = 16"),
    ],
)
def test_bad_recipes(change: str, error: type[CelebAHQError], message: str, data: Path, tmp_path: Path) -> None:
    old, new = change.split(" -> ")
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace(old, new))
    with pytest.raises(error, match=message.replace(".", r"\.").replace("?", r"\?")):
        launch.train_progan(data, tmp_path / "run", recipe=path, device="cpu")
    assert not (tmp_path / "run").exists()


def test_no_checkpoint_to_resume_from(data: Path, recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has no checkpoint; leave out `resume`"):
        launch.train_progan(data, tmp_path / "run", resume=True, recipe=recipe, device="cpu")


def test_metrics_during_a_training(data: Path, settings: ProGANRecipe, uninterrupted: Path, tmp_path: Path) -> None:
    """They are computed every fifth tick, where the resolution allows, and do not change the weights."""
    run, tick = tmp_path / "run", {"metric_ticks": 5, "metrics": ("swd", "ms-ssim"), "metric_num": 40}
    trained(data, run, changed(settings, tick=tick))
    assert_equal(last(run), last(uninterrupted))
    lines = read_lines(run / "stats.jsonl")
    assert [line["tick"] for line in lines if "ms-ssim40" in line] == [5, 10]
    assert [line["tick"] for line in lines if "swd40" in line] == [10]  # 8x8 has no SWD
    source = open_source(run, None, EvaluationProtocol(("swd", "ms-ssim")))
    result = evaluate(source, SourceImages(open_data_set(data, 16)), EvaluationProtocol(("swd", "ms-ssim"), 40))
    for name in ("swd", "ms-ssim"):
        score = result.score(name)
        assert lines[-1][score.name] == pytest.approx(score.number.value, rel=1e-5)
    assert lines[-1]["swd40_16"] == lines[-1]["swd40"]
    assert "ms-ssim40" in (run / "report" / "index.html").read_text()


def test_a_reference_with_too_few_images(data: Path, settings: ProGANRecipe, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"has 40 images, fewer than tick.metric_num = 8192; set it to 40 at most"):
        trained(data, tmp_path / "run", changed(settings, tick={"metric_ticks": 1}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("progress.images", "many", "progress: images"),
        ("progress.images", -8, "progress: images = -8"),
        ("progress.images", 10**400, "too large"),
        ("progress.level", 10**9, "progress: level"),
        ("progress.tick_sums", torch.zeros(7), "size of tensor"),
        ("progress", [1], "argument after"),
        ("networks.averaged", {}, "Error.s. in loading state_dict"),
        ("networks.generator_adam", None, "NoneType"),
        ("networks.mean_fake", None, "NoneType"),
        ("networks", None, "NoneType"),
    ],
)
def test_checkpoints_with_other_contents(
    key: str, value: object, reason: str, uninterrupted: Path, data: Path, settings: ProGANRecipe, tmp_path: Path
) -> None:
    """They are refused in one line, and stay as they are."""
    run = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    path = checkpoint_paths(run / "checkpoints")[-1]
    found = read_checkpoint(path)
    table = found.state
    *tables, last_key = key.split(".")
    for name in tables:
        table = table[name]
    table[last_key] = value
    write_checkpoint(path, found.config, found.state)
    before = path.read_bytes()
    with pytest.raises(TrainingError, match=rf"was written by another version \(.*{reason}.*; choose another `out`$"):
        trained(data, run, settings)
    assert path.read_bytes() == before


@pytest.mark.parametrize("progress", [{"images": "many"}, {"images": 10**400}, {}, None])
def test_the_plan_of_a_run_with_other_contents(
    progress: object, uninterrupted: Path, data: Path, recipe: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    path = checkpoint_paths(run / "checkpoints")[-1]
    found = read_checkpoint(path)
    write_checkpoint(path, found.config, {**found.state, "progress": progress})
    with pytest.raises(TrainingError, match="was written by another version"):
        list(launch.describe_training(TrainingRequest(data, run), recipe, "cpu"))
