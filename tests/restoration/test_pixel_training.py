"""Training goes on where it was cut, to the same bits; validates what it says; and makes networks better."""

import dataclasses
import errno
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from scipy.ndimage import gaussian_filter

from celebahq_builder.config import to_mapping
from celebahq_builder.errors import DiskFull, TrainingError, WorkspaceError, WorkspaceLocked
from celebahq_builder.models.registry import Shape, entry, load
from celebahq_builder.restoration import checkpoint
from celebahq_builder.restoration.degradation import DegradationSettings
from celebahq_builder.restoration.loop import Phase, fit
from celebahq_builder.restoration.pixel_training import Restoration, RestorationRecipe
from celebahq_builder.storage import lock
from celebahq_builder.training.distributed import ALONE
from tests.disk import failing

DENOISE = RestorationRecipe(
    task="denoise",
    net=Shape("autoencoder", (4, 6, 8), (1, 1, 1)),
    phases=(Phase(4, 16, 2), Phase(3, 32, 1)),
    learning_rate=0.05,
    held_out=2,
    validate_every=2,
    bf16=False,
)
UPSCALE = dataclasses.replace(
    DENOISE, task="upscale", net=Shape("srgan", (6,), (1,)), phases=(Phase(3, 16, 2), Phase(2, 32, 1))
)
RECIPES = {"denoise": DENOISE, "upscale": UPSCALE}


def train(recipe: RestorationRecipe, photos: Path, out: Path, workers: int = 0) -> Path:
    return fit(Restoration(recipe, photos, ALONE), out, ALONE, workers=workers)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Training sets how many threads torch and OpenCV use."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small images of soft blotches and sharp edges."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(6):
        noise = np.random.default_rng(i).normal(size=(132, 140, 3))
        image = gaussian_filter(noise, (4, 4, 0)) * 900 + 128
        image[40:90, 30 + 5 * i : 100] += 60
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def log_lines(out: Path) -> list[dict[str, float]]:
    """The log, without what depends on the clock."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "steps_per_s"} for line in lines]


def same_result(a: Path, b: Path) -> bool:
    names = ("checkpoint.safetensors", "weights.safetensors")
    tensors = [(load_file(a / name), load_file(b / name)) for name in names]
    return log_lines(a) == log_lines(b) and all(
        x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x) for x, y in tensors
    )


@pytest.fixture(scope="module", params=RECIPES)
def whole_run(
    request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """Name of a recipe, and the folder of a run of it that nobody cut."""
    out = tmp_path_factory.mktemp("whole") / request.param
    train(RECIPES[request.param], photos, out)
    return request.param, out


class Cut(Exception):
    """Stands for a kill."""


def cut_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Restoration.update

    def update(task: Restoration, at: int, drawn: Any) -> torch.Tensor:
        if at == step:
            raise Cut
        return original(task, at, drawn)

    monkeypatch.setattr(Restoration, "update", update)


@pytest.mark.parametrize("steps", [[1], [2], [3], [3, 4]])
def test_cut_run_goes_on_to_the_same_bits(
    steps: list[int], whole_run: tuple[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first checkpoint, just after one, between two, in a later phase, and more than once."""
    name, whole = whole_run
    for step in steps:
        with monkeypatch.context() as patch:
            cut_at(step, patch)
            with pytest.raises(Cut):
                train(RECIPES[name], photos, tmp_path)
    assert train(RECIPES[name], photos, tmp_path) == tmp_path / "weights.safetensors"
    assert same_result(tmp_path, whole)


