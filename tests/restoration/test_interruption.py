"""Trainings that signals interrupt: what is saved is what the message says, and the resumed run has the same bits."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from celebahq_builder.config import to_mapping
from celebahq_builder.restoration.photos import TrainingPhotos
from celebahq_builder.restoration.pixel_training import PixelRecipe, PixelTask
from celebahq_builder.training import interruption, loop
from celebahq_builder.training.checkpoint import CheckpointFolder, checkpoint_paths
from celebahq_builder.training.distributed import DistributedContext
from celebahq_builder.training.interruption import StopRequest, TrainingInterrupted
from tests.restoration.runs import DENOISE, RECIPES, equal_runs, log_lines, train


def signalling(original: Any, call: int, number: signal.Signals = signal.SIGTERM, after: bool = False) -> Any:
    """Return a function that sends a signal to this process in its n-th call, before or after its work."""
    calls = []

    def function(*arguments: Any, **more: Any) -> Any:
        calls.append(arguments)
        if len(calls) == call and not after:
            signal.raise_signal(number)
        result = original(*arguments, **more)
        if len(calls) == call and after:
            signal.raise_signal(number)
        return result

    return function


MOMENTS = {
    "while the first batch is prepared": ((PixelTask, "draw_batch", 1, False), 1),
    "before a step that no validation follows": ((PixelTask, "training_step", 3, False), 3),
    "before a step that a validation follows": ((PixelTask, "training_step", 2, False), 2),
    "during a validation": ((PixelTask, "validate", 1, False), 2),
    "during the second validation": ((PixelTask, "validate", 2, True), 4),
    "during the last validation": ((PixelTask, "validate", -1, True), -1),
    "before a checkpoint is written": ((CheckpointFolder, "save", 1, False), 2),
    "after a checkpoint was written": ((CheckpointFolder, "save", 1, True), 2),
}
"""Moments of a signal: function, its call, before or after its work; and the step of the last checkpoint. -1 is the
last call or step."""


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("whole_run", ["denoise"], indirect=True)
def test_moments(
    moment: str, whole_run: tuple[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (owner, function, call, after), step = MOMENTS[moment]
    name, whole = whole_run
    if call < 0:
        call, step = len(log_lines(whole)), RECIPES[name].steps
    with monkeypatch.context() as patch:
        patch.setattr(owner, function, signalling(getattr(owner, function), call, after=after))
        with pytest.raises(
            TrainingInterrupted,
            match=rf"^the checkpoint of step {step} is saved; .* to resume(; weights so far: /.*)?$",
        ) as end:
            train(RECIPES[name], photos, tmp_path)
    assert end.value.number == signal.SIGTERM
    assert ("weights so far" in str(end.value)) == (tmp_path / "weights.safetensors").exists()
    assert checkpoint_paths(tmp_path / "checkpoints")[-1].name == f"checkpoint-{step:09d}.pt"
    assert train(RECIPES[name], photos, tmp_path) == tmp_path / "weights.safetensors"
    assert equal_runs(tmp_path, whole)


def test_a_validation_is_interrupted_twice(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resumed run begins with the validation, and so does the next one."""
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(PixelTask, "validate", signalling(PixelTask.validate, 1))
            with pytest.raises(TrainingInterrupted, match="the checkpoint of step 2 is saved"):
                train(DENOISE, photos, tmp_path)
        assert not (tmp_path / "log.jsonl").exists()
    train(DENOISE, photos, tmp_path)
    assert [line["step"] for line in log_lines(tmp_path)] == [2, 4, 6, 7]


def test_before_the_first_step(photos: Path, tmp_path: Path) -> None:
    """No message promises a checkpoint that does not exist."""
    stop = StopRequest()

    class StoppedTask(PixelTask):
        def __init__(self, recipe: PixelRecipe, photos: Path, context: DistributedContext) -> None:
            stop.requested = True
            super().__init__(recipe, photos, context)

    with pytest.raises(TrainingInterrupted, match="^no checkpoint was saved; run the same command again to start from"):
        loop.train(StoppedTask, DENOISE, photos, loop.TrainingOptions(out=tmp_path, device="cpu", stop=stop))
    assert not (tmp_path / "checkpoints").exists()


def test_while_the_photos_are_read(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingPhotos, "read", signalling(TrainingPhotos.read, 1, signal.SIGINT))
    with pytest.raises(TrainingInterrupted, match="^run the same command again$"):
        train(DENOISE, photos, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_second_ctrl_c(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the training at once; the checkpoint of the last validation remains."""
    monkeypatch.setattr(interruption, "REPEAT_S", 0.0)
    original = PixelTask.training_step

    def training_step(task: PixelTask, step: int, batch: Any) -> Any:
        for _ in range(2 if step == 2 else 0):
            signal.raise_signal(signal.SIGINT)
        return original(task, step, batch)

    monkeypatch.setattr(PixelTask, "training_step", training_step)
    with pytest.raises(TrainingInterrupted, match="^ended at once; the checkpoint of st"):
        train(DENOISE, photos, tmp_path)
    assert [path.name for path in checkpoint_paths(tmp_path / "checkpoints")] == ["checkpoint-000000002.pt"]


def test_lines_of_a_training(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "FORECAST_AFTER_S", 0.0)
    caplog.set_level(logging.INFO)
    train(DENOISE, photos, tmp_path / "run")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == f"reading the photos in {photos}"
    assert lines[1] == (
        "4 photos, 2 held out; steps 1 to 7 on cpu; the next validation, which writes weights, is after step 2"
    )
    assert "steps/s: the next validation in 0.0 min, the end in 0 min" in lines[2]
    assert lines[3].startswith("step 2 of 7: loss 0.")


def test_the_command(photos: Path, tmp_path: Path) -> None:
    """It prints one line after the signal, and ends with 128 plus its number."""
    recipe, run = tmp_path / "long.toml", tmp_path / "run"
    recipe.write_text(tomlkit.dumps(to_mapping(DENOISE)).replace("steps = 4", "steps = 100000"))
    words = ["train-denoiser", photos, "--out", run, "--recipe", recipe, "--device", "cpu"]
    command = [sys.executable, "-m", "celebahq_builder", *map(str, words)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr)
        next(line for line in lines if line.startswith("step 2 of"))
        process.send_signal(signal.SIGTERM)
        *_, last = lines
    assert process.returncode == 143
    step = int(checkpoint_paths(run / "checkpoints")[-1].stem.removeprefix("checkpoint-"))
    assert last == (
        f"interrupted by SIGTERM; the checkpoint of step {step} is saved; run the same command again to resume; "
        f"weights so far: {run}/weights.safetensors\n"
    )
