"""Ctrl-C as a terminal sends it, to all processes of a command: one line that is true, and no traceback of a worker."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from celebahq_builder.cli.main import Command, celebahq
from celebahq_builder.hdf5.create import write_images
from tests.conftest import SAMPLE
from tests.hdf5.test_create import arrays

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that takes some seconds to export."""
    path = tmp_path_factory.mktemp("h5") / "faces.h5"
    write_images(arrays(1500, 64), path, workers=2)
    return path


NOTICE = "interrupted; work in progress is being stopped; Ctrl-C again ends it at once"
"""Line of a command whose clean-up takes more than a moment."""


def interrupted(arguments: list[str | Path], when: Callable[[], bool]) -> list[str]:
    """Run a command, press Ctrl-C as soon as something is so, and return what it says on stderr, without `NOTICE`."""
    command = [sys.executable, "-m", "celebahq_builder", *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        until = time.monotonic() + 60
        while not when() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)  # ends when the last worker has let go of stderr
    assert (process.returncode, out) == (130, ""), err
    return [line for line in err.splitlines() if line != NOTICE]


@pytest.mark.parametrize("images", [0, 40])
def test_export(images: int, source: Path, tmp_path: Path) -> None:
    """While its workers start, which takes them a second, and while they work."""
    left = tmp_path / "faces.partial"

    def so_far() -> bool:
        return (left / "plan.json").exists() and len(list((left / "data").rglob("*.png"))) >= images

    said = interrupted(["export", source, "--to", "images", "--out", tmp_path / "faces", "--workers", "2"], so_far)
    assert said[-1] == "interrupted; run the same command again to resume"
    assert [line for line in said[:-1] if not line.startswith("images: ")] == []
    assert [path.name for path in tmp_path.iterdir()] == ["faces.partial"]


def test_import(source: Path, tmp_path: Path) -> None:
    arguments = ["import", source, "--out", tmp_path / "again.h5", "--workers", "2"]
    said = interrupted(arguments, lambda: any(tmp_path.iterdir()))
    assert said[-1] == "interrupted; nothing was written"
    assert [line for line in said[:-1] if not line.startswith("import: ")] == []
    assert list(tmp_path.iterdir()) == []


INTERRUPTIONS = {
    "between the call that makes the partial file and the statement that deletes it": "fcntl.flock = interrupt",
    "where Python ignores exceptions": """
class Ignored:
    __del__ = interrupt
def wait(*_):
    Ignored()
    for _ in range(3000):  # a repeated interruption takes effect between two statements
        time.sleep(0.01)
fcntl.flock = wait
""",
}


@pytest.mark.parametrize("moment", INTERRUPTIONS)
def test_moments_of_an_import(moment: str, source: Path, tmp_path: Path) -> None:
    program = f"""
import fcntl, sys, time
from celebahq_builder.__main__ import main
def interrupt(*_):
    raise KeyboardInterrupt
{INTERRUPTIONS[moment]}
sys.argv = ["celebahq", "import", {str(source)!r}, "--out", {str(tmp_path / "again.h5")!r}]
main()
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr.splitlines()[-1] == "interrupted; nothing was written"
    assert list(tmp_path.iterdir()) == []


COMMANDS = {
    "export": (["--to", "images", "--out", "out"], "run the same command again to resume"),
    "import": (["--out", "out.h5"], "nothing was written"),
    "extract": (["--out", "out"], "nothing was written"),
    "view": (["--out", "out.html"], "nothing was written"),
    "audit": (["--out", "out"], "nothing was written"),
    "filter": ([], "run the same command again to resume"),
}
"""Options of commands that read a file or a folder, and what they say when they are interrupted."""


def signalled(command: str, source: Path, tmp_path: Path, handler: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process that calls a function as soon as the command opens its source."""
    if command == "filter":
        (tmp_path / "photos").mkdir()
    program = f"""
import os, signal, sys, time
from celebahq_builder.__main__ import main
from celebahq_builder.filter import listing
from celebahq_builder.hdf5 import reader
def stop(*_, **__):
{handler}
reader.open_pyramid = listing.scan_folder = stop
sys.argv = {["celebahq", command, str(tmp_path / "photos" if command == "filter" else source), *COMMANDS[command][0]]}
main()
"""
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_sigterm(command: str, source: Path, tmp_path: Path) -> None:
    ended = signalled(command, source, tmp_path, "    os.kill(os.getpid(), signal.SIGTERM)")
    words = COMMANDS[command][1]
    assert (ended.returncode, ended.stdout) == (143, "")
    assert ended.stderr.splitlines() == [f"interrupted by SIGTERM; {words}"]


@pytest.mark.parametrize("redo", [(), ("--redo", "crop")])
def test_build_names_redo_only_if_it_was_given(redo: tuple[str, ...], tmp_path: Path) -> None:
    """The same command would delete the results again."""
    program = f"""
from celebahq_builder.__main__ import main
from celebahq_builder.sources import celeba
import sys
def interrupt(*_):
    raise KeyboardInterrupt
celeba.read_celeba = interrupt
sys.argv = {["celebahq", "build", "--celeba-root", str(SAMPLE), "--out", str(tmp_path / "run"), *redo]}
main()
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.stderr.splitlines() == ["interrupted; the same command resumes" + ", without --redo" * bool(redo)]


def test_a_second_ctrl_c_ends_a_slow_clean_up(source: Path, tmp_path: Path) -> None:
    handler = """
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        while True:  # a clean-up without end
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)  # ignored for a second: programs may forward the first one
"""
    ended = signalled("extract", source, tmp_path, handler)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr.splitlines() == [NOTICE, "interrupted; ended at once; unfinished files may be left"]


def test_extract(source: Path, tmp_path: Path) -> None:
    said = interrupted(
        ["extract", source, "--index", ":", "--out", tmp_path / "out"], lambda: any((tmp_path / "out").glob("*.png"))
    )
    assert said[-1] == "interrupted; nothing was written"
    assert list(tmp_path.iterdir()) == []


def test_every_command_that_resumes_says_so_in_its_help() -> None:
    resuming = [one for one in celebahq.commands.values() if isinstance(one, Command) and "resume" in one.interrupted]
    assert {"build", "export", "filter", "train", "train-denoiser", "train-landmarks"} <= {
        str(one.name) for one in resuming
    }
    for command in resuming:
        assert "resumes" in command.get_help(click.Context(command)), command.name
