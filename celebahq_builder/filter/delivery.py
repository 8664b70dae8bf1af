"""The kept images in a folder of their own: copied, linked or moved, and nothing else touched."""

from __future__ import annotations

import contextlib
import enum
import errno
import filecmp
import json
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from celebahq_builder.errors import CelebAHQError, DeliveryError, DiskFull, WorkspaceError
from celebahq_builder.filter.record import printable
from celebahq_builder.storage import NO_HARD_LINKS, as_storage_error, publish, rename_new, write_atomic

PARTIAL = ".celebahq-partial"
"""Folder of what is being copied; on the disk that it is copied to, so that a file gets its name when it is whole."""


class Mode(enum.StrEnum):
    """What becomes of a kept image."""

    COPY = "copy"
    LINK = "link"
    MOVE = "move"

    @property
    def done(self) -> str:
        """What it is afterwards."""
        return {"copy": "copied", "link": "linked", "move": "moved"}[self.value]


@dataclass(frozen=True)
class Delivery:
    """Images on their way from a folder to another, with the same paths below it."""

    folder: Path
    out: Path
    mode: Mode
    paths: tuple[str, ...]
    """All of them."""
    left: tuple[str, ...]
    """Those that are not there yet."""
    bytes_left: int


def plan(folder: Path, out: Path, mode: Mode, paths: Sequence[str], *, began: bool = False) -> Delivery:
    """Say what is left to be delivered, and make sure that all of it can be.

    Args:
        folder: where the images are.
        out: where they are to be; need not exist.
        mode: how they get there.
        paths: relative to both.
        began: whether this delivery was agreed to before: only then may a move find images there already.

    Raises:
        DeliveryError: another file bears the name of one of them, or a file is where a folder is to be.
        DiskFull: there is not the space for copies.
    """
    left, clashes, size_bytes = [], [], 0
    folders: dict[Path, bool] = {}
    for path in paths:
        source, target = folder / path, out / path
        if not _can_hold(target.parent, folders):
            clashes.append(path)
        elif not os.path.lexists(target):
            left.append(path)
            size_bytes += _size(source)
        elif mode is Mode.MOVE and began and not os.path.lexists(source):
            pass
        elif mode is Mode.MOVE and began and _is_moved(source, target):
            left.append(path)
        elif mode is Mode.MOVE or not _is_delivered(source, target, mode):
            clashes.append(path)
    if clashes:
        raise DeliveryError(
            f"{len(clashes)} of {len(paths)} names are taken in {out}, first {printable(clashes[0])}: nothing is "
            f"overwritten, so nothing was {mode.done}; give another --out"
        )
    delivery = Delivery(folder, out, mode, tuple(paths), tuple(left), size_bytes)
    if mode is Mode.COPY or (mode is Mode.MOVE and _device(folder) != _device(out)):
        free = shutil.disk_usage(_existing(out)).free
        if size_bytes > free:
            raise DiskFull(f"{out} needs {size_bytes} bytes and its disk has {free} left; nothing was {mode.done}")
    return delivery


def write_plan(path: Path, delivery: Delivery, cut: str) -> None:
    """Write down a move before it begins, so that what a kill leaves can be done later."""
    head = {"out": os.fspath(delivery.out), "cut": cut}
    lines = [json.dumps(one) for one in (head, *delivery.paths)]
    write_atomic(path, "".join(f"{line}\n" for line in lines).encode("ascii"))


def read_plan(path: Path) -> tuple[Path, str, tuple[str, ...]] | None:
    """Return where to, by which cut and which images a move is under way; None where there is none.

    Raises:
        WorkspaceError: the file was altered.
    """
    if not path.exists():
        return None
    try:
        head, *paths = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
        return Path(head["out"]), str(head["cut"]), tuple(map(str, paths))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(
            f"{path} cannot be read: {error}; restore it, or delete it to leave the images as they are"
        ) from None


