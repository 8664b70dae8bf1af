"""Workers that outlive a killed run and still write do not change what the next run makes."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from celebahq_builder.errors import WorkspaceLocked
from celebahq_builder.pipeline import photo_stages
from celebahq_builder.pipeline.batch import run_batch
from celebahq_builder.pipeline.batch_job import BatchJob, BatchResult
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.pipeline.stages import align
from celebahq_builder.run_directory.workspace import Workspace
from tests.conftest import TINY, build_tiny
from tests.pipeline.runs import ROOT, assert_same, hdf5_bytes, processes_of, wait_for

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the state of a process from /proc")

OTHER = replace(TINY, align=align.AlignSettings(supersampling=2))


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@contextlib.contextmanager
def orphans(out: Path) -> Iterator[list[int]]:
    """Start a run with two workers, kill its main process, and yield the workers: stopped, in the middle of a batch."""
    script = f"from pathlib import Path; from tests.pipeline import orphaned_build as o; o.build(Path({str(out)!r}))"
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL
    ) as run:
        try:
            wait_for(lambda: len(list(out.parent.glob("stopped-*"))) == 2)
            workers = [int(path.name.partition("-")[2]) for path in out.parent.glob("stopped-*")]
            wait_for(lambda: all(map(is_stopped, workers)))
            with pytest.raises(WorkspaceLocked, match=f"process {run.pid} on"):
                build_tiny(out)
            run.kill()
            run.wait()
            yield workers
        finally:
            for pid in (run.pid, *processes_of(run.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not processes_of(run.pid))


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "redo"), [(TINY, None), (OTHER, "align")], ids=["same settings", "other settings"])
def test_orphans_that_write_during_the_next_run(
    recipe: BuildRecipe, redo: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The orphans continue between the first batch of the next run, which they write again, and its second."""
    out, whole = tmp_path / "killed" / "run", tmp_path / "whole"
    (tmp_path / "killed").mkdir()
    build_tiny(whole, recipe=recipe)
    with orphans(out) as workers:
        left = list(out.rglob("*.partial"))
        assert len(left) == 2
        assert not list(out.glob("stages/*/batches/*.jsonl"))

        def run_after_orphans(job: BatchJob) -> BatchResult:
            if job.number == 1:
                assert Workspace(out).stage("score").read_state().batches == {0}
                assert all(path.exists() for path in left)
                assert not list(out.parent.glob("ended-*"))
                for pid in workers:
                    os.kill(pid, signal.SIGCONT)
                wait_for(lambda: len(list(out.parent.glob("ended-*"))) == 2)
            return run_batch(job)

        monkeypatch.setattr(photo_stages, "run_batch", run_after_orphans)
        summary = build_tiny(out, recipe=recipe, redo=redo)
        monkeypatch.undo()
        assert [path.read_text() for path in out.parent.glob("ended-*")] == ["0", "0"]
    assert (summary.photos, summary.kept, summary.failed) == (5, 3, 0)
    assert hdf5_bytes(out) == hdf5_bytes(whole)
    assert build_tiny(out, recipe=recipe, redo="pack") == summary
    assert_same(out, whole)  # without partial files
