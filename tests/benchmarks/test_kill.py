"""Kills at random moments: a command that resumes passes, one that leaves or loses files does not."""

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks.fuzz import samples
from benchmarks.kill.killer import Killer, digests
from benchmarks.kill.targets import Target
from celebahq_builder.pipeline import status
from celebahq_builder.run_directory.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12, if there are threads

IMPORT = Target("import", samples.image_folder, "import IN --workers 1 --out OUT/new.h5")
STATUS = Target("status", samples.image_folder, "status OUT")
"""A command whose behaviour each test replaces."""


def killed(target: Target, work: Path, trials: int = 6) -> Killer:
    work.mkdir()
    killer = Killer(target, work, 0, work.parent / "kept")
    for number in range(trials):
        killer.trial(number)
    return killer


def test_an_import_resumes(tmp_path: Path) -> None:
    counts = killed(IMPORT, tmp_path / "work").counts
    assert counts["kills"] > 0
    assert (counts["resumed"], counts["faults"]) == (6, 0)


def behave(monkeypatch: pytest.MonkeyPatch, *, careless: bool, result: bytes = b"result") -> None:
    """Replace `status` by a command that writes a file, under a temporary name first."""

    def write(run: Workspace) -> list[str]:
        out = run.root
        if (out / "begun").exists() and careless:
            sys.exit("error: begun exists")
        (out / "begun").write_bytes(b"")
        (out / "part").write_bytes(result)
        (out / "part").replace(out / "result")
        (out / "begun").unlink()
        return []

    monkeypatch.setattr(status, "status_lines", write)


def test_a_command_that_cannot_resume_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, careless=True)
    killer = killed(STATUS, tmp_path / "work", 12)
    assert killer.counts["faults"] > 0
    assert killer.counts["faults"] + killer.counts["resumed"] == 12
    assert len(list((tmp_path / "kept").iterdir())) == killer.counts["faults"]


def test_a_careful_command_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, careless=False)
    counts = killed(STATUS, tmp_path / "work", 12).counts
    assert counts["kills"] > 0
    assert (counts["resumed"], counts["faults"]) == (12, 0)


def test_other_bytes_are_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, careless=False)
    killer = killed(STATUS, tmp_path / "work", 1)
    behave(monkeypatch, careless=False, result=b"another")
    assert killer._compared(killer._reference(), ended=False) == "other bytes: ['out/result'] "
    (killer.case / "out" / "mine.txt").unlink()
    assert "missing: ['out/mine.txt']" in killer._compared(killer._reference(), ended=True)


def test_files_with_times_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(run: Workspace) -> list[str]:
        out = run.root
        (out / "time.json").write_text(json.dumps(os.urandom(8).hex()))
        (out / "fixed").write_text("x")
        return []

    monkeypatch.setattr(status, "status_lines", write)
    killer = killed(STATUS, tmp_path / "work", 3)
    whole = killer._reference()
    assert whole["out/time.json"] == ""
    assert whole["out/fixed"] == digests(killer.case)["out/fixed"] != ""
    assert killer.counts["faults"] == 0
