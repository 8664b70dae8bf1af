"""A training that is told to end, is alone in its folder, and never saves what is lost."""

import contextlib
import dataclasses
import logging
import os
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from celebahq_builder.config import load
from celebahq_builder.errors import DiskFull, TrainingError, WorkspaceError, WorkspaceLocked
from celebahq_builder.progan.schedule import ProganRecipe
from celebahq_builder.progan.stats import Stats, read_lines
from celebahq_builder.progan.train import Training, TrainingRequest
from celebahq_builder.storage import HOST, lock
from celebahq_builder.training import interruption
from celebahq_builder.training.distributed import ALONE, _connected
from celebahq_builder.training.interruption import Stopped, StopRequest
from tests.progan.tiny import assert_equal, last, trained, without_time


def rarely(recipe: Path, ticks: int = 100) -> ProganRecipe:
    """Return the tiny recipe with a checkpoint every so many ticks."""
    settings = load(ProganRecipe, recipe)
    return dataclasses.replace(settings, tick=dataclasses.replace(settings.tick, checkpoint_ticks=ticks))


def with_rate(settings: ProganRecipe, rate: float) -> ProganRecipe:
    return dataclasses.replace(settings, schedule=dataclasses.replace(settings.schedule, learning_rate=rate))


class Signal(logging.Handler):
    """Sends this process a signal when a line begins as given."""

    def __init__(self, begins: str, number: signal.Signals) -> None:
        super().__init__()
        self.begins, self.number = begins, number

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(self.begins):
            signal.raise_signal(self.number)


@contextlib.contextmanager
def signalled(begins: str, number: signal.Signals = signal.SIGTERM):  # type: ignore[no-untyped-def]
    log, handler = logging.getLogger("celebahq_builder"), Signal(begins, number)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)


def test_told_at_the_end_of_a_tick(data: Path, recipe: Path, tmp_path: Path) -> None:
    """The tick at hand is complete then, and no checkpoint is due: it is written all the same."""
    settings = rarely(recipe)
    with signalled("tick 3"):
        trained(data, tmp_path / "cut", settings)
    names = [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()]
    assert names == ["checkpoint-000000048-r0008.safetensors"]
    trained(data, tmp_path / "cut", settings)
    trained(data, tmp_path / "whole", settings)
    assert_equal(last(tmp_path / "cut"), last(tmp_path / "whole"))
    assert without_time(tmp_path / "cut") == without_time(tmp_path / "whole")


def test_told_before_it_begins(data: Path, recipe: Path, tmp_path: Path) -> None:
    stop = StopRequest()
    stop.asked = True
    Training(TrainingRequest(data, tmp_path), load(ProganRecipe, recipe), ALONE, stop).run()
    assert not (tmp_path / "checkpoints").exists()


def test_a_measurement_is_left_off_when_told_to_end(data: Path, recipe: Path, tmp_path: Path) -> None:
    settings = rarely(recipe)
    tick = dataclasses.replace(settings.tick, metric_ticks=1, metrics=("ms-ssim",), metric_num=40)
    training = Training(TrainingRequest(data, tmp_path), dataclasses.replace(settings, tick=tick), ALONE)
    assert training.measuring is not None
    scores = training.measuring.scores

    def slowly(*asked: object) -> dict[str, float]:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.01)
        return scores(*asked)  # type: ignore[arg-type]

    training.measuring.scores = slowly  # type: ignore[method-assign]
    training.run()
    (line,) = read_lines(tmp_path / "stats.jsonl")
    assert "ms-ssim40" not in line
    assert last(tmp_path)


