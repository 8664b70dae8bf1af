"""A training writes what is documented, and an interrupted training ends with the same bytes."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomlkit
import torch
from click.testing import CliRunner, Result

from celebahq_builder.cli import celebahq
from celebahq_builder.config import load, to_mapping
from celebahq_builder.errors import RecipeError, TrainingError, WorkspaceError, WorkspaceLocked
from celebahq_builder.landmarks import training as module
from celebahq_builder.landmarks.faces import LandmarkFaces
from celebahq_builder.landmarks.refiner import Refiner
from celebahq_builder.landmarks.training import (
    FaceBatch,
    LandmarkErrors,
    LandmarkRecipe,
    LandmarkTask,
    landmark_errors,
    landmark_losses,
    median_errors,
)
from celebahq_builder.models.registry import NetworkShape, find_entry, load_network, parameter_count, verify_weights
from celebahq_builder.pipeline.recipe import bundled_recipe
from celebahq_builder.restoration.publish import export
from celebahq_builder.storage import lock
from celebahq_builder.training.checkpoint import checkpoint_paths
from celebahq_builder.training.interruption import StopRequest
from tests.landmarks.runs import ONE_STEP, RECIPE, SAMPLE, files, train
from tests.landmarks.test_refiner import FACE
from tests.restoration.runs import equal_runs, log_lines

# --- Resuming ---------------------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for a kill."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LandmarkTask.training_step

    def training_step(task: LandmarkTask, at: int, batch: FaceBatch) -> torch.Tensor:
        if at == step:
            raise Killed
        return original(task, at, batch)

    monkeypatch.setattr(LandmarkTask, "training_step", training_step)


@pytest.mark.parametrize("steps", [[1], [3], [4], [4, 6]])
def test_killed_run_has_the_same_bytes(
    steps: list[int], whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed before the first checkpoint, just after one, between two, and twice."""
    for step in steps:
        with monkeypatch.context() as patch:
            kill_at(step, patch)
            with pytest.raises(Killed):
                train(RECIPE, tmp_path)
    assert train(RECIPE, tmp_path) == tmp_path / "weights.safetensors"
    assert equal_runs(tmp_path, whole_run)


