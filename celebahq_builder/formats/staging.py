"""The folder ``OUT.partial``, in which a file or folder is made until it gets its name, and which a kill leaves."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celebahq_builder.errors import CelebAHQError, DiskFull, FormatError, WorkspaceError
from celebahq_builder.files import as_storage_error, read_json, write_json
from celebahq_builder.lock import lock

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Staging:
    """Where the parts of a target lie until it is whole."""

    root: Path
    """``OUT.partial``: also holds ``plan.json``, ``lock``, and notes on what is done."""

    @property
    def data(self) -> Path:
        """What becomes the target."""
        return self.root / "data"


@contextlib.contextmanager
def staging(target: Path, plan: dict[str, Any]) -> Iterator[Staging]:
    """Make `target` under another name, and give it its own at the end.

    A kill leaves ``OUT.partial``; the same command then finds there what it had done. So does Ctrl-C, and the loss of
    a worker process. After any other error nothing is left.

    Args:
        target: file or folder; must not exist.
        plan: all that decides the target's bytes.

    Raises:
        FormatError: the target exists, cannot be written, or an unfinished one of another plan is in its place.
        DiskFull: no space left.
        WorkspaceLocked: another process makes it.
    """
    check_free(target)
    made = [folder for folder in target.absolute().parents if not folder.exists()]
    root = target.with_name(target.name + ".partial")
    stage = Staging(root)
    if root.exists() and not (root / "lock").is_file():
        raise FormatError(f"{root} is in the way and was not made by this command; move it, or choose another --out")
    with lock(root, "folder", "--out"):
        _check_plan(stage, plan, target)
        try:
            write_json(root / "plan.json", plan)
            for left in root.rglob("*.partial"):
                if left.is_file():
                    left.unlink()  # half-written, by a killed run
            yield stage
            check_free(target)
            stage.data.rename(target)
        except BaseException as error:
            if _can_go_on(error):
                raise
            _discard(root, made)
            if isinstance(error, OSError):
                raise _storage_error(error, target) from None
            if isinstance(error, DiskFull):
                raise _disk_full(target) from None
            raise
        shutil.rmtree(root)


def check_free(target: Path, option: str = "--out") -> None:
    """Raise if there is something where a target shall be; the message names the option that it was given by.

    Raises:
        FormatError: what to do about it.
    """
    if os.path.lexists(target):
        raise FormatError(f"{target} exists and is not overwritten; delete it, or choose another {option}")


def check_writable(target: Path, option: str = "--out") -> None:
    """Raise if no file can be made where a target shall be: better before the work than after it.

    Raises:
        FormatError: what to do about it.
    """
    folder = next(one for one in target.absolute().parents if one.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FormatError(f"{target} cannot be written ({folder}: {error.strerror}); choose another {option}") from None


def _check_plan(stage: Staging, plan: dict[str, Any], target: Path) -> None:
    path = stage.root / "plan.json"
    if not path.exists():
        return
    old = read_json(path)
    different = next((key for key in plan if old.get(key) != plan[key]), None)
    if different is not None:
        raise FormatError(
            f"{stage.root} holds an unfinished {target.name} with {different} = {old.get(different)}, this one has "
            f"{plan[different]}; delete {stage.root}, or choose another --out"
        )
    log.info("%s: an earlier command was stopped before its end; this one goes on from there", stage.root)


def _can_go_on(error: BaseException) -> bool:
    """Whether what is done is sound and worth keeping: stopped by the user, or a worker was."""
    if isinstance(error, WorkspaceError):
        return not isinstance(error, DiskFull)
    return isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit))


def _discard(root: Path, made: list[Path]) -> None:
    shutil.rmtree(root, ignore_errors=True)
    for folder in made:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _storage_error(error: OSError, target: Path) -> CelebAHQError:
    known = as_storage_error(error, target)
    if isinstance(known, DiskFull):
        return _disk_full(target)
    if isinstance(known, CelebAHQError):
        return known
    return FormatError(f"{target} cannot be written: {error}; see to it, or choose another --out")


def _disk_full(target: Path) -> DiskFull:
    return DiskFull(f"no space left to write {target}; what there was of it is deleted, free some and run it again")
