"""Readers on mutations of good files: each is read or refused, in limited memory; see `mutated_images`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("times", [100, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["images", "stylegan-zip"])
def test_mutations_are_read_or_refused(kind: str, times: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.formats.mutated_images", kind, str(times)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = re.fullmatch(r"(\d+) tried, (\d+) refused\n", ended.stdout)
    assert found
    tried, refused = map(int, found.groups())
    assert tried >= times * 0.8
    assert refused > tried / 4
    assert refused < tried
