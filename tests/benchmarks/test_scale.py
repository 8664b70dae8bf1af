"""Benchmark of a large build, with few photos: its commands succeed, and every photo is accounted for."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.runs import ROOT


@pytest.mark.slow
def test_few_photos(tmp_path: Path) -> None:
    """Two of the sample's 15 photos are rejected, so 5 of 40 are."""
    command = [sys.executable, ROOT / "benchmarks" / "scale.py", "--photos", 40, "--resolution", 64, "--no-cluster"]
    run = subprocess.run([*map(str, command), "--out", str(tmp_path / "scale")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    rows = {line[:60].strip(): line[60:].split() for line in run.stdout.splitlines()}
    assert rows["selected"] == ["35.000", "photos"]
    assert rows["kept + rejected + failed"][0] == "40.000"
    assert not (tmp_path / "scale").exists()


def test_folder_of_the_user(tmp_path: Path) -> None:
    """It is neither used nor deleted."""
    (tmp_path / "mine").touch()
    command = [sys.executable, ROOT / "benchmarks" / "scale.py", "--out", tmp_path]
    run = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert run.returncode == 1
    assert f"--out {tmp_path} exists; expected the name of a new folder" in run.stderr
    assert (tmp_path / "mine").exists()
