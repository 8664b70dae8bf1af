"""The tests of this folder on a pretend CUDA device, for machines without a GPU, in child processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.device import pretend

HERE = Path(__file__).parent
FAST = ("test_cuda_host_syncs.py", "test_cuda_progan.py")
FILES = [
    pytest.param(FAST, id="fast"),
    *(
        pytest.param((path.name,), id=path.name, marks=pytest.mark.slow)
        for path in sorted(HERE.glob("test_cuda_*.py"))
        if path.name not in FAST
    ),
]
"""Files of each child process; one process needs ten seconds to import torch and to start."""

pytestmark = [
    pytest.mark.skipif(pretend.ACTIVE, reason="this is the child process"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU; the tests run on it"),
]


@pytest.fixture(scope="session")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler (g++ or clang++) for the pretend device")
    return pretend.compile_guard(compiler, tmp_path_factory.mktemp("guard"))


@pytest.mark.parametrize("files", FILES)
def test_on_a_pretend_device(files: tuple[str, ...], guard: Path, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment[pretend.VARIABLE] = str(guard)
    options = ["-p", "tests.device.pretend", "-p", "no:xdist", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 't'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(str(HERE / name) for name in files)],
        cwd=HERE.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_ci_reports_programs_that_it_cannot_install(tmp_path: Path) -> None:
    """Here nothing but bash is there, so the checks end before they begin."""
    for name in ("bash", "dirname", "id"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    command = [tmp_path / "bash", HERE.parents[1] / ".ci" / "run"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 127, done.stderr
    assert done.stdout.splitlines() == [
        "chromium is missing and could not be installed: the tests of reports in a browser are skipped",
        "g++ is missing and could not be installed: the tests on a pretend GPU are skipped",
    ]
