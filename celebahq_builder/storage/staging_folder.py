"""The staging folder ``OUT.partial``, in which an output is made before it gets its name."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from celebahq_builder.errors import CelebAHQError, DiskFull, FormatError, WorkspaceError
from celebahq_builder.storage.files import as_storage_error, check_free, holds, publish_new, read_json, write_json
from celebahq_builder.storage.folder_lock import LOCK_NAME, LockedFolder, is_lock_file, lock
from celebahq_builder.storage.partial_files import delete_partial_files, is_partial_of

log = logging.getLogger(__name__)


PLAN = "plan.json"

MADE_BY = "celebahq_builder"


OWN_NAMES = ("done", "checkpoint.json", "new", "left", "gone", "data", PLAN)
"""Names in ``OUT.partial``, besides the lock, in the order in which they are deleted; nothing else in it ever is.

The notes of what is done go before the data, and the plan, by which the folder is recognized, goes last.
"""


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
            if isinstance(error, OSError):
                raise _storage_error(error, target) from None
            if isinstance(error, DiskFull):
                raise _disk_full(target) from None
            raise
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
    """Check that a staging folder, if it exists, was made by this package for this target and holds no links.

    Raises:
        FormatError: it is not ours, or holds a link.
    """
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


def _storage_error(error: OSError, target: Path) -> CelebAHQError:
    known = as_storage_error(error, target)
    if isinstance(known, DiskFull):
        return _disk_full(target)
    if isinstance(known, CelebAHQError):
        return known
    return FormatError(f"{target} cannot be written: {error}; check the path, or choose another `out`")


def _disk_full(target: Path) -> DiskFull:
    return DiskFull(
        f"no space left to write {target}; its parts are deleted; free some space and run the same command again"
    )