def test_two_signals_at_once_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchrun passes on the Ctrl-C that the terminal gave to all."""
    stop = StopRequest()
    with stop.listening():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        monkeypatch.setattr(interruption, "REPEAT_S", 0.0)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_light_work_is_interrupted() -> None:
    stop = StopRequest()
    with stop.listening():
        with pytest.raises(Stopped), stop.at_once():
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped), stop.at_once():
            raise AssertionError("begun although told to end")


def test_what_has_become_infinite_is_not_saved(data: Path, recipe: Path, tmp_path: Path) -> None:
    """Neither in the middle of a tick, when told to end, nor where only the last step spoilt the weights."""
    settings = rarely(recipe, 1)
    trained(data, tmp_path, settings, 0.016)
    before = last(tmp_path)
    tick = dataclasses.replace(settings.tick, kimg=10.0)

    class After(StopRequest):
        steps = 0

        @property
        def asked(self) -> bool:
            self.steps += 1
            return self.steps > 3

        @asked.setter
        def asked(self, value: bool) -> None:
            pass

    training = Training(TrainingRequest(data, tmp_path), dataclasses.replace(settings, tick=tick), ALONE, After())
    with torch.no_grad():
        training.players.generator.dense.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"tick 2, at 0\.04 kimg, is not finite"):
        training.run()
    assert_equal(last(tmp_path), before)

    training = Training(TrainingRequest(data, tmp_path), settings, ALONE)
    with torch.no_grad():  # of a level that is not in yet: no loss tells of it
        training.players.generator.blocks[2][0].bias.fill_(float("inf"))  # type: ignore[index]
    with pytest.raises(TrainingError, match=r"tick 2, at 0\.032 kimg, left weights that are not finite"):
        training.run()
    assert_equal(last(tmp_path), before)


def test_an_explosion_ends_the_run_which_goes_on_with_a_lower_rate(data: Path, recipe: Path, tmp_path: Path) -> None:
    settings = rarely(recipe, 1)
    trained(data, tmp_path, settings, 0.032)
    before = last(tmp_path)
    fast = with_rate(settings, 10.0)
    with pytest.raises(TrainingError, match=r"or go on with the new value by --changed schedule\.learning_rate$"):
        trained(data, tmp_path, fast)
    sound = r"the checkpoint at [0-9.]+ kimg is sound: lower .*, and go on with --changed schedule\.learning_rate$"
    with pytest.raises(TrainingError, match=rf"tick \d+, at 0\.\d+ kimg, has exploded .*{sound}"):
        trained(data, tmp_path, fast, changed=("schedule.learning_rate",))
    lines = read_lines(tmp_path / "stats.jsonl")
    assert all(abs(line["score_fake"]) < 1e6 for line in lines)
    for path in (tmp_path / "checkpoints").iterdir():  # as if it had exploded at once
        if "000000032" not in path.name:
            path.unlink()
    assert_equal(last(tmp_path), before)
    trained(data, tmp_path, with_rate(settings, 0.0005), changed=("schedule.learning_rate",))
    assert {line["learning_rate"] for line in read_lines(tmp_path / "stats.jsonl")[2:]} == {0.0005}


def test_an_explosion_before_the_first_checkpoint(data: Path, recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"there is no checkpoint yet: lower schedule\.learning_rate and begin again$"
    ):
        trained(data, tmp_path, with_rate(load(ProganRecipe, recipe), 1e30))


def test_one_training_at_a_time(data: Path, recipe: Path, tmp_path: Path) -> None:
    settings = load(ProganRecipe, recipe)
    out = tmp_path / "run"
    with lock(out, "folder of a run", "--out"), pytest.raises(WorkspaceLocked, match="is in use by process"):
        trained(data, out, settings)
    assert [path.name for path in out.iterdir()] == [".celebahq-lock"]
    (out / "report").mkdir()
    (out / "checkpoints").mkdir()
    with subprocess.Popen(["true"]) as killed:
        pass
    left = [out / "checkpoints" / "checkpoint-000000016-r0004.safetensors", out / "recipe.json"]
    for path in left:
        path.with_name(f".{path.name}.{HOST}-{killed.pid}-0123abcd.partial").write_bytes(b"half")
    (out / "movie.partial").write_bytes(b"not from a training")
    trained(data, out, settings, 0.016)
    assert [path.name for path in out.rglob("*.partial")] == ["movie.partial"]


@pytest.mark.parametrize("file", ["recipe.json", "reals.png", "checkpoints/mine", "fakes-000000.png"])
def test_files_of_others(file: str, data: Path, recipe: Path, tmp_path: Path) -> None:
    """They are neither replaced nor deleted; files with other names are no obstacle."""
    theirs = {tmp_path / "out" / name for name in (file, "movie.partial", "lock")}
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    with pytest.raises(
        WorkspaceError, match=rf"holds {file.split('/')[0]} and is not a folder of a run of this package"
    ):
        trained(data, tmp_path / "out", load(ProganRecipe, recipe))
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == theirs
    (tmp_path / "out" / file).unlink()
    shutil.rmtree(tmp_path / "out" / "checkpoints", ignore_errors=True)
    trained(data, tmp_path / "out", load(ProganRecipe, recipe), 0.016)
    assert (tmp_path / "out" / "movie.partial").read_text() == (tmp_path / "out" / "lock").read_text() == "{}"


def test_a_run_of_an_earlier_version(data: Path, recipe: Path, tmp_path: Path) -> None:
    trained(data, tmp_path, load(ProganRecipe, recipe), 0.016)
    (tmp_path / ".celebahq-lock").unlink()
    trained(data, tmp_path, load(ProganRecipe, recipe), 0.032)
    assert [line["images"] for line in read_lines(tmp_path / "stats.jsonl")] == [16, 32]


def test_a_file_where_the_run_should_be(data: Path, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorkspaceError, match="choose another --out"):
        trained(data, tmp_path / "file", load(ProganRecipe, recipe))


def events(folder: Path) -> list[list[tuple[int, str]]]:
    """Read TensorBoard's files: step and tag of each event, records of length, checksum, bytes, checksum."""
    files = []
    for path in sorted((folder / "tensorboard").iterdir()):
        raw, at, found = path.read_bytes(), 0, []
        while at < len(raw):
            (length,) = struct.unpack_from("<Q", raw, at)
            event = Event.FromString(raw[at + 12 : at + 12 + length])
            found += [(event.step, "purge")] if event.HasField("session_log") else []
            found += [(event.step, value.tag) for value in event.summary.value if value.tag == "score_real"]
            at += length + 16
        files.append(found)
    return files


