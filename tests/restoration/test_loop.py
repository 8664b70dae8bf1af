"""A training writes what is documented, and an interrupted training ends with the same bits."""

import dataclasses
import errno
import json
import math
import multiprocessing
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from celebahq_builder.config import to_mapping
from celebahq_builder.errors import DiskFull, TrainingError, WorkspaceError, WorkspaceLocked
from celebahq_builder.models.registry import NetworkShape
from celebahq_builder.restoration.degradation import DegradationSettings
from celebahq_builder.restoration.pixel_training import PixelTask
from celebahq_builder.restoration.publish import RECIPES as EXPORTABLE
from celebahq_builder.restoration.task import Phase, RestorationBatch
from celebahq_builder.storage import lock
from celebahq_builder.training.batch_loader import draw_batches
from celebahq_builder.training.checkpoint import CheckpointFolder, checkpoint_paths
from celebahq_builder.training.distributed import SINGLE_PROCESS
from celebahq_builder.training.trained_weights import TrainedWeights
from tests.disk import failing
from tests.restoration.runs import DENOISE, ONE_STEP, RECIPES, equal_runs, equal_tensors, last_state, log_lines, train

# --- Resuming ---------------------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for a kill."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = PixelTask.training_step

    def training_step(task: PixelTask, at: int, batch: RestorationBatch) -> torch.Tensor:
        if at == step:
            raise Killed
        return original(task, at, batch)

    monkeypatch.setattr(PixelTask, "training_step", training_step)


