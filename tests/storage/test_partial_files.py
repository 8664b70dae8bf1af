"""Partial files have names that tell whose they are, and only those of dead processes are deleted."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celebahq_builder.errors import WorkspaceError
from celebahq_builder.storage import (
    HOST,
    RUN_TOKEN,
    delete_folder,
    delete_interrupted_files,
    delete_partial_files,
    delete_partial_of,
    may_delete_partial,
    partial_path,
    publish,
    sync_folder,
    write_atomic,
    write_partial,
)

DEAD = "0123abcd"
"""Token of a run that was killed."""


def ended_process() -> int:
    """Return the id of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


def test_a_partial_name_has_host_process_and_run() -> None:
    assert partial_path(Path("a/b.png")) == Path(f"a/.b.png.{HOST}-{os.getpid()}-{RUN_TOKEN}.partial")
    assert partial_path(Path("a/b.png"), DEAD).name.endswith(f"-{os.getpid()}-{DEAD}.partial")
    assert re.fullmatch(r"\w{1,33}", HOST)


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127 + "x", "x" + "é" * 127])
def test_the_longest_names_can_be_written(name: str, tmp_path: Path) -> None:
    other = tmp_path / f"{name[:-1]}y"
    assert len(partial_path(tmp_path / name).name.encode()) <= 143  # as on encrypted home directories
    assert partial_path(tmp_path / name) != partial_path(other)
    write_atomic(tmp_path / name, b"data")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"data")]
    publish(write_partial(other, b"other"), other)
    assert {path.name for path in tmp_path.iterdir()} == {name, other.name}


def test_a_name_that_is_too_long_is_found_before_the_rename(tmp_path: Path) -> None:
    for write in (write_partial, write_atomic):
        with pytest.raises(OSError, match="File name too long"):
            write(tmp_path / ("x" * 256), b"data")
    assert list(tmp_path.iterdir()) == []


def test_whose_partial_files_may_be_deleted() -> None:
    dead, live = ended_process(), os.getppid()
    assert may_delete_partial(partial_path(Path("a.png")).name)
    assert may_delete_partial(f".a.png.{HOST}-{live}-{RUN_TOKEN}.partial")
    assert may_delete_partial(f".a.png.{HOST}-{dead}-{DEAD}.partial")
    assert may_delete_partial(f".a.png.{HOST}-{os.getpid()}-{DEAD}.partial")  # the id is in use again
    assert may_delete_partial(f".two\nlines.{HOST}-{dead}-{DEAD}.partial")
    assert not may_delete_partial(f".a.png.{HOST}-{live}-{DEAD}.partial")
    assert not may_delete_partial(f".a.png.{HOST}-1-{DEAD}.partial")
    assert not may_delete_partial(f".a.png.other_0123abcd-{dead}-{DEAD}.partial")
    assert not may_delete_partial(f".a.png.{HOST}-{dead}-{DEAD}.png")
    for name in ("movie.partial", "a.png.7.partial", f"a.png.{HOST}-{dead}-{DEAD}.partial", ".partial"):
        assert not may_delete_partial(name)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the state of a process from /proc")
def test_a_zombie_is_dead() -> None:
    zombie = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {})
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    try:
        assert may_delete_partial(f".a.png.{HOST}-{zombie}-{DEAD}.partial")
    finally:
        os.waitpid(zombie, 0)


def test_folders_below_are_swept_on_request(tmp_path: Path) -> None:
    name = f".a.png.{HOST}-{ended_process()}-{DEAD}.partial"
    (tmp_path / "below").mkdir()
    for path in (tmp_path / name, tmp_path / "below" / name):
        path.touch()
    delete_partial_files(tmp_path)
    assert list(tmp_path.rglob("*.partial")) == [tmp_path / "below" / name]
    delete_partial_files(tmp_path, recursive=True)
    assert not list(tmp_path.rglob("*.partial"))
    delete_partial_files(tmp_path / "missing")


def test_a_partial_file_that_vanishes_is_an_error_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def deleted(descriptor: int) -> None:
        sync(descriptor)
        partial_path(tmp_path / "a.json").unlink()

    monkeypatch.setattr(os, "fsync", deleted)
    with pytest.raises(WorkspaceError, match=r"a\.json cannot be written: its folder or its partial file was deleted"):
        write_atomic(tmp_path / "a.json", b"{}")


@pytest.mark.parametrize("call", [lambda folder: sync_folder(folder), lambda folder: publish(folder / "a", folder)])
def test_what_is_missing_is_named(call: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="missing cannot be written: its folder or its partial file was deleted"):
        call(tmp_path / "missing")


def test_a_process_whose_files_are_examined_is_not_disturbed() -> None:
    script = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); print(flush=True); input()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not may_delete_partial(f".a.png.{HOST}-{process.pid}-{DEAD}.partial")
        process.communicate(b"\n")
    assert process.returncode == 0


def test_an_interrupted_process_deletes_its_own_partial_files(tmp_path: Path) -> None:
    ended = f".a.png.{HOST}-{ended_process()}-{DEAD}.partial"
    for path in (partial_path(tmp_path / "a.png"), partial_path(tmp_path / "a.mp4", ending=".mp4")):
        path.touch()
    for name in (ended, "a.png"):
        (tmp_path / name).touch()
    delete_interrupted_files()
    assert {path.name for path in tmp_path.iterdir()} == {ended, "a.png"}


def test_partial_files_of_one_file(tmp_path: Path) -> None:
    """The partial files of another file, and those of a process that is alive, stay."""
    dead, live = ended_process(), os.getppid()
    stay = [f".b.png.{HOST}-{dead}-{DEAD}.partial", f".a.png.{HOST}-{live}-{DEAD}.partial", "a.png"]
    gone = [f".a.png.{HOST}-{dead}-{DEAD}.partial", f".a.png.{HOST}-{dead}-{DEAD}.partial.mp4"]
    for name in (*stay, *gone, partial_path(tmp_path / "a.png").name):
        (tmp_path / name).touch()
    delete_partial_of(tmp_path / "a.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stay)
    delete_partial_of(tmp_path / "missing" / "a.png")


def test_partial_file_of_a_long_name(tmp_path: Path) -> None:
    """A folder with the name of a partial file is none, and stays."""
    long, other = tmp_path / ("a" * 240), tmp_path / ("a" * 239 + "b")
    partial_path(long).touch()
    partial_path(other).mkdir()
    delete_partial_of(long)
    delete_partial_of(other)
    assert list(tmp_path.iterdir()) == [partial_path(other)]


def test_a_deleted_folder_keeps_what_may_be_in_use(tmp_path: Path) -> None:
    """Files of others and all behind a link stay, too."""
    live = tmp_path / "out" / "live" / f".a.png.{HOST}-{os.getppid()}-{DEAD}.partial"
    elsewhere = tmp_path / "elsewhere"
    for path in (live, tmp_path / "out" / "images" / "a.png", elsewhere / "b.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (live.parent / f".a.png.{HOST}-{ended_process()}-{DEAD}.partial").touch()
    link, note = tmp_path / "out" / "link", tmp_path / "out" / "images" / "note.txt"
    link.symlink_to(elsewhere)
    note.touch()
    delete_folder(tmp_path / "out", r"images/\w\.png")
    assert sorted((tmp_path / "out").rglob("*")) == [note.parent, note, link, live.parent, live]
    delete_folder(link, ".*")
    for path in (live, link, note):
        path.unlink()
    delete_folder(tmp_path / "out", "")
    assert not (tmp_path / "out").exists()
    assert (elsewhere / "b.png").exists()
