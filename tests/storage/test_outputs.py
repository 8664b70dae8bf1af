"""Remains of a command that was killed after it had renamed its target."""

from pathlib import Path

import pytest

from celebahq_builder.errors import FormatError
from celebahq_builder.storage import LOCK_NAME, partial_path, staging, write_json


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A finished target; ``OUT.partial`` beside it has the plan and the lock of the command that made it."""
    path = tmp_path / "out"
    path.write_bytes(b"finished")
    root = tmp_path / "out.partial"
    root.mkdir()
    (root / LOCK_NAME).write_text("celebahq folder\n")
    write_json(root / "plan.json", {"made_by": "celebahq_builder", "target": "out", "n": 1})
    return path


def refused(target: Path) -> list[str]:
    with pytest.raises(FormatError, match="exists and is not overwritten"), staging(target, {"n": 1}):
        pass
    assert target.read_bytes() == b"finished"
    return sorted(path.name for path in target.parent.iterdir())


@pytest.mark.parametrize("left", [(), ("plan.json",), ("done",)])
def test_without_data(left: tuple[str, ...], target: Path) -> None:
    root = target.with_name("out.partial")
    for name in left:
        (root / name).unlink(missing_ok=True) if name == "plan.json" else (root / name).write_text("1")
    assert refused(target) == ["out"]


def test_data_that_is_the_target(target: Path) -> None:
    (target.with_name("out.partial") / "data").hardlink_to(target)
    assert refused(target) == ["out"]


def test_unfinished_data_stay(target: Path) -> None:
    data = target.with_name("out.partial") / "data"
    data.write_bytes(b"unfinished")
    assert refused(target) == ["out", "out.partial"]
    assert data.read_bytes() == b"unfinished"


def test_folders_of_the_user_stay(target: Path) -> None:
    root = target.with_name("out.partial")
    for path in root.iterdir():
        path.unlink()
    assert refused(target) == ["out", "out.partial"]
    for name in ("notes.txt", "new"):  # one has a name that this package writes, too
        (root / name).write_text("mine")
    (root / LOCK_NAME).write_text("celebahq folder\n")
    assert refused(target) == ["out", "out.partial"]
    assert {(root / name).read_text() for name in ("notes.txt", "new")} == {"mine"}


def test_partial_files_of_dead_processes_go(target: Path) -> None:
    for path in target.with_name("out.partial").iterdir():
        path.unlink()
    target.with_name("out.partial").rmdir()
    partial_path(target).write_bytes(b"finished")
    assert refused(target) == ["out"]