@pytest.mark.parametrize("step", [1, 3, 5])
def test_interrupted_run_has_the_same_bytes(
    step: int, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request to stop leaves a checkpoint of the step in progress, also between two validations."""
    stop = StopRequest()
    original = LandmarkTask.training_step

    def training_step(task: LandmarkTask, at: int, batch: FaceBatch) -> torch.Tensor:
        stop.requested = at + 1 >= step
        return original(task, at, batch)

    with monkeypatch.context() as patch:
        patch.setattr(LandmarkTask, "training_step", training_step)
        with pytest.raises(KeyboardInterrupt):
            train(RECIPE, tmp_path, stop=stop)
    assert checkpoint_paths(tmp_path / "checkpoints")[-1].name == f"checkpoint-{step:09d}.pt"
    train(RECIPE, tmp_path)
    assert equal_runs(tmp_path, whole_run)


def test_run_after_a_damaged_checkpoint(whole_run: Path, tmp_path: Path) -> None:
    """The checkpoint before it is resumed."""
    shutil.copytree(whole_run, tmp_path / "run")
    last = checkpoint_paths(tmp_path / "run" / "checkpoints")[-1]
    last.write_bytes(last.read_bytes()[:-100])
    train(RECIPE, tmp_path / "run")
    assert equal_runs(tmp_path / "run", whole_run)


def test_run_whose_checkpoints_are_all_damaged(whole_run: Path, tmp_path: Path) -> None:
    shutil.copytree(whole_run, tmp_path / "run")
    for path in checkpoint_paths(tmp_path / "run" / "checkpoints"):
        path.write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="all 2 checkpoints in .* are damaged; choose another `out`"):
        train(RECIPE, tmp_path / "run")


def test_finished_run_is_not_changed(whole_run: Path) -> None:
    before = {path: path.read_bytes() for path in whole_run.rglob("*") if path.is_file()}
    assert train(RECIPE, whole_run) == whole_run / "weights.safetensors"
    assert {path: path.read_bytes() for path in whole_run.rglob("*") if path.is_file()} == before


def test_seed_decides_the_result(whole_run: Path, tmp_path: Path) -> None:
    train(RECIPE, tmp_path / "again", workers=3)
    assert equal_runs(tmp_path / "again", whole_run)
    train(dataclasses.replace(RECIPE, seed=1), tmp_path / "other")
    assert not equal_runs(tmp_path / "other", whole_run)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rate": 0.01}, "learning_rate = 0.05, this run has learning_rate = 0.01"),
        ({"net": NetworkShape("landmarks", (8, 8, 12), (1, 1, 1))}, "net.widths = "),
        ({"augmentation": module.AugmentationSettings(shift=0.05)}, "augmentation.shift = 0.1, .*shift = 0.05"),
    ],
)
def test_run_of_another_recipe_is_refused(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    train(ONE_STEP, tmp_path)
    before = files(tmp_path)
    with pytest.raises(TrainingError, match=f"was trained with {message}.*choose another `out`"):
        train(dataclasses.replace(ONE_STEP, **changed), tmp_path)
    assert files(tmp_path) == before


def test_run_of_other_faces_is_refused(tmp_path: Path) -> None:
    train(ONE_STEP, tmp_path / "run")
    others = shutil.copytree(SAMPLE, tmp_path / "others")
    (others / "img_celeba" / "000001.jpg").unlink()
    with pytest.raises(TrainingError, match="was trained with photos = "):
        train(ONE_STEP, tmp_path / "run", others)


# --- Files ------------------------------------------------------------------------------------------------------


def test_files_of_a_run(whole_run: Path) -> None:
    names = {".celebahq-lock", "checkpoints", "weights.safetensors", "log.jsonl", "tensorboard"}
    assert {path.name for path in whole_run.iterdir()} == names
    lines = log_lines(whole_run)
    assert [line["step"] for line in lines] == [3, 6, 7]
    assert list(lines[0]) == ["step", *LandmarkTask.loss_names, "nme", "side_percent", "rotation_deg"]


def test_files_of_others_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("theirs")
    with pytest.raises(WorkspaceError, match=r"holds log\.jsonl and is not a folder of a training of this package"):
        train(ONE_STEP, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("log.jsonl", "theirs")]


def test_one_training_at_a_time(tmp_path: Path) -> None:
    with lock(tmp_path, "folder of a training", "out"), pytest.raises(WorkspaceLocked, match="is in use by process"):
        train(ONE_STEP, tmp_path)


def test_loss_that_explodes(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the losses are {.*nan.*} at step [36]; lower learning_rate"):
        train(dataclasses.replace(RECIPE, learning_rate=1e38), tmp_path)


def test_weights_of_a_run_and_of_a_registry_refine_alike(whole_run: Path, faces: LandmarkFaces, tmp_path: Path) -> None:
    made = export(whole_run, "mine", tmp_path / "to", licence="CC0", data="the sample")
    assert made.setting == ""
    entry = find_entry("mine", tmp_path / "to")
    assert entry.shape == RECIPE.net
    assert entry.data == "11 photos, 3 held out: the sample"
    assert set(entry.scores) == {"held_out_nme", "held_out_side_percent", "held_out_rotation_deg"}
    assert list(verify_weights(folder=tmp_path / "to")) == [("mine", "")]
    load_network("mine", folder=tmp_path / "to")
    card = made.card.read_text()
    for part in ("hourglass with heatmaps, 8/8/8 channels", "GFLOP per crop", "Median over", "| augmentation | first"):
        assert part in card
    image, points = faces.held_out[0]
    a, b = (Refiner.load(path).refine(image, points) for path in (whole_run, f"{tmp_path}/to/mine"))
    assert np.array_equal(a[0], b[0])
    assert a[1] == b[1]


def test_start_from_weights_of_a_registry(whole_run: Path, tmp_path: Path) -> None:
    export(whole_run, "mine", tmp_path / "to", licence="CC0", data="the sample")
    recipe = dataclasses.replace(ONE_STEP, start=f"{tmp_path}/to/mine", learning_rate=1e-30)
    train(recipe, tmp_path / "run")
    started, resumed = (Refiner.load(path).network.heatmaps.weight for path in (tmp_path / "run", whole_run))
    torch.testing.assert_close(started, resumed)
    other = dataclasses.replace(recipe, net=NetworkShape("landmarks", (8, 8, 12), (1, 1, 1)))
    with pytest.raises(TrainingError, match="mine is NetworkShape.*the recipe's net is"):
        train(other, tmp_path / "other")


# --- Learning ---------------------------------------------------------------------------------------------------


def test_network_learns_faces_by_heart(tmp_path: Path) -> None:
    """Without augmentation, the distance to the landmarks falls to a third."""
    still = dict.fromkeys(vars(RECIPE.augmentation), 0.0)
    recipe = dataclasses.replace(
        RECIPE, steps=150, validate_every=50, learning_rate=0.01, augmentation=module.AugmentationSettings(**still)
    )
    train(recipe, tmp_path)
    lines = log_lines(tmp_path)
    assert lines[-1]["distance_percent"] < lines[0]["distance_percent"] / 3


def test_losses_by_hand() -> None:
    """Slow reference in numpy."""
    rng = np.random.default_rng(0)
    found, true = rng.random((2, 5, 2)), rng.random((2, 5, 2))
    scale, heatmaps = rng.normal(size=(2, 5)), rng.normal(size=(2, 5, 6, 8))
    distance = np.zeros((2, 5))
    entropy = np.zeros((2, 5))
    for n in range(2):
        for k in range(5):
            distance[n, k] = np.linalg.norm(found[n, k] - true[n, k])
            target, softmax = np.zeros((6, 8)), np.exp(heatmaps[n, k]) / np.exp(heatmaps[n, k]).sum()
            for row in range(6):
                for column in range(8):
                    x, y = column + 0.5 - 8 * true[n, k, 0], row + 0.5 - 6 * true[n, k, 1]
                    target[row, column] = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
            entropy[n, k] = -(target / target.sum() * np.log(softmax)).sum()
    expected = [100 * distance.mean(), entropy.mean(), (distance / np.exp(scale) + 2 * scale).mean()]
    tensors = [torch.from_numpy(one).float() for one in (found, scale, heatmaps, true)]
    np.testing.assert_allclose(landmark_losses(*tensors, 1.5).numpy(), expected, rtol=1e-4)


# --- Errors -----------------------------------------------------------------------------------------------------


def test_a_similarity_has_its_own_errors() -> None:
    """Rotation and scale about the centre of the crop; the error of a point is its distance to the moved one."""
    for angle, zoom in ((3.0, 1.0), (-7.0, 1.05), (179.5, 0.9)):
        t = np.radians(angle)
        turn = zoom * np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])
        found = (FACE - 50) @ turn + 50
        errors = landmark_errors(found, FACE)
        assert errors.rotation_deg == pytest.approx(abs(angle))
        assert errors.side_percent == pytest.approx(100 * abs(zoom - 1), abs=1e-9)
        distances = [float(np.linalg.norm(a - b)) for a, b in zip(found, FACE, strict=True)]
        assert errors.nme == pytest.approx(sum(distances) / 5 / 20)


def test_equal_landmarks_have_no_errors() -> None:
    assert landmark_errors(FACE, FACE) == LandmarkErrors(0.0, 0.0, 0.0)


def test_medians_are_those_of_each_error() -> None:
    errors = [LandmarkErrors(0.1, 5.0, 2.0), LandmarkErrors(0.3, 1.0, 1.0), LandmarkErrors(0.2, 2.0, 9.0)]
    assert median_errors(errors) == LandmarkErrors(0.2, 2.0, 2.0)


# --- Recipes ----------------------------------------------------------------------------------------------------


def test_bundled_recipe() -> None:
    recipe = load(LandmarkRecipe, bundled_recipe(Path("landmarks"), "train"))
    assert recipe.held_out == 200
    assert 100_000 <= parameter_count(recipe.net) <= 300_000
    assert recipe.learning_rate_at(0) < recipe.learning_rate_at(300) > recipe.learning_rate_at(recipe.steps - 1) >= 0
    assert to_mapping(recipe)["task"] == "landmarks"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"net": NetworkShape("srgan", (4,), (1,))}, "net.architecture is srgan"),
        ({"steps": 0}, "steps = 0 must be at least 1"),
        ({"batch": 1}, "batch = 1 must be from 2 to 4096"),
        ({"ema": 1.0}, r"ema = 1.0 must be in \[0, 1\)"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0 must be positive"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0 must be at least 0"),
    ],
)
def test_recipe_out_of_range(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RECIPE, **changed)


def test_commands(tmp_path: Path) -> None:
    """A run that the command line trains, resumes and exports."""
    recipe, run = tmp_path / "tiny.toml", tmp_path / "run"
    settings = to_mapping(dataclasses.replace(ONE_STEP, held_out=3))
    recipe.write_text(tomlkit.dumps({key: settings[key] for key in ("task", "steps", "batch", "held_out", "net")}))
    for _ in range(2):
        ended = invoke("train-landmarks", SAMPLE, "--out", run, "--recipe", recipe)
        assert ended.output.endswith(f"weights: {run}/weights.safetensors\n")
    texts = ("--licence", "CC0", "--data", "the sample")
    ended = invoke("weights", "export", run, "--name", "mine", "--to", tmp_path / "to", *texts)
    assert "recipe:" not in ended.output
    card = (tmp_path / "to" / "mine.md").read_text()
    assert "| command | `celebahq train-landmarks CELEBA_ROOT --recipe tiny` |" in card


def test_command_for_a_folder_of_too_few_rows(tmp_path: Path) -> None:
    """The message names the argument of the command."""
    with pytest.raises(
        TrainingError, match=r"^CELEBA_ROOT .*: 15 of 15 photos can be used; training needs 400 or more"
    ):
        invoke("train-landmarks", SAMPLE, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(celebahq, [str(one) for one in arguments], catch_exceptions=False)


def test_recipe_of_another_training(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match="task = denoise; this command trains task = landmarks, choose another --recipe"
    ):
        invoke("train-landmarks", SAMPLE, "--out", tmp_path / "run", "--recipe", "denoiser")
    assert not (tmp_path / "run").exists()