@pytest.mark.parametrize(("file", "count"), [("weights.safetensors", 1), ("checkpoint.safetensors", 2)])
def test_cut_while_saving(
    file: str, count: int, whole_run: tuple[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just after a file got its name."""
    name, whole = whole_run
    original, saved = checkpoint.save_tensors, []

    def save(path: Path, tensors: Any, metadata: Any) -> None:
        original(path, tensors, metadata)
        saved.append(path.name)
        if saved.count(file) == count:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_tensors", save)
        with pytest.raises(Cut):
            train(RECIPES[name], photos, tmp_path)
    train(RECIPES[name], photos, tmp_path)
    assert same_result(tmp_path, whole)


@pytest.mark.parametrize("file", ["weights.safetensors", "checkpoint.safetensors"])
def test_a_full_disk_while_saving(
    file: str, whole_run: tuple[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, whole = whole_run
    with monkeypatch.context() as patch:
        failing(patch, errno.ENOSPC, lambda one: one == f"{file}.partial")
        with pytest.raises(DiskFull, match=rf"no space left to write .*{file}; free some and run the same command"):
            train(RECIPES[name], photos, tmp_path)
    assert not list(tmp_path.glob("*.partial"))
    train(RECIPES[name], photos, tmp_path)
    assert same_result(tmp_path, whole)


@pytest.mark.parametrize("file", ["weights.safetensors", "log.jsonl", "checkpoint.safetensors.partial"])
def test_files_of_others(file: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / file).write_text("theirs")
    with pytest.raises(WorkspaceError, match=rf"holds {file} and is not a folder of a training of this package"):
        train(DENOISE, photos, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(file, "theirs")]


def test_one_training_at_a_time(photos: Path, tmp_path: Path) -> None:
    with lock(tmp_path, "folder of a training", "--out"), pytest.raises(WorkspaceLocked, match="is in use by process"):
        train(DENOISE, photos, tmp_path)


def test_half_a_line_of_the_log(
    whole_run: tuple[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, whole = whole_run
    with monkeypatch.context() as patch:
        cut_at(3, patch)
        with pytest.raises(Cut):
            train(RECIPES[name], photos, tmp_path)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "lo')
    train(RECIPES[name], photos, tmp_path)
    assert same_result(tmp_path, whole)


def test_finished_run_is_left_alone(whole_run: tuple[str, Path], photos: Path) -> None:
    name, whole = whole_run
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert train(RECIPES[name], photos, whole) == whole / "weights.safetensors"
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_what_a_run_leaves(whole_run: tuple[str, Path]) -> None:
    name, whole = whole_run
    left = {".celebahq-lock", "checkpoint.safetensors", "weights.safetensors", "log.jsonl", "tensorboard"}
    assert {path.name for path in whole.iterdir()} == left
    lines = log_lines(whole)
    assert [line["step"] for line in lines] == ([2, 4, 6, 7] if name == "denoise" else [2, 4, 5])
    score = "gain_mean_db" if name == "denoise" else "psnr_y_db"
    assert list(lines[0])[:3] == ["step", "loss", score]
    gains = [value for key, value in lines[-1].items() if key.startswith("gain_q")]
    assert len(gains) == (6 if name == "denoise" else 0)
    if gains:
        assert lines[-1][score] == pytest.approx(sum(gains) / 6, abs=1e-3)
    net = RECIPES[name].net.build()
    net.load_state_dict(load_file(whole / "weights.safetensors"))


def test_exported_weights_are_the_best_average(whole_run: tuple[str, Path]) -> None:
    _, whole = whole_run
    final = load_file(whole / "checkpoint.safetensors")
    exported = load_file(whole / "weights.safetensors")
    assert any(not torch.equal(final[f"averaged.{key}"], final[f"net.{key}"]) for key in exported)
    scores = [line[list(line)[2]] for line in log_lines(whole)]
    if scores[-1] == max(scores):
        assert all(torch.equal(final[f"averaged.{key}"], value) for key, value in exported.items())
    else:
        assert any(not torch.equal(final[f"averaged.{key}"], value) for key, value in exported.items())


def test_seed_decides(whole_run: tuple[str, Path], photos: Path, tmp_path: Path) -> None:
    name, whole = whole_run
    train(RECIPES[name], photos, tmp_path / "again")
    assert same_result(tmp_path / "again", whole)
    train(dataclasses.replace(RECIPES[name], seed=1), photos, tmp_path / "other")
    assert not same_result(tmp_path / "other", whole)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"learning_rate": 0.01}, "learning_rate = 0.05, this run asks 0.01"),
        ({"seed": 3}, "seed = 0, this run asks 3"),
        ({"net": Shape("autoencoder", (4, 6, 10), (1, 1, 1))}, "net.widths = "),
        ({"phases": (Phase(9, 16, 2),)}, "phases = "),
        ({"degradation": DegradationSettings(quality_min=20)}, "degradation.quality_min = 8, this run asks 20"),
    ],
)
def test_another_recipe_is_refused_by_name(changed: dict[str, Any], said: str, photos: Path, tmp_path: Path) -> None:
    one_step = dataclasses.replace(DENOISE, phases=(Phase(1, 16, 1),))
    if not (tmp_path / "checkpoint.safetensors").exists():
        train(one_step, photos, tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(TrainingError, match=f"was trained with {said}.*use another --out"):
        train(dataclasses.replace(one_step, **changed), photos, tmp_path)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_loss_that_explodes(photos: Path, tmp_path: Path) -> None:
    """It is noticed at the next validation; what was saved before stays as it was."""
    wild = dataclasses.replace(DENOISE, learning_rate=1e38)
    with pytest.raises(TrainingError, match=r"the losses are {'loss': (nan|inf)} at step [24]; lower learning_rate"):
        train(wild, photos, tmp_path)
    assert all(value.isfinite().all() for path in tmp_path.glob("*.safetensors") for value in load_file(path).values())


def test_photos_that_are_too_small_for_the_largest_patch(photos: Path, tmp_path: Path) -> None:
    large = dataclasses.replace(DENOISE, phases=(Phase(1, 16, 1), Phase(1, 64, 1)))
    with pytest.raises(TrainingError, match="0 of 6 photos are at least 192 px"):
        train(large, photos, tmp_path)


def test_bfloat16_trains_float32_weights(photos: Path, tmp_path: Path) -> None:
    train(dataclasses.replace(DENOISE, bf16=True, phases=(Phase(2, 16, 1),)), photos, tmp_path)
    tensors = load_file(tmp_path / "checkpoint.safetensors")
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    assert all(bool(value.isfinite().all()) for value in tensors.values())


def test_denoiser_learns(tmp_path: Path) -> None:
    """On black and white cells of 4 px a fresh network gains 0 dB, a trained one gains at all qualities."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        cells = np.random.default_rng(i).integers(0, 2, (30, 30, 1), dtype=np.uint8) * np.uint8(255)
        Image.fromarray(np.kron(cells, np.ones((4, 4, 3), np.uint8))).save(folder / f"{i}.png")
    recipe = RestorationRecipe(
        task="denoise",
        net=Shape("autoencoder", (12, 12, 12), (1, 1, 1)),
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


def write_flat(folder: Path) -> Path:
    folder.mkdir()
    for i in range(4):
        Image.fromarray(np.full((132, 132, 3), 60 * i, np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_held_out_photos_without_any_detail(name: str, tmp_path: Path) -> None:
    """JPEG reproduces a blank photo exactly, which gives an infinite PSNR; the run must have weights all the same."""
    weights = train(RECIPES[name], write_flat(tmp_path / "photos"), tmp_path / "out")
    assert weights.exists()
    assert all(math.isfinite(value) for line in log_lines(tmp_path / "out") for value in line.values())


@pytest.mark.parametrize("name", RECIPES)
def test_held_out_photos_of_odd_sizes(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        image = np.random.default_rng(i).integers(0, 256, (129 + i, 135 - i, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
    recipe = dataclasses.replace(RECIPES[name], phases=(Phase(1, 16, 1),))
    assert train(recipe, folder, tmp_path / "out").exists()


# --- Batches and scores -----------------------------------------------------------------------------------------


def test_batches_depend_on_the_step_alone(photos: Path) -> None:
    for recipe in RECIPES.values():
        task = Restoration(recipe, photos, ALONE)
        first, again, other = task.draw(2), task.draw(2), task.draw(1)
        assert all(
            np.array_equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True)
        )
        assert not np.array_equal(first[1][0], other[1][0])


@pytest.mark.parametrize(
    ("name", "step", "count", "side"), [("denoise", 3, 2, 16), ("denoise", 4, 1, 32), ("upscale", 2, 2, 64)]
)
def test_batches_are_those_of_the_phase(name: str, step: int, count: int, side: int, photos: Path) -> None:
    damaged, clean = Restoration(RECIPES[name], photos, ALONE).draw(step)
    assert [image.shape for image in clean] == [(side, side, 3)] * count
    assert len(damaged) == (0 if name == "upscale" else count)
    for a, b in zip(damaged, clean, strict=False):
        assert a.shape == b.shape
        assert a.dtype == b.dtype == np.uint8
        assert np.abs(a.astype(int) - b).mean() < 25


def test_threads_that_draw_ahead_change_nothing(whole_run: tuple[str, Path], photos: Path, tmp_path: Path) -> None:
    name, whole = whole_run
    train(RECIPES[name], photos, tmp_path, workers=3)
    assert same_result(tmp_path, whole)


def test_other_photos_are_refused(photos: Path, tmp_path: Path) -> None:
    others = tmp_path / "photos"
    shutil.copytree(photos, others)
    one_step = dataclasses.replace(DENOISE, phases=(Phase(1, 16, 1),))
    train(one_step, photos, tmp_path / "out")
    train(one_step, others, tmp_path / "out")  # the same ones elsewhere
    (others / "5.png").rename(others / "6.png")
    with pytest.raises(TrainingError, match="was trained with photos = "):
        train(one_step, others, tmp_path / "out")


def test_start_goes_on_from_registered_weights(photos: Path, tmp_path: Path) -> None:
    bundled = entry("denoiser").shape
    recipe = dataclasses.replace(DENOISE, net=bundled, start="denoiser", learning_rate=1e-9, phases=(Phase(1, 16, 1),))
    train(recipe, photos, tmp_path / "out")
    trained, known = load_file(tmp_path / "out" / "weights.safetensors"), load("denoiser").state_dict()
    assert trained.keys() == known.keys()
    assert all(torch.allclose(trained[key], known[key], atol=1e-6) for key in known)
    with pytest.raises(TrainingError, match=r"start = denoiser is Shape\(.*32, 64, 96.*the recipe's net is"):
        train(dataclasses.replace(DENOISE, start="denoiser"), photos, tmp_path / "other")


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_rmse_loss_by_hand(scale: float, photos: Path) -> None:
    """Two images whose errors are 2 and 6 grey levels: the mean of the two, not the root of the mean square."""
    task = Restoration(dataclasses.replace(DENOISE, loss="rmse"), photos, ALONE)
    clean = torch.zeros(2, 3, 8, 8)
    restored = torch.stack([torch.full((3, 8, 8), 2 / 255), torch.full((3, 8, 8), -6 / 255)]) * scale
    assert float(task._loss(restored, clean)) * 255 == pytest.approx(4 * scale, abs=0.02)


def test_what_the_exported_weights_say_of_themselves(whole_run: tuple[str, Path]) -> None:
    name, whole = whole_run
    with safe_open(whole / "weights.safetensors", "pt") as file:
        said = file.metadata()
    assert json.loads(said["shape"]) == to_mapping(RECIPES[name])["net"]
    assert json.loads(said["recipe"])["task"] == name
    assert said["photos"] == "4 photos, 2 held out"


def test_sample_images(tmp_path: Path) -> None:
    """Damaged, restored and clean in a row; the last column is the photo itself."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        image = np.random.default_rng(i).integers(0, 256, (200, 200, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
    for name, recipe in RECIPES.items():
        train(dataclasses.replace(recipe, phases=(Phase(1, 16, 1),)), folder, tmp_path / name)
        with Image.open(tmp_path / name / "samples" / "0000001.png") as page:
            pixels = np.asarray(page)
        assert pixels.shape == (2 * 192 + 4, 3 * 192 + 8, 3)
        with Image.open(folder / "0.png") as photo:
            assert np.array_equal(pixels[:192, -192:], np.asarray(photo)[:192, :192])
        fresh = pixels[:192, :192].astype(int) - pixels[:192, 196:388]  # an untrained network changes next to nothing
        assert np.abs(fresh).mean() < 3


def test_phases_and_rates() -> None:
    assert DENOISE.steps == 7
    assert [DENOISE.phase_at(step).patch_px for step in range(7)] == [16, 16, 16, 16, 32, 32, 32]
    long = dataclasses.replace(DENOISE, phases=(Phase(1000, 16, 1),), learning_rate=1.0)
    rates = [long.rate_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 200)
    assert rates[:200] == sorted(rates[:200])
    assert rates[200:] == sorted(rates[200:], reverse=True)
    assert rates[500] == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-5
    assert max(rates) < 1


@pytest.mark.parametrize(
    ("changed", "said"),
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
def test_recipes_that_make_no_sense(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(DENOISE, **changed)


def test_recipe_is_plain_values() -> None:
    values = to_mapping(DENOISE)
    assert json.loads(json.dumps(values)) == values
    assert values["net"] == {"architecture": "autoencoder", "widths": [4, 6, 8], "blocks": [1, 1, 1]}
    assert math.isclose(values["learning_rate"], 0.05)
