"""A folder that is held is marked as ours, and what was in it before stays as it was."""

import errno
import os
import shutil
import signal
from pathlib import Path

import pytest

from celebahq_builder.errors import DiskFull, WorkspaceError, WorkspaceLocked
from celebahq_builder.storage import LOCK_NAME as NAME
from celebahq_builder.storage import lock
from tests.disk import failing


def hold(root: Path, what: str = "folder", **asked: object) -> str:
    with lock(root, what, "out", **asked):  # type: ignore[arg-type]
        return (root / NAME).read_text()


def test_the_mark_stays(tmp_path: Path) -> None:
    assert hold(tmp_path / "new").startswith(f"celebahq folder\nprocess {os.getpid()} on ")
    assert (tmp_path / "new" / NAME).read_text() == "celebahq folder\n"
    assert hold(tmp_path / "new").startswith("celebahq folder\nprocess ")
    with pytest.raises(WorkspaceError, match="new is a folder, expected a run directory; choose another `out`"):
        hold(tmp_path / "new", "run directory")


def test_the_holder_is_named(tmp_path: Path) -> None:
    with (
        lock(tmp_path, "folder", "out"),
        pytest.raises(WorkspaceLocked, match=rf"is in use by process {os.getpid()} on .*; wait for it"),
    ):
        hold(tmp_path)
    (tmp_path / NAME).write_text("celebahq folder\nprocess 7 on a machine that lost its power\n")
    assert f"process {os.getpid()}" in hold(tmp_path)


@pytest.mark.parametrize("name", ["lock", NAME])
def test_files_of_others(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    if name == NAME:
        with pytest.raises(WorkspaceError, match="was not made by this package; move it away, or choose another `out`"):
            hold(tmp_path)
    else:
        hold(tmp_path)
    assert (tmp_path / name).read_text() == "precious"


@pytest.mark.parametrize("content", ["precious", ""])
def test_links(content: str, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text(content)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / NAME).symlink_to("../theirs")
    with pytest.raises(WorkspaceError, match="was not made by this package"):
        hold(tmp_path / "out")
    assert (tmp_path / "theirs").read_text() == content


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file(make: object, tmp_path: Path) -> None:
    make(tmp_path / NAME)  # type: ignore[operator]
    with pytest.raises(WorkspaceError, match="was not made by this package"):
        hold(tmp_path)


def test_names_of_others(tmp_path: Path) -> None:
    """They are refused before the folder is marked, and no longer once it is, as then they are ours."""
    (tmp_path / "table-1.csv").write_text("theirs")
    with pytest.raises(WorkspaceError, match=r"holds table-1\.csv and is not a folder of this package: nothing there"):
        hold(tmp_path, names=("table-*.csv", "page"))
    assert [path.name for path in tmp_path.iterdir()] == ["table-1.csv"]
    hold(tmp_path, names=("table.csv",))
    hold(tmp_path, names=("table-*.csv",))
    (tmp_path / NAME).unlink()
    hold(tmp_path, names=("table-*.csv",), known=True)


def test_a_folder_that_vanishes(tmp_path: Path) -> None:
    def vanishing(back: bool, **asked: bool) -> None:
        with lock(tmp_path / "new", "folder", "out", **asked):  # type: ignore[arg-type]
            shutil.rmtree(tmp_path / "new")
            if back:
                (tmp_path / "new").mkdir()

    for back in (False, True):
        with pytest.raises(WorkspaceError, match="new was deleted or replaced while this command worked in it"):
            vanishing(back)
    vanishing(False, stays=False)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, errno.ENOSPC, lambda name: name == NAME)
    with pytest.raises(DiskFull):
        hold(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    with pytest.raises(DiskFull):
        hold(tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []
    monkeypatch.undo()
    hold(tmp_path / "there")


def test_an_interruption_while_a_folder_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays an interruption, and no claim is left."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs").touch()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            hold(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [NAME, "theirs"]
    assert hold(tmp_path / "out").startswith("celebahq folder\nprocess ")


@pytest.mark.parametrize("stays", [True, False])
def test_an_error_while_a_folder_is_locked(stays: bool, tmp_path: Path) -> None:
    """It is raised, and a new folder without files is deleted."""
    with pytest.raises(ZeroDivisionError), lock(tmp_path / "a" / "new", "folder", "out", stays=stays):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    hold(tmp_path, stays=stays)
    (tmp_path / "result").touch()
    with pytest.raises(ZeroDivisionError), lock(tmp_path, "folder", "out", stays=stays):
        raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, "result"]


def test_a_claim_is_synchronized_with_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine that reads a claim finds the process that made it."""
    sync, synchronized = os.fsync, []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synchronized.append((path.name.removeprefix(NAME)[:1], path.read_bytes().splitlines()[-1:]))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    line = hold(tmp_path).encode().splitlines()[-1]
    assert synchronized == [(".", [line]), ("", [line])]
