"""Shards that are built at once, killed or missing: the files are those of one local run."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celebahq_builder.errors import FingerprintMismatch, RecipeError, WorkspaceLocked
from celebahq_builder.pipeline.build import BuildResult, build
from celebahq_builder.pipeline.dry_run import dry_run
from celebahq_builder.pipeline.status import status_lines
from celebahq_builder.run_directory.shard import Shard, shard_folders
from celebahq_builder.run_directory.timings import read_timings
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.folder import read_folder
from celebahq_builder.sources.photo import PhotoSource
from tests.conftest import FAST, NETWORKS, SAMPLE, SMALL, TINY, build_tiny
from tests.pipeline.runs import PHOTOS, ROOT, assert_same, files, wait_for, write_landmarks
from tests.storage.locking_process import no_flock

COPIES = 3
"""Photos of each photo of the sample: 45 photos are 12 batches."""

SETTINGS = f"""resolution = 64
[crop]
context_px = 16
[denoise]
weights = "{NETWORKS}/denoiser"
[upscale]
weights = "{NETWORKS}/upscaler"
when = "needed"
[align]
supersampling = 1
[select]
keep = 30
"""


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos, beside their table and a recipe."""
    folder = tmp_path_factory.mktemp("shards") / "photos"
    folder.mkdir()
    landmarks = {}
    for copy in range(COPIES):
        for photo in read_celeba(SMALL).photos:
            name = f"{copy}-{photo.file}"
            shutil.copy(SMALL / "img_celeba" / photo.file, folder / name)
            landmarks[name] = photo.landmarks
    write_landmarks(folder.parent / "table.csv", landmarks)
    (folder.parent / "tiny.toml").write_text(SETTINGS)
    return folder


def source_of(photos: Path) -> PhotoSource:
    return read_folder(photos, photos.parent / "table.csv")


def build_photos(photos: Path, out: Path, **options: Any) -> BuildResult:
    """Build the photos in this process."""
    recipe = photos.parent / "tiny.toml"
    return build(source_of(photos), out, **{"recipe": recipe, "workers": 1, "device": "cpu", **options})


@pytest.fixture(scope="session")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of all photos; not to be changed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    build_photos(photos, out)
    return out


