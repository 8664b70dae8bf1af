"""A build that was stopped in any way resumes, and gives the bytes of one that was not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from celebahq_builder import cli
from celebahq_builder.run_directory.workspace import Workspace
from tests.conftest import NETWORKS, PHOTO_STAGES, SMALL, TINY, build_tiny
from tests.pipeline.killed_build import POINTS
from tests.pipeline.runs import ROOT, assert_same, processes_of, tables, wait_for


def kill_at(out: Path, point: str, count: int) -> None:
    command = [sys.executable, "-m", "tests.pipeline.killed_build", str(out), point, str(count)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == -signal.SIGKILL, f"the run was not killed at {point}: {ended.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "kills",
    [[(point, 2 if point in (*PHOTO_STAGES, "image", "batch", "manifest") else 1)] for point in POINTS]
    + [[("rename", 9)], [("crop", 3), ("image", 5), ("complete", 2), ("level", 1)]],
    ids=lambda kills: "-".join(point for point, _ in kills),
)
def test_killed_anywhere(kills: list[tuple[str, int]], tmp_path: Path, tiny_run: Path) -> None:
    """A run that is killed once, or at every attempt, ends with the bytes of one that was not killed."""
    out = tmp_path / "run"
    for point, count in kills:
        kill_at(out, point, count)
    assert not Workspace(out).summary_path.exists()
    build_tiny(out)
    assert_same(out, tiny_run)
    assert not list(out.rglob("*.partial"))


@pytest.mark.parametrize("workers", [2, 3])
def test_same_bytes_and_fingerprints_for_any_number_of_workers(workers: int, tmp_path: Path, tiny_run: Path) -> None:
    build_tiny(tmp_path / "run", workers=workers)
    assert_same(tmp_path / "run", tiny_run)


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_run(tmp_path: Path, tiny_run: Path) -> None:
    out = tmp_path / "run"
    script = (
        f"from pathlib import Path; from tests.conftest import build_tiny; build_tiny(Path({str(out)!r}), workers=2)"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, start_new_session=True) as run:
        wait_for(lambda: list(out.rglob("*.png")))
        assert len(processes_of(run.pid)) >= 3
        run.kill()
    wait_for(lambda: not processes_of(run.pid), 20)
    build_tiny(out, workers=2)
    assert_same(out, tiny_run)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGINT, "interrupted; "),
        pytest.param(signal.SIGTERM, "interrupted by SIGTERM; ", marks=pytest.mark.slow),
    ],
)
def test_interrupted_by_a_signal(number: signal.Signals, words: str, tmp_path: Path, tiny_run: Path) -> None:
    out = tmp_path / "run"
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        "resolution = 64\n[crop]\ncontext_px = 16\n[select]\nkeep = 3\n"
        f'[denoise]\nweights = "{NETWORKS}/denoiser"\n[upscale]\nweights = "{NETWORKS}/upscaler"\nwhen = "always"\n'
    )
    command = [sys.executable, "build.py", "--celeba-root", str(SMALL), "--out", str(out), "--recipe", str(recipe)]
    command += ["--limit", "5", "--workers", "2", "--device", "cpu"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as run:
        wait_for(lambda: list(out.rglob("*.png")))
        os.killpg(run.pid, number)  # as a terminal or a service manager does: to every process of the run
        _, said = run.communicate(timeout=60)
    assert run.returncode == 128 + number, said
    assert said.splitlines()[-1] == f"{words}the same command resumes"
    assert "Traceback" not in said
    ended = CliRunner().invoke(cli.celebahq, ["build", *command[2:], "--workers", "1"])
    assert ended.exit_code == 0, ended.output
    assert tables(out) == tables(tiny_run)


def test_finished_run_repeated_changes_nothing(tiny_copy: Path) -> None:
    before = {
        path: path.stat().st_mtime_ns
        for path in tiny_copy.rglob("*")
        if path.is_file() and path.name != ".celebahq-lock"
    }
    summary = build_tiny(tiny_copy)
    assert {
        p: p.stat().st_mtime_ns for p in tiny_copy.rglob("*") if p.is_file() and p.name != ".celebahq-lock"
    } == before
    assert (summary.kept, summary.complete) == (TINY.select.keep, True)


def test_moved_run_resumes(tiny_run: Path, tmp_path: Path) -> None:
    first = tmp_path / "here"
    kill_at(first, "score", 5)
    there = first.rename(tmp_path / "there")
    build_tiny(there)
    assert_same(there, tiny_run)


def test_deleted_result_is_written_again(tiny_copy: Path, tiny_run: Path) -> None:
    Workspace(tiny_copy).hdf5_path(64).unlink()
    build_tiny(tiny_copy)
    assert_same(tiny_copy, tiny_run)