@pytest.mark.parametrize("steps", [[1], [2], [3], [3, 4]])
def test_resumed_run_has_the_same_bits(
    steps: list[int], whole_run: tuple[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed before the first checkpoint, just after one, between two, in a later phase, and twice."""
    name, whole = whole_run
    for step in steps:
        with monkeypatch.context() as patch:
            kill_at(step, patch)
            with pytest.raises(Killed):
                train(RECIPES[name], photos, tmp_path)
    assert train(RECIPES[name], photos, tmp_path) == tmp_path / "weights.safetensors"
    assert equal_runs(tmp_path, whole)


@pytest.mark.parametrize(("writer", "count"), [(TrainedWeights, 1), (CheckpointFolder, 2)])
def test_run_killed_after_writing_a_file(
    writer: Any, count: int, whole_run: tuple[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights, or the second checkpoint, are the last file that was written."""
    name, whole = whole_run
    original, calls = writer.save, []

    def save(*arguments: Any) -> None:
        original(*arguments)
        calls.append(arguments)
        if len(calls) == count:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(writer, "save", save)
        with pytest.raises(Killed):
            train(RECIPES[name], photos, tmp_path)
    train(RECIPES[name], photos, tmp_path)
    assert equal_runs(tmp_path, whole)


def test_half_a_line_of_the_log(
    whole_run: tuple[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, whole = whole_run
    with monkeypatch.context() as patch:
        kill_at(3, patch)
        with pytest.raises(Killed):
            train(RECIPES[name], photos, tmp_path)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "lo')
    train(RECIPES[name], photos, tmp_path)
    assert equal_runs(tmp_path, whole)


def test_run_after_a_damaged_checkpoint(whole_run: tuple[str, Path], photos: Path, tmp_path: Path) -> None:
    """The checkpoint before it is resumed."""
    name, whole = whole_run
    shutil.copytree(whole, tmp_path / "run")
    last = checkpoint_paths(tmp_path / "run" / "checkpoints")[-1]
    last.write_bytes(last.read_bytes()[:-100])
    train(RECIPES[name], photos, tmp_path / "run")
    assert equal_runs(tmp_path / "run", whole)


def test_finished_run_is_not_changed(whole_run: tuple[str, Path], photos: Path) -> None:
    name, whole = whole_run
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert train(RECIPES[name], photos, whole) == whole / "weights.safetensors"
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_seed_decides_the_result(whole_run: tuple[str, Path], photos: Path, tmp_path: Path) -> None:
    name, whole = whole_run
    train(RECIPES[name], photos, tmp_path / "again")
    assert equal_runs(tmp_path / "again", whole)
    train(dataclasses.replace(RECIPES[name], seed=1), photos, tmp_path / "other")
    assert not equal_runs(tmp_path / "other", whole)


def test_threads_are_restored(photos: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(3)
    cv2.setNumThreads(2)
    try:
        train(ONE_STEP, photos, tmp_path)
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (3, 2)
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def test_workers_do_not_change_the_result(whole_run: tuple[str, Path], photos: Path, tmp_path: Path) -> None:
    name, whole = whole_run
    train(RECIPES[name], photos, tmp_path, workers=3)
    assert equal_runs(tmp_path, whole)


def test_signals_do_not_reach_workers(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal sends Ctrl-C to all processes; only the main process handles it."""
    original = PixelTask.draw_batch

    def draw_batch(task: PixelTask, step: int) -> RestorationBatch:
        if multiprocessing.parent_process():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
        return original(task, step)

    train(DENOISE, photos, tmp_path / "quiet", workers=1)
    monkeypatch.setattr(PixelTask, "draw_batch", draw_batch)
    train(DENOISE, photos, tmp_path / "signals", workers=1)
    assert equal_runs(tmp_path / "signals", tmp_path / "quiet")


def test_error_of_a_worker(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the message that it has without workers, and no process stays behind."""

    def draw_batch(task: PixelTask, step: int) -> RestorationBatch:
        raise TrainingError(
            f"training photo 1.png cannot be read in process {multiprocessing.parent_process() is None}"
        )

    monkeypatch.setattr(PixelTask, "draw_batch", draw_batch)
    others = multiprocessing.active_children()  # of tests before
    with pytest.raises(TrainingError, match=r"^training photo 1\.png cannot be read in process False$"):
        train(DENOISE, photos, tmp_path, workers=2)
    assert set(multiprocessing.active_children()) <= set(others)


def test_killed_worker(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the workers is killed while it draws. The other one hangs, and is killed at the end."""

    def draw_batch(task: PixelTask, step: int) -> RestorationBatch:
        if step == 1:
            signal.pause()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    others = multiprocessing.active_children()  # of tests before
    monkeypatch.setattr(PixelTask, "draw_batch", draw_batch)
    with pytest.raises(
        WorkspaceError, match="^a process that prepares batches was killed by SIGKILL, .* with a smaller `workers`"
    ):
        train(DENOISE, photos, tmp_path, workers=2)
    assert set(multiprocessing.active_children()) <= set(others)


def test_worker_killed_while_it_sends_a_batch() -> None:
    """The main process does not wait for the rest of the batch."""

    def draw_batch(step: int) -> bytes:
        if step == 1:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return bytes(step << 20)  # more than a pipe holds

    others = multiprocessing.active_children()  # of tests before
    batches = draw_batches(draw_batch, range(2), workers=1)
    assert next(batches) == b""
    for worker in set(multiprocessing.active_children()) - set(others):
        worker.join()
    with pytest.raises(WorkspaceError, match="^a process that prepares batches was killed by SIGKILL"):
        next(batches)


def test_fault_of_a_worker(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PixelTask, "draw_batch", lambda *_: 1 // 0)
    with pytest.raises(RuntimeError, match="^a process that prepares batches ended with exit code 1; see its error$"):
        train(DENOISE, photos, tmp_path, workers=2)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_workers_end_with_a_killed_main_process() -> None:
    received, sent = os.pipe()
    if not (main := os.fork()):
        try:
            for worker in draw_batches(lambda _: os.getpid(), range(2), workers=2):
                os.write(sent, b"%d\n" % worker)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(sent)
    os.waitpid(main, 0)
    with os.fdopen(received) as lines:
        assert len(lines.readlines()) == 2  # the pipe ends with its last holder


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rate": 0.01}, "learning_rate = 0.05, this run has learning_rate = 0.01"),
        ({"seed": 3}, "seed = 0, this run has seed = 3"),
        ({"net": NetworkShape("autoencoder", (4, 6, 10), (1, 1, 1))}, "net.widths = "),
        ({"phases": (Phase(9, 16, 2),)}, "phases = "),
        ({"degradation": DegradationSettings(quality_min=20)}, "degradation.quality_min = 8, .*quality_min = 20"),
    ],
)
def test_run_of_another_recipe_is_refused(changed: dict[str, Any], message: str, photos: Path, tmp_path: Path) -> None:
    train(ONE_STEP, photos, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(TrainingError, match=f"was trained with {message}.*choose another `out`"):
        train(dataclasses.replace(ONE_STEP, **changed), photos, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_run_of_other_photos_is_refused(photos: Path, tmp_path: Path) -> None:
    """A copy of the photos is not other photos."""
    others = tmp_path / "photos"
    shutil.copytree(photos, others)
    train(ONE_STEP, photos, tmp_path / "out")
    train(ONE_STEP, others, tmp_path / "out")
    (others / "5.png").rename(others / "6.png")
    with pytest.raises(TrainingError, match="was trained with photos = "):
        train(ONE_STEP, others, tmp_path / "out")


def test_run_of_an_earlier_version_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"old")
    with pytest.raises(TrainingError, match="was written by an earlier version.*choose another `out`"):
        train(ONE_STEP, photos, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".celebahq-lock", "checkpoint.safetensors"]


def test_out_that_is_a_file(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(WorkspaceError, match="out cannot be used: File exists; choose another `out`"):
        train(ONE_STEP, photos, tmp_path / "out")


@pytest.mark.parametrize("name", RECIPES)
def test_checkpoint_holds_the_whole_state(name: str, photos: Path, tmp_path: Path) -> None:
    train(RECIPES[name], photos, tmp_path)
    keys = last_state(tmp_path).keys()
    weights = PixelTask(RECIPES[name], photos, SINGLE_PROCESS).network.state_dict().keys()
    assert {f"{part}.{key}" for part in ("averaged", "networks.network") for key in weights} <= keys
    assert sum(key.startswith("optimizers.network.state.") for key in keys) == 3 * len(weights)


# --- Files ------------------------------------------------------------------------------------------------------


def test_files_of_a_run(whole_run: tuple[str, Path]) -> None:
    name, whole = whole_run
    files = {".celebahq-lock", "checkpoints", "weights.safetensors", "log.jsonl", "tensorboard"}
    assert {path.name for path in whole.iterdir()} == files
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
    final = last_state(whole)
    averaged = {key.removeprefix("averaged."): value for key, value in final.items() if key.startswith("averaged.")}
    exported = load_file(whole / "weights.safetensors")
    assert any(not torch.equal(value, final[f"networks.network.{key}"]) for key, value in averaged.items())
    scores = [line[list(line)[2]] for line in log_lines(whole)]
    assert equal_tensors(averaged, exported) == (scores[-1] == max(scores))


def test_best_weights_stay_when_the_score_falls(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter((1.0, 3.0, 2.0, 4.0))
    stored = []
    original = CheckpointFolder.save

    def save(*arguments: Any) -> None:
        original(*arguments)
        with safe_open(tmp_path / "weights.safetensors", "pt") as file:
            stored.append(int(file.metadata()["step"]))

    monkeypatch.setattr(PixelTask, "selection_score", lambda *_: next(scores))
    monkeypatch.setattr(CheckpointFolder, "save", save)
    train(DENOISE, photos, tmp_path)
    assert stored == [2, 4, 4, 7]


def test_average_by_hand(photos: Path, tmp_path: Path) -> None:
    """In the first step the decay is 1/10, whatever the recipe says."""
    train(ONE_STEP, photos, tmp_path)
    state = last_state(tmp_path)
    start = PixelTask(ONE_STEP, photos, SINGLE_PROCESS).network.state_dict()
    for key, value in start.items():
        expected = 0.1 * value + 0.9 * state[f"networks.network.{key}"]
        torch.testing.assert_close(state[f"averaged.{key}"], expected)


def test_metadata_of_the_exported_weights(whole_run: tuple[str, Path]) -> None:
    name, whole = whole_run
    found = TrainedWeights.read(whole, EXPORTABLE)
    assert found.shape == RECIPES[name].net
    assert found.recipe == RECIPES[name]
    assert found.photos == "4 photos, 2 held out"
    assert equal_tensors(found.tensors, load_file(whole / "weights.safetensors"))


def test_sample_images(tmp_path: Path) -> None:
    """A row shows input, result and photo."""
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
        change = pixels[:192, :192].astype(int) - pixels[:192, 196:388]  # an untrained network changes almost nothing
        assert np.abs(change).mean() < 3


# --- Losses -----------------------------------------------------------------------------------------------------


def test_loss_that_explodes(photos: Path, tmp_path: Path) -> None:
    """The next validation ends the run, and earlier files are not changed."""
    wild = dataclasses.replace(DENOISE, learning_rate=1e38)
    with pytest.raises(TrainingError, match=r"the losses are {'loss': (nan|inf)} at step [24]; lower learning_rate"):
        train(wild, photos, tmp_path)
    weights = [load_file(path) for path in tmp_path.glob("*.safetensors")]
    states = [last_state(tmp_path)] if checkpoint_paths(tmp_path / "checkpoints") else []
    assert all(value.isfinite().all() for tensors in (*weights, *states) for value in tensors.values())


def test_bfloat16_trains_float32_weights(photos: Path, tmp_path: Path) -> None:
    train(dataclasses.replace(DENOISE, bf16=True, phases=(Phase(2, 16, 1),)), photos, tmp_path)
    tensors = last_state(tmp_path)
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    assert all(bool(value.isfinite().all()) for value in tensors.values())


def write_flat(folder: Path) -> Path:
    folder.mkdir()
    for i in range(4):
        Image.fromarray(np.full((132, 132, 3), 60 * i, np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_held_out_photos_without_any_detail(name: str, tmp_path: Path) -> None:
    """JPEG reproduces a flat photo exactly, with an infinite PSNR; the run must still write weights."""
    weights = train(RECIPES[name], write_flat(tmp_path / "photos"), tmp_path / "out")
    assert weights.exists()
    lines = log_lines(tmp_path / "out")
    assert lines
    assert all(math.isfinite(value) for line in lines for value in line.values())


@pytest.mark.parametrize("name", RECIPES)
def test_held_out_photos_of_odd_sizes(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        image = np.random.default_rng(i).integers(0, 256, (129 + i, 135 - i, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
    recipe = dataclasses.replace(RECIPES[name], phases=(Phase(1, 16, 1),))
    assert train(recipe, folder, tmp_path / "out").exists()


def test_config_of_a_checkpoint_is_plain_values() -> None:
    values = to_mapping(DENOISE)
    assert json.loads(json.dumps(values)) == values
    assert values["net"] == {"architecture": "autoencoder", "widths": [4, 6, 8], "blocks": [1, 1, 1]}
    assert math.isclose(values["learning_rate"], 0.05)


@pytest.mark.parametrize("file", ["weights.safetensors", "checkpoint-"])
def test_full_disk_while_a_file_is_written(
    file: str, whole_run: tuple[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, whole = whole_run
    with monkeypatch.context() as patch:
        failing(patch, errno.ENOSPC, lambda one: one.startswith(f".{file}"))
        with pytest.raises(DiskFull, match=r"no space left to write .*; free some"):
            train(RECIPES[name], photos, tmp_path)
    assert not list(tmp_path.rglob("*.partial"))
    train(RECIPES[name], photos, tmp_path)
    assert equal_tensors(last_state(tmp_path), last_state(whole))


@pytest.mark.parametrize("file", ["weights.safetensors", "log.jsonl"])
def test_files_of_others_are_not_replaced(file: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / file).write_text("theirs")
    with pytest.raises(WorkspaceError, match=rf"holds {file} and is not a folder of a training of this package"):
        train(DENOISE, photos, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(file, "theirs")]


def test_one_training_at_a_time(photos: Path, tmp_path: Path) -> None:
    with lock(tmp_path, "folder of a training", "out"), pytest.raises(WorkspaceLocked, match="is in use by process"):
        train(DENOISE, photos, tmp_path)
