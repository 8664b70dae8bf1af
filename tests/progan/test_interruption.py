"""Interrupted trainings save a checkpoint, images and a report; diverged ones do not save a checkpoint."""

import logging
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from celebahq_builder.errors import TrainingError, WorkspaceError, WorkspaceLocked
from celebahq_builder.progan import ticks
from celebahq_builder.progan.schedule import ProGANRecipe, TrainingRequest
from celebahq_builder.progan.train import Training
from celebahq_builder.storage import HOST, lock
from celebahq_builder.training.distributed import SINGLE_PROCESS
from celebahq_builder.training.interruption import StopRequest, TrainingInterrupted
from celebahq_builder.training.logger import read_lines
from tests.progan.tiny import assert_equal, changed, last, trained, without_time


def before_steps(training: Training, action: Callable[[int], None]) -> None:
    """Let a training call a function with the number of each step before it takes the step."""
    step = training.progan.step

    def acting(number: int, *rest: object) -> torch.Tensor:
        action(number)
        return step(number, *rest)

    training.progan.step = acting


def test_interrupted_at_the_end_of_a_tick(data: Path, settings: ProGANRecipe, tmp_path: Path) -> None:
    """A checkpoint is written although none is due."""
    settings = changed(settings, tick={"checkpoint_ticks": 100})
    training = Training(TrainingRequest(data, tmp_path / "cut"), settings, SINGLE_PROCESS)
    before_steps(training, lambda number: signal.raise_signal(signal.SIGTERM) if number == 5 else None)
    with pytest.raises(TrainingInterrupted, match="^the checkpoint of 0.048 kimg is saved; run"):
        training.run()
    names = [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()]
    assert names == ["checkpoint-000000048-r0008.pt"]
    trained(data, tmp_path / "cut", settings)
    trained(data, tmp_path / "whole", settings)
    assert_equal(last(tmp_path / "cut"), last(tmp_path / "whole"))
    assert without_time(tmp_path / "cut") == without_time(tmp_path / "whole")


def test_interrupted_before_the_first_step(data: Path, settings: ProGANRecipe, tmp_path: Path) -> None:
    """No message promises a checkpoint; images of the random weights and the report exist."""
    stop = StopRequest()
    stop.requested = True
    with pytest.raises(TrainingInterrupted, match="^no checkpoint was saved; run the same command again to start"):
        Training(TrainingRequest(data, tmp_path), settings, SINGLE_PROCESS, stop).run()
    assert not (tmp_path / "checkpoints").exists()
    assert (tmp_path / "fakes-000000.png").exists()
    assert "<p>0 of 0.16 kimg, 4x4, alpha 1.00.</p>" in page(tmp_path)  # the speed is not known
    assert "What to expect" in page(tmp_path)


def page(run: Path) -> str:
    return (run / "report" / "index.html").read_text()


def test_images_and_report_of_every_end(data: Path, settings: ProGANRecipe, tmp_path: Path) -> None:
    """After an interruption within a tick, at the end of the training, and after an error."""
    slow = changed(settings, tick={"kimg": 10.0, "grid_ticks": 100})
    starts: set[bytes] = set()

    def images(training: Training) -> bytes:
        """Return the newest grid, which shows the generator as it is now; that of the start is kept."""
        start, grid = sorted(tmp_path.glob("fakes-*.png"))
        assert (start.name, grid.name) == ("fakes-000000.png", "fakes-000001.png")
        before = grid.read_bytes()
        training.output.write_image_grid()
        starts.add(start.read_bytes())
        assert grid.read_bytes() == before
        return before

    stop = StopRequest()
    training = Training(TrainingRequest(data, tmp_path), slow, SINGLE_PROCESS, stop, {2: 100.0})
    before_steps(training, lambda number: signal.raise_signal(signal.SIGINT) if number == 6 else None)
    with pytest.raises(
        TrainingInterrupted, match=r"^the checkpoint of 0\.056 kimg is saved; .*; report: /.*html$"
    ) as end:
        training.run()
    assert end.value.number == signal.SIGINT
    first = images(training)
    assert "0.056 of 0.16 kimg, 8x8, alpha 0.50" in page(tmp_path)
    assert "Interrupted; the checkpoint of 0.056 kimg is saved" in page(tmp_path)
    assert "(at 0.112 kimg)" in page(tmp_path)

    training = trained(data, tmp_path, slow)
    assert images(training) != first
    assert "0.16 of 0.16 kimg, 16x16, alpha 1.00; the training is complete" in page(tmp_path)
    assert "interrupted" not in page(tmp_path).lower()

    training = Training(TrainingRequest(data, tmp_path, total_kimg=1), slow, SINGLE_PROCESS)

    def fail(number: int) -> None:
        if number == 22:
            raise TrainingError("the disk <is> gone")

    before_steps(training, fail)
    with pytest.raises(TrainingError, match="the disk <is> gone"):
        training.run()
    images(training)
    assert len(starts) == 1
    assert "The training ended by an error: the disk &lt;is&gt; gone" in page(tmp_path)