def start(photos: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """Start a build as a command."""
    folder = photos.parent
    command = [sys.executable, "build.py", "--photos", str(photos), "--landmarks", str(folder / "table.csv")]
    command += ["--no-check-landmarks", "--recipe", str(folder / "tiny.toml"), "--out", str(out)]
    command += ["--workers", "1", "--device", "cpu", *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=os.environ | {"COLUMNS": "80"})


def ended(run: subprocess.Popen[str]) -> list[str]:
    """Return the lines that a successful command printed."""
    printed, said = run.communicate(timeout=900)
    assert run.returncode == 0, said
    return printed.splitlines()


# --- Results ----------------------------------------------------------------------------------------------------


def test_parts_make_the_whole(photos: Path, whole: Path, tmp_path: Path) -> None:
    """One shard is missing, and one comes from another division; the build without `shard` finishes."""
    out = tmp_path / "run"
    assert build_photos(photos, out, shard="1/3").batches_left == 8
    result = build_photos(photos, out, shard=(3, 3))
    assert (result.photos, result.kept + result.rejected + result.failed) == (16 - 3, 16 - 3)
    assert (result.batches_left, result.complete, result.hdf5) == (4, False, None)
    assert build_photos(photos, out, shard="4/6") == build_photos(photos, out, shard="4/6")
    assert not any((out / name).exists() for name in ("summary.json", "selection.csv", "rejected.csv"))
    assert not list(out.glob("stages/*/stage.json"))
    assert not (out / "report" / "index.html").exists()
    build_photos(photos, out)
    assert_same(out, whole)
    times = read_timings(*Workspace(out).timing_logs())
    assert sum(count for _, count in times.batches) == COPIES * PHOTOS
    assert times.batches == sorted(times.batches, key=lambda one: one[0])
    assert len(shard_folders(out)) == 3
    assert build_photos(photos, out, shard="2/3").batches_left == 0
    assert_same(out, whole)


def test_more_shards_than_batches(photos: Path, tmp_path: Path) -> None:
    result = build_photos(photos, tmp_path / "run", shard="13/16")
    assert (result.photos, result.batches_left) == (0, 12)


def test_a_shard_with_more_photos(tmp_path: Path) -> None:
    """The first shard prepares the run directory, and all use the results that are there."""
    out = tmp_path / "run"
    build_tiny(out, limit=5, recipe=FAST)
    for number in (2, 1):
        build_tiny(out, limit=None, recipe=FAST, shard=(number, 2))
    build_tiny(out, limit=None, recipe=FAST)
    build_tiny(tmp_path / "once", limit=None, recipe=FAST)
    assert_same(out, tmp_path / "once")


def test_from_a_stage(tmp_path: Path) -> None:
    out = tmp_path / "run"
    build_tiny(out, until="align")
    for number in (1, 2):
        build_tiny(out, start="score", shard=(number, 2))
    build_tiny(out)
    build_tiny(tmp_path / "once")
    assert_same(out, tmp_path / "once")


def test_a_file_system_without_flock(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", no_flock)
    out = tmp_path / "run"
    build_tiny(out, shard="2/2")
    with held("1/2")(out), pytest.raises(WorkspaceLocked, match=r"shards/1-of-2 is in use by process"):
        build_tiny(out)
    build_tiny(out)
    assert_same(out, tiny_run)


@pytest.mark.slow
def test_three_at_once_of_which_one_is_killed(photos: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    runs = [start(photos, out, "--shard", f"{number}/3") for number in (1, 2, 3)]
    wait_for(lambda: list(out.glob("stages/score/batches/00001.jsonl")), 600)  # of the second shard
    runs[1].kill()
    runs[1].communicate()
    for number in (1, 3):
        lines = ended(runs[number - 1])
        assert lines[0].startswith(f"shard {number}/3: ")
        assert lines[-2].endswith("the same command without --shard selects and packs")
        assert lines[-1] == f"images: {out / 'stages' / 'align' / 'images'}"
    assert f"shards that ended before their last batch: {Shard(3, 2)}" in list(status_lines(Workspace(out)))
    again = ended(start(photos, out, "--shard", "2/3"))
    assert again[-2].startswith("next, the same command without --shard ")
    last = ended(start(photos, out))
    assert last[-1].startswith("report: ")
    assert_same(out, whole)
    assert not list(out.rglob("*.partial"))


@pytest.mark.slow
def test_sixteen_at_once(photos: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    runs = [start(photos, out, "--shard", f"{number}/16") for number in range(1, 17)]
    for run in runs:
        ended(run)
    ended(start(photos, out))
    assert_same(out, whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_by_the_end_of_its_time(number: signal.Signals, photos: Path, whole: Path, tmp_path: Path) -> None:
    """A scheduler sends SIGTERM before it kills; the same command resumes."""
    out = tmp_path / "run"
    run = start(photos, out, "--shard", "1/2")
    wait_for(lambda: list(out.glob("stages/score/batches/*.jsonl")), 600)
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert said.splitlines()[-1].endswith("the same command resumes")
    ended(start(photos, out, "--shard", "1/2"))
    ended(start(photos, out))
    assert_same(out, whole)


@pytest.mark.slow
def test_photos_without_landmarks(yunet: Path, tmp_path: Path) -> None:
    """One shard searches the photos for faces, and the others wait for it."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(1, 9):
        shutil.copy(SAMPLE / "img_celeba" / f"{number:06d}.jpg", folder)

    def begin(out: Path, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "build.py", "--photos", str(folder), "--out", str(out), "--resolution", "64"]
        command += ["--landmark-model", str(yunet), "--workers", "1", "--device", "cpu", *options]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    runs = [begin(tmp_path / "run", "--shard", f"{number}/3") for number in (1, 2, 3)]
    for run in runs:
        ended(run)
    searched = (tmp_path / "run/landmarks/landmarks.jsonl").read_text().splitlines()
    assert len([line for line in searched if line.startswith('{"file"')]) == len(list(folder.iterdir()))
    ended(begin(tmp_path / "run"))
    ended(begin(tmp_path / "once"))
    assert_same(tmp_path / "run", tmp_path / "once")


@pytest.mark.slow
def test_the_script_of_the_docs(tmp_path: Path) -> None:
    """It runs as SLURM runs it: as tasks of an array, of which one is killed, the array again, and without an array."""
    page = (ROOT / "docs" / "cluster.md").read_text()
    block = page[page.index("    #!/bin/bash") : page.index("\nSubmit ")]
    text = "".join(line.removeprefix("    ") for line in block.splitlines(keepends=True))
    out, python = tmp_path / "run", Path(sys.executable)
    small = f"{python} build.py --recipe {tmp_path / 'tiny.toml'} --limit 8 --workers 1 --device cpu"
    for before, after in (
        (". /data/celebahq_builder/.venv/bin/activate", "true"),
        ("celebahq build", small),
        ("/data/celebahq)", f"{out})"),
        ("/data/celeba ", f"{SAMPLE} "),
    ):
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    (tmp_path / "tiny.toml").write_text(SETTINGS)
    (tmp_path / "build.sh").write_text(text)

    def submit(task: str) -> subprocess.Popen[bytes]:
        environment = os.environ | ({"SLURM_ARRAY_TASK_ID": task} if task else {})
        return subprocess.Popen(["bash", tmp_path / "build.sh"], cwd=ROOT, env=environment, start_new_session=True)

    first = [submit(task) for task in ("1", "2")]
    wait_for(lambda: list(out.glob("shards/*/")), 600)
    os.killpg(first[0].pid, signal.SIGKILL)
    for job in first:
        job.wait(300)
    for task in ("1", "2", "3", ""):
        assert submit(task).wait(300) == 0
    build(read_celeba(SAMPLE), tmp_path / "once", recipe=tmp_path / "tiny.toml", limit=8, workers=1, device="cpu")
    assert_same(out, tmp_path / "once")


# --- Refusals ---------------------------------------------------------------------------------------------------


def held(shard: str) -> Callable[[Path], Any]:
    return lambda out: Shard.parse(shard).lock(out)


@pytest.mark.parametrize(
    ("holding", "shard", "says"),
    [
        (held("3/16"), None, r"shards/3-of-16 is in use by process \d+ on .* \(shard 3/16\); wait for it, .*`out`$"),
        (held("3/16"), "1/8", r"shards/3-of-16 is in use by process \d+ on .* \(shard 3/16\); wait for it, .*`out`$"),
        (held("1/8"), "1/8", r"shards/1-of-8 is in use by process \d+ on .* \(shard 1/8\); wait for it, .*`shard`$"),
        (lambda out: Workspace(out).lock(), "1/8", r"run is in use by process \d+ on [^()]*; wait for it, .*`out`$"),
    ],
)
def test_what_is_in_work(holding: Callable[[Path], Any], shard: str | None, says: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    build_tiny(out, limit=5, until="align", shard="2/2")
    before = files(out)
    with holding(out), pytest.raises(WorkspaceLocked, match=says):
        build_tiny(out, shard=shard)
    assert files(out) == before


def test_shards_of_one_division_work_at_once(tmp_path: Path) -> None:
    out = tmp_path / "run"
    build_tiny(out, until="crop", shard="16/16")
    with held("3/16")(out):
        assert build_tiny(out, shard="1/16").batches_left == 1


def test_growth_while_a_shard_is_in_work(tmp_path: Path) -> None:
    """It moves manifests and images of all batches."""
    out = tmp_path / "run"
    build_tiny(out, limit=5, shard="1/2")
    before = files(out)
    with held("2/2")(out), pytest.raises(WorkspaceLocked, match=r"shards/2-of-2 is in use by .*\(shard 2/2\)"):
        build_tiny(out, limit=8, shard="1/2")
    assert files(out) == before
    assert build_tiny(out, limit=8, shard="1/2").batches_left == 1


def test_other_settings_are_refused(tmp_path: Path) -> None:
    build_tiny(tmp_path / "run", shard="1/2")
    with pytest.raises(FingerprintMismatch, match=r"\[upscale\] when = always, this run asks needed"):
        build_tiny(tmp_path / "run", recipe=FAST, shard="2/2")


@pytest.mark.parametrize("shard", ["", "3", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "a/b", "1 / 4", (0, 2), (3, 2)])
def test_no_shard(shard: Any, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"^`shard` .* is not a shard; expected K/N with K from 1 to N, such as 3/16$"
    ):
        build_tiny(tmp_path / "run", shard=shard)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"redo": "align"}, "`redo` align concerns the whole run: give it without `shard` 1/2 first"),
        ({"cluster": "localhost:8786"}, "`cluster` and `shard` both divide the work over machines; give one of them"),
        ({"start": "select"}, "`start` select works on all photos; give it without `shard` 1/2"),
    ],
)
def test_options_of_the_whole_run(options: dict[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"^{says}$"):
        build_tiny(tmp_path / "run", shard="1/2", **options)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is published by a process that has lost its lock."""
    out = tmp_path / "run"
    monkeypatch.setattr(
        "celebahq_builder.pipeline.photo_stages.EarlierResults.complete",
        lambda _, result: (Shard(2, 1).folder(out) / ".celebahq-lock").unlink() or result,
    )
    with pytest.raises(Exception, match=r"1-of-2 was deleted or replaced while this command worked in it"):
        build_tiny(out, shard="1/2")
    assert not list(out.glob("stages/*/batches/*"))
    assert not list(out.rglob("*.partial"))


# --- Status and plan --------------------------------------------------------------------------------------------


def test_status_and_plan(tmp_path: Path) -> None:
    out = tmp_path / "run"
    build_tiny(out, limit=8, shard="1/2")
    with held("2/2")(out):
        lines = list(status_lines(Workspace(out)))
        assert f"shard 2/2: 0 of 1 batches done by process {os.getpid()} on" in "\n".join(lines)
    assert "shards that ended before their last batch: 2/2" in list(status_lines(Workspace(out)))
    before = files(out)
    source = read_celeba(SMALL)
    for shard, left in (("1/2", 0), ("2/2", 1)):
        lines = list(dry_run(source, out, recipe=TINY, limit=8, shard=shard))
        assert f"shard {shard}: {left} of its 1 batches are left; another command selects and packs" in lines
    assert files(out) == before
    build_tiny(out, limit=8)
    assert not [line for line in status_lines(Workspace(out)) if "shard" in line]