@pytest.mark.parametrize("saved", [False, True])
def test_tensorboard_has_every_tick_once(saved: bool, data: Path, recipe: Path, tmp_path: Path) -> None:
    """One that was killed before its first checkpoint begins anew; the last tick may not have been written yet."""
    settings = rarely(recipe)
    for session in range(2):
        time.sleep(1.1 * session)  # TensorBoard's files are told apart by seconds
        trained(data, tmp_path, settings, 0.032 + 0.016 * session)
        for path in () if saved else (tmp_path / "checkpoints").iterdir():
            path.unlink()
    first, second = events(tmp_path)
    assert first == [(16, "score_real"), (32, "score_real")]
    purge = 32 if saved else 1
    steps = [32, 48] if saved else [16, 32, 48]
    assert second == [(purge, "purge"), *((step, "score_real") for step in steps)]


def test_a_process_that_ended_is_told_in_a_line() -> None:
    with (
        pytest.raises(TrainingError, match=r"another process of this training ended \(Connection closed\)"),
        _connected(),
    ):
        raise RuntimeError("Connection closed\nand more")


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="the system has no /dev/full")
def test_a_full_disk_under_the_statistics(tmp_path: Path) -> None:
    (tmp_path / "stats.jsonl").symlink_to("/dev/full")
    full = r"no space left to write .*stats\.jsonl; free some"
    stats = Stats(tmp_path / "run", 0)
    stats.path = tmp_path / "stats.jsonl"
    with pytest.raises(DiskFull, match=full), stats:
        stats.write({"images": 8, "resolution": 4}, 1.0)