def test_images_and_report_of_a_long_tick(
    data: Path,
    recipe: Path,
    settings: ProGANRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are written before the first tick ends, and lines of the log as well."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(ticks, "FIRST_REPORT_S", 0.0)
    monkeypatch.setattr(ticks, "LINE_EVERY_S", 0.0)
    slow = changed(settings, tick={"kimg": 10.0, "grid_ticks": 100})
    training = Training(TrainingRequest(data, tmp_path), slow, SINGLE_PROCESS, None, {2: 1e-4})
    seen: list[bytes] = []

    def look(number: int) -> None:
        seen.append(sorted(tmp_path.glob("fakes-*.png"))[-1].read_bytes())
        if number == 3:
            assert "(at 0.032 kimg)" in page(tmp_path)
            raise TrainingError("enough")

    before_steps(training, look)
    with pytest.raises(TrainingError, match="enough"):
        training.run()
    assert [seen[i] == seen[i + 1] for i in range(3)] == [False, True, True]
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == f"report: {tmp_path}/report/index.html"
    assert re.fullmatch(r"0 of 0.16 kimg, 4x4, alpha 1.00; estimated: 8x8 in .* days .*, the end in .*", lines[1])
    assert lines[4] == "this recipe is for GPUs; on a CPU, the recipe quick shows faces in minutes"
    assert lines[-1].startswith("0.024 of 0.16 kimg, 4x4, alpha 1.00; estimated: 8x8 in 0 s (at 0.032 kimg), the end")


def test_a_measurement_is_abandoned(data: Path, settings: ProGANRecipe, tmp_path: Path) -> None:
    tick = {"metric_ticks": 1, "metrics": ("ms-ssim",), "metric_num": 40, "checkpoint_ticks": 100}
    training = Training(TrainingRequest(data, tmp_path), changed(settings, tick=tick), SINGLE_PROCESS)
    scores = training.output.metrics.scores

    def slowly(*asked: object) -> dict[str, float]:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.01)
        return scores(*asked)

    training.output.metrics.scores = slowly
    with pytest.raises(TrainingInterrupted):
        training.run()
    (line,) = read_lines(tmp_path / "stats.jsonl")
    assert "ms-ssim40" not in line
    assert last(tmp_path)


@pytest.mark.parametrize(
    ("tick_kimg", "layer", "value", "message"),
    [
        (0.016, "dense.weight", "nan", r"0\.032 kimg, is not finite .*the checkpoint at 0\.016 kimg is good"),
        (10.0, "dense.weight", "nan", r"0\.04 kimg, is not finite"),
        (0.016, "blocks.2.0.bias", "inf", r"0\.032 kimg, left weights that are not finite"),
    ],
    ids=["at the end of a tick", "after an interruption within a tick", "of a level that has not entered"],
)
def test_weights_that_are_not_finite_are_not_saved(
    tick_kimg: float, layer: str, value: str, message: str, data: Path, settings: ProGANRecipe, tmp_path: Path
) -> None:
    """Weights of a level that has not entered leave the losses finite."""
    trained(data, tmp_path, settings, 0.016)
    before = last(tmp_path)
    training = Training(TrainingRequest(data, tmp_path), changed(settings, tick={"kimg": tick_kimg}), SINGLE_PROCESS)
    before_steps(training, lambda number: signal.raise_signal(signal.SIGTERM) if number == 4 else None)
    with torch.no_grad():
        training.progan.generator.get_parameter(layer).fill_(float(value))
    with pytest.raises(TrainingError, match=f"tick 2, at {message}"):
        training.run()
    assert_equal(last(tmp_path), before)


