"""Outputs of commands: free targets, groups of new files, and the staging folder ``OUT.partial``.

An output is made in its staging folder before it gets its name.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from celebahq_builder.errors import CelebAHQError, DiskFull, FormatError, WorkspaceError
from celebahq_builder.storage.files import (
    as_storage_error,
    holds,
    holds_bytes,
    publish_new,
    read_json,
    write_atomic,
    write_json,
)
from celebahq_builder.storage.folder_lock import LOCK_NAME, LockedFolder, is_lock_file, lock
from celebahq_builder.storage.partial_files import (
    delete_partial_files,
    delete_partial_of,
    is_partial_of,
    partials_of_dead,
)

log = logging.getLogger(__name__)

PLAN = "plan.json"

MADE_BY = "celebahq_builder"

OWN_NAMES = ("done", "checkpoint.json", "new", "left", "gone", "data", PLAN)
"""Names in ``OUT.partial``, besides the lock, in the order in which they are deleted. Nothing else in it is deleted.

The notes of what is done go before the data, and the plan, by which the folder is recognized, goes last.
"""


def check_free(target: Path, argument: str = "out", *, replace_empty: bool = False) -> None:
    """Check that a path is free, and delete the partial files of the target that dead processes have left.

    Args:
        target: path of the file or folder to create.
        argument: name of the argument that gave the path, for the message.
        replace_empty: an empty folder does not take the path.

    Raises:
        FormatError: the path is taken.
    """
    if replace_empty and target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
        return
    delete_partial_of(target)
    if os.path.lexists(target):
        raise FormatError(f"{target} exists and is not overwritten; delete it, or choose another `{argument}`")


def check_writable(target: Path, argument: str = "out") -> None:
    """Check, before the work begins, that a file can be created at a path.

    Args:
        argument: name of the argument that gave the path, for the message.

    Raises:
        FormatError: the folder cannot be written to.
    """
    folder = next(one for one in target.absolute().parents if one.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FormatError(
            f"{target} cannot be written ({folder}: {error.strerror}); choose another `{argument}`"
        ) from None


class NewFiles:
    """A group of new files that is written completely or not at all; a context manager.

    After an error, the files that were written here and the folders that were created for them are deleted again.
    Nothing else is ever deleted or replaced, except for partial files of these files that dead processes have left.
    """

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.folders: list[Path] = []
        """Innermost last."""
        self._left: dict[Path, list[str]] = {}

    def write(self, path: Path, data: bytes) -> None:
        """Write a file, and create the folders that it needs.

        A file that exists and holds the same bytes is left as it is, so a killed command can be repeated.

        Raises:
            FormatError: the name is taken by anything else.
            OSError: the file cannot be written.
            DiskFull: no space left.
        """
        if path.parent not in self._left:
            self._left[path.parent] = partials_of_dead(path.parent)
        delete_partial_of(path, self._left[path.parent])
        if holds_bytes(path, data):
            return
        if os.path.lexists(path):
            raise FormatError(
                f"{path} exists with other contents; nothing is overwritten: delete it, or choose another `out`"
            )
        missing = [folder for folder in path.absolute().parents if not folder.exists()]
        self.folders += reversed(missing)
        self.files.append(path)  # first, so that Ctrl-C cannot come between
        try:
            write_atomic(path, data, new=True)
        except Exception:
            self.files.pop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        missing = [path for path in self.files if not os.path.lexists(path)]
        if error is None and not missing:
            return
        for path in self.files:
            with contextlib.suppress(OSError):
                path.unlink()
        for folder in reversed(self.folders):
            with contextlib.suppress(OSError):
                folder.rmdir()
        if error is None:
            raise WorkspaceError(
                f"{missing[0]} was deleted while this command worked ({len(missing)} of {len(self.files)} files); "
                "nothing is left of the others, run the same command again"
            )


@contextlib.contextmanager
def new_files() -> Iterator[NewFiles]:
    """Open a group of new output files; see `NewFiles`.

    Raises:
        FormatError: a name is taken, or a file cannot be written.
    """
    try:
        with NewFiles() as together:
            yield together
    except OSError as error:
        if error.filename is None:
            raise
        raise FormatError(
            f"{error.filename2 or error.filename} cannot be written: {error.strerror}; choose another `out`"
        ) from None


@dataclass(frozen=True)
class Staging:
    """The folder that holds the parts of a target until it is complete."""

    root: Path
    """``OUT.partial``: also holds ``plan.json``, the lock, and records of what is done."""

    @property
    def data(self) -> Path:
        """The file or folder that becomes the target."""
        return self.root / "data"

    def check(self, paths: Iterable[Path]) -> None:
        """Check that files which were written still exist.

        Raises:
            FormatError: a file is missing; names the first one.
        """
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise FormatError(
                f"{missing[0]} was deleted while this command worked ({len(missing)} files in all); leave {self.root} "
                "alone, and run the same command again"
            )


@contextlib.contextmanager
def staging(target: Path, plan: dict[str, object], *, replace_empty: bool = False) -> Iterator[Staging]:
    """Create `target` in a staging folder, and rename it at the end.

    A kill, Ctrl-C or the loss of a worker process leaves ``OUT.partial``, from which the same command resumes. After
    any other error nothing is left.

    Args:
        target: file or folder to create; must not exist.
        plan: everything that decides the bytes of the target.
        replace_empty: the target may be an empty folder.

    Raises:
        FormatError: the target exists or cannot be written, or ``OUT.partial`` belongs to another plan or to the user.
        DiskFull: no space left.
        WorkspaceLocked: another process creates the same target.
    """
    check_staging_target(target, replace_empty=replace_empty)
    made = [folder for folder in target.absolute().parents if not folder.exists()]
    root = target.with_name(target.name + ".partial")
    stage = Staging(root)
    plan = {"made_by": MADE_BY, "target": target.name, **plan}
    _check_ours(root, target)
    with lock(root, "folder", "out", stays=False) as held:
        _check_plan(stage, plan, target)
        try:
            write_json(root / PLAN, plan, parents=False)
            delete_partial_files(root, recursive=True)
            yield stage
            check_free(target, replace_empty=replace_empty)
            if held.intact and stage.data.is_file():
                publish_new(stage.data, target)
            elif held.intact:  # a folder replaces nothing but an empty folder
                stage.data.rename(target)
        except BaseException as error:
            if not held.intact and isinstance(error, (OSError, FormatError, WorkspaceError)):
                raise _vanished(root, target) from None
            if _can_resume(error):
                raise
            _discard(root, held, made)
            known = as_storage_error(error, target) if isinstance(error, OSError) else error
            if isinstance(known, DiskFull):
                raise DiskFull(
                    f"no space left to write {target}; its parts are deleted; free some space and run the same command "
                    "again"
                ) from None
            if isinstance(known, OSError):
                raise FormatError(
                    f"{target} cannot be written: {error}; check the path, or choose another `out`"
                ) from None
            if known is error:
                raise
            raise known from None
        if not held.intact:
            raise _vanished(root, target)
        _discard(root, held, [])


def check_staging_target(target: Path, *, replace_empty: bool = False) -> None:
    """Check that a path is free for `staging`, as `check_free` does.

    The staging folder that a command has left which was killed after it gave the target its name is deleted.

    Raises:
        FormatError: the path is taken.
    """
    try:
        check_free(target, replace_empty=replace_empty)
    except FormatError:
        _discard_published(target)
        raise


def _check_ours(root: Path, target: Path) -> None:
    """Check that a staging folder, if it exists, was made by this package for this target and holds no links."""
    if not os.path.lexists(root):
        return
    ours = root.is_dir() and not root.is_symlink()
    if ours and os.path.lexists(root / PLAN):
        known = holds(root / PLAN, {"made_by", "target"}) and read_json(root / PLAN)
        ours = known and (known["made_by"], known["target"]) == (MADE_BY, target.name)
    elif ours:  # killed before there was a plan
        names = [path.name for path in root.iterdir()]
        ours = all(is_partial_of(name, PLAN) or is_lock_file(name) for name in names)
    if not ours:
        raise FormatError(f"{root} is in the way and was not made by this command; move it, or choose another `out`")
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            if (path := Path(folder, name)).is_symlink():
                raise FormatError(f"{path} is a link, and this command makes none; move it, or choose another `out`")


def _check_plan(stage: Staging, plan: dict[str, object], target: Path) -> None:
    path = stage.root / PLAN
    if not path.exists():
        return
    old = read_json(path)
    different = next((key for key in plan if old.get(key) != plan[key]), None)
    if different is not None:
        raise FormatError(
            f"{stage.root} holds an unfinished {target.name} with {different} = {old.get(different)}, this one has "
            f"{plan[different]}; delete {stage.root}, or choose another `out`"
        )
    log.info("%s: resuming an earlier command that did not finish", stage.root)


def _can_resume(error: BaseException) -> bool:
    """Return whether the parts written so far are valid: the user or a lost worker ended the command, not an error."""
    if isinstance(error, WorkspaceError):
        return not isinstance(error, DiskFull)
    return isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit))


def _discard_published(target: Path) -> None:
    """Delete what a command has left that was killed after it gave the target its name; unfinished parts stay."""
    stage = Staging(target.with_name(target.name + ".partial"))
    with contextlib.suppress(OSError, CelebAHQError):
        _check_ours(stage.root, target)
        is_begun = any((stage.root / name).is_file() for name in (PLAN, LOCK_NAME))
        if not is_begun or (os.path.lexists(stage.data) and not stage.data.samefile(target)):
            return
        with lock(stage.root, "folder", "out", stays=False) as held:
            _discard(stage.root, held, [])


def _discard(root: Path, held: LockedFolder, made: list[Path]) -> None:
    """Delete our files in a staging folder, the folder if it is empty then, and the parent folders made for it."""
    if held.intact:
        delete_partial_files(root)
        for path in (root / name for name in OWN_NAMES):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)
        others = sorted(path.name for path in root.iterdir() if not is_lock_file(path.name))
        if others:
            log.warning("warning: %s stays, as %s in it was not made by this command", root, others[0])
        held.path.unlink()
        made = [root, *made]
    for folder in made:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _vanished(root: Path, target: Path) -> FormatError:
    return FormatError(
        f"{root} was deleted or replaced while this command wrote {target} in it; leave it alone, and run the same "
        "command again"
    )