def deliver(delivery: Delivery) -> Iterator[tuple[str, str]]:
    """Deliver what is left, and yield each image's path and what went wrong with it, empty for nothing.

    A copy is whole, has its time stamps and is on the disk before it bears its name; a link is a hard link, or,
    where the file system has none of this file, a symbolic one to its absolute path; a move is a hard link and the
    old name taken away, or across disks a copy that was compared.

    Raises:
        DeliveryError: a name was taken meanwhile, or the folder cannot be written into.
        DiskFull: no space left.
        WorkspaceError: the disk failed or is gone.
    """
    staging = delivery.out / PARTIAL
    if staging.is_symlink() or (staging.exists() and not staging.is_dir()):
        raise DeliveryError(f"{staging} is no folder of this command; move it away, or give another --out")
    try:
        delivery.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeliveryError(f"{delivery.out} cannot be made: {error.strerror}; give another --out") from None
    if not os.access(delivery.out, os.W_OK | os.X_OK):
        raise DeliveryError(f"nothing can be written into {delivery.out}; give another --out")
    _remove(staging)
    try:
        for path in delivery.left:
            source, target = delivery.folder / path, delivery.out / path
            problem = ""
            try:
                source.stat()
                target.parent.mkdir(parents=True, exist_ok=True)
                _DELIVER[delivery.mode](source, target, staging)
            except FileExistsError:
                raise DeliveryError(
                    f"{target} appeared meanwhile; nothing is overwritten, so it was left as it is; the same command "
                    "tells whether it is another image"
                ) from None
            except (OSError, shutil.Error) as error:
                failure = as_storage_error(error, target) if isinstance(error, OSError) else error
                if isinstance(failure, CelebAHQError):
                    raise failure from error
                problem = (error.strerror if isinstance(error, OSError) else None) or str(error)
            yield path, problem
    finally:
        _remove(staging)


def links_are_symbolic(delivery: Delivery) -> int:
    """Return how many of the delivered images are symbolic links."""
    return sum((delivery.out / path).is_symlink() for path in delivery.paths)


def _copy(source: Path, target: Path, staging: Path) -> None:
    staging.mkdir(parents=True, exist_ok=True)
    partial = staging / "copy"
    partial.unlink(missing_ok=True)
    with source.open("rb") as read, partial.open("xb") as written:
        shutil.copyfileobj(read, written, 1 << 20)
        written.flush()
        os.fsync(written.fileno())
    shutil.copystat(source, partial)
    publish(partial, target)


def _link(source: Path, target: Path, _: Path) -> None:
    original = source.resolve(strict=True)
    try:
        os.link(original, target)
    except OSError as error:
        if error.errno not in (*NO_HARD_LINKS, errno.EXDEV):
            raise
        target.symlink_to(original)


def _move(source: Path, target: Path, staging: Path) -> None:
    if os.path.lexists(target):
        if not _is_moved(source, target):
            raise FileExistsError(errno.EEXIST, "exists", os.fspath(target))
    elif source.is_symlink():  # it may lead to anywhere, so only the link moves, and leads there from its new place
        target.symlink_to(source.resolve(strict=True))
    else:
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno in NO_HARD_LINKS:
                rename_new(source, target)
                return
            if error.errno != errno.EXDEV:
                raise
            _copy(source, target, staging)
    if not _is_moved(source, target):
        raise OSError("the copy differs from the image, which stays where it is")
    source.unlink()


_DELIVER = {Mode.COPY: _copy, Mode.LINK: _link, Mode.MOVE: _move}


def _is_moved(source: Path, target: Path) -> bool:
    """Return whether `target` is all that `source` is, so that this name is no longer needed."""
    if source.is_symlink() or target.is_symlink():
        return source.is_symlink() and target.is_symlink() and source.resolve() == target.resolve()
    return target.is_file() and (source.samefile(target) or filecmp.cmp(source, target, shallow=False))


def _is_delivered(source: Path, target: Path, mode: Mode) -> bool:
    """Return whether `target` is what a copy or link of `source` would be."""
    try:
        if mode is Mode.LINK:
            return source.samefile(target)
        if target.is_symlink() or source.samefile(target):
            return False
        one, other = source.stat(), target.stat()
        if one.st_size != other.st_size or not stat.S_ISREG(other.st_mode):
            return False
        return one.st_mtime_ns == other.st_mtime_ns or filecmp.cmp(source, target, shallow=False)
    except OSError:
        return False


def _can_hold(folder: Path, known: dict[Path, bool]) -> bool:
    """Return whether a folder is there or can be made; `known` remembers."""
    if folder not in known:
        if os.path.lexists(folder):
            known[folder] = folder.is_dir()
        else:
            known[folder] = folder == folder.parent or _can_hold(folder.parent, known)
    return known[folder]


def _existing(folder: Path) -> Path:
    """Return the innermost part of a path that is there."""
    return folder if folder.exists() else _existing(folder.parent)


def _device(folder: Path) -> int:
    return _existing(folder).stat().st_dev


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _remove(staging: Path) -> None:
    """Delete what a copy that did not come to its end left."""
    with contextlib.suppress(OSError):
        (staging / "copy").unlink()
    with contextlib.suppress(OSError):
        staging.rmdir()