def test_an_exploded_run_is_resumed_with_a_lower_learning_rate(
    data: Path, settings: ProGANRecipe, tmp_path: Path
) -> None:
    trained(data, tmp_path, settings, 0.032)
    before = last(tmp_path)
    fast = changed(settings, schedule={"learning_rate": 10.0})
    with pytest.raises(TrainingError, match=r"or resume with the new value: `changed` schedule\.learning_rate$"):
        trained(data, tmp_path, fast)
    advice = r"the checkpoint at [0-9.]+ kimg is good: lower .*, and resume with `changed` schedule\.learning_rate$"
    with pytest.raises(TrainingError, match=rf"tick \d+, at 0\.\d+ kimg, has exploded .*{advice}"):
        trained(data, tmp_path, fast, changed=("schedule.learning_rate",))
    lines = read_lines(tmp_path / "stats.jsonl")
    assert len(lines) >= 2
    assert all(abs(line["score_fake"]) < 1e6 for line in lines)
    for path in (tmp_path / "checkpoints").iterdir():  # as if it had exploded at once
        if "000000032" not in path.name:
            path.unlink()
    assert_equal(last(tmp_path), before)
    trained(data, tmp_path, changed(settings, schedule={"learning_rate": 0.0005}), changed=("schedule.learning_rate",))
    assert {line["learning_rate"] for line in read_lines(tmp_path / "stats.jsonl")[2:]} == {0.0005}


def test_an_explosion_before_the_first_checkpoint(data: Path, settings: ProGANRecipe, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"there is no checkpoint yet: lower schedule\.learning_rate and begin again$"
    ):
        trained(data, tmp_path, changed(settings, schedule={"learning_rate": 1e30}))


def test_one_training_at_a_time(data: Path, settings: ProGANRecipe, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with lock(out, "folder of a run", "out"), pytest.raises(WorkspaceLocked, match="is in use by process"):
        trained(data, out, settings)
    assert [path.name for path in out.iterdir()] == [".celebahq-lock"]
    (out / "report").mkdir()
    (out / "checkpoints").mkdir()
    with subprocess.Popen(["true"]) as killed:
        pass
    left = [out / "checkpoints" / "checkpoint-000000016-r0004.pt", out / "recipe.json"]
    for path in left:
        path.with_name(f".{path.name}.{HOST}-{killed.pid}-0123abcd.partial").write_bytes(b"half")
    (out / "movie.partial").write_bytes(b"not from a training")
    trained(data, out, settings, 0.016)
    assert [path.name for path in out.rglob("*.partial")] == ["movie.partial"]


@pytest.mark.parametrize("file", ["recipe.json", "reals.png", "checkpoints/mine", "fakes-000000.png"])
def test_files_of_other_programs(file: str, data: Path, settings: ProGANRecipe, tmp_path: Path) -> None:
    """They are neither replaced nor deleted; files with other names are no obstacle."""
    theirs = {tmp_path / "out" / name for name in (file, "movie.partial", "lock")}
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    with pytest.raises(
        WorkspaceError, match=rf"holds {file.split('/')[0]} and is not a folder of a run of this package"
    ):
        trained(data, tmp_path / "out", settings)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == theirs
    (tmp_path / "out" / file).unlink()
    shutil.rmtree(tmp_path / "out" / "checkpoints", ignore_errors=True)
    trained(data, tmp_path / "out", settings, 0.016)
    assert (tmp_path / "out" / "movie.partial").read_text() == (tmp_path / "out" / "lock").read_text() == "{}"


def test_a_run_without_a_lock_file(data: Path, settings: ProGANRecipe, tmp_path: Path) -> None:
    trained(data, tmp_path, settings, 0.016)
    (tmp_path / ".celebahq-lock").unlink()
    trained(data, tmp_path, settings, 0.032)
    assert [line["images"] for line in read_lines(tmp_path / "stats.jsonl")] == [16, 32]


def test_a_file_in_place_of_the_run(data: Path, settings: ProGANRecipe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorkspaceError, match="choose another `out`"):
        trained(data, tmp_path / "file", settings)
