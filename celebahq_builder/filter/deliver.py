"""Delivery of images into a folder of their own as copies or links, and the record of what was delivered there.

DESTINATION/
  sub/a.jpg                             an image, under the path that it has in the folder of images
  .celebahq-filter.jsonl                the record: the files that this command put there, a JSON line each
  .celebahq-0123456789abcdef.partial    the copy in progress; removed at the end, or by the next command

The command removes only files of the record.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import filecmp
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, cast

from celebahq_builder.errors import DeliveryError, DiskFull, WorkspaceError, printable
from celebahq_builder.limits import MAX_LOG_BYTES
from celebahq_builder.outcome import counted
from celebahq_builder.progress import Progress
from celebahq_builder.storage import (
    NO_HARD_LINKS,
    as_storage_error,
    open_file,
    parse_json,
    publish_new,
    read_file,
    sync_file,
)


class DeliveryMode(enum.StrEnum):
    """The way in which a kept image gets into the destination."""

    COPY = "copy"
    LINK = "link"

    @property
    def done(self) -> str:
        """The word for messages: ``copied`` or ``linked``."""
        return {"copy": "copied", "link": "linked"}[self.value]


# --- The record ---------------------------------------------------------------------------------------------------

RECORD_NAME = ".celebahq-filter.jsonl"
RECORD_HEAD = b'{"celebahq filter": "files that it put into this folder", "version": 1}\n'
PARTIAL_NAME = re.compile(r"\.celebahq-[0-9a-f]{16}\.partial")


@dataclass(frozen=True, slots=True)
class DeliveredFile:
    """A file that this command put into a destination, with its size and hash at that time."""

    path: str
    """Relative to the destination, with forward slashes."""
    size_bytes: int
    content: str
    """``sha256:`` and hexadecimal digits, or ``symlink:`` and the path that a symbolic link holds."""

    @classmethod
    def at(cls, path: str, file: Path) -> DeliveredFile:
        """Describe a regular file or a symbolic link.

        Raises:
            OSError: it cannot be read.
        """
        if file.is_symlink():
            return cls(path, 0, f"symlink:{file.readlink()}")
        with open_file(file) as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()  # type: ignore[arg-type]
            return cls(path, opened.tell(), f"sha256:{digest}")

    def is_unchanged(self, out: Path) -> bool:
        """Return whether the file is still in the destination with the same contents.

        A file below a symbolic link to a folder is not in the destination: the link may lead to the originals.
        """
        file = out / self.path
        try:
            is_inside = file.parent.resolve() == out.resolve() / PurePosixPath(self.path).parent
            return is_inside and DeliveredFile.at(self.path, file) == self
        except OSError:
            return False


class DeliveryRecord:
    """The files that this command put into a destination.

    Each line is written before its file appears, so a killed command leaves no file that is not in the record.
    Lines are only ever added. If a kill cuts a line off, its file does not exist yet.
    """

    def __init__(self, out: Path) -> None:
        """Read the record of a destination, which may have none.

        Raises:
            DeliveryError: a file with its name is not a record.
        """
        self.out = out
        self.path = out / RECORD_NAME
        self.files: dict[str, DeliveredFile] = {}
        self.partials: set[str] = set()
        self._appended = False
        data = self._read()
        self._has_head = data.startswith(RECORD_HEAD)
        if not self._has_head and not RECORD_HEAD.startswith(data):
            raise DeliveryError(
                f"{self.path} is not a record of celebahq filter; move it away, or choose another `out`"
            )
        for line in data.splitlines()[1:]:
            with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):  # cut off by a kill
                self._apply(cast(dict[str, Any], parse_json(line)))

    def _read(self) -> bytes:
        try:
            if self.path.is_symlink():
                raise OSError(errno.ELOOP, "a symbolic link")
            return read_file(self.path, MAX_LOG_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return b""
        except OSError as error:
            raise DeliveryError(
                f"{self.path} cannot be read as a record of celebahq filter: {error.strerror}; choose another `out`"
            ) from None

    def _apply(self, line: dict[str, Any]) -> None:
        if "removed" in line:
            self.files.pop(line["removed"], None)
            self.partials.discard(line["removed"])
        elif "partial" in line:
            if PARTIAL_NAME.fullmatch(line["partial"]):
                self.partials.add(line["partial"])
        else:
            file = DeliveredFile(str(line["file"]), int(line["bytes"]), str(line["content"]))
            place = PurePosixPath(file.path)
            if place.parts and not place.is_absolute() and ".." not in place.parts:
                self.files[file.path] = file

    def add(self, file: DeliveredFile) -> None:
        """Record a file that is about to appear; raise an OSError if the line cannot be written."""
        self._append({"file": file.path, "bytes": file.size_bytes, "content": file.content})

    def add_partial(self) -> Path:
        """Record a new name for an unfinished copy, and return its path."""
        name = f".celebahq-{secrets.token_hex(8)}.partial"
        self._append({"partial": name})
        return self.out / name

    def remove(self, name: str) -> None:
        """Record that a file or an unfinished copy is gone."""
        self._append({"removed": name})

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line).encode("ascii") + b"\n"
        if not self._appended:
            data = (b"\n" if self._has_head else RECORD_HEAD) + data  # a line feed first: the last line may be cut off
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self.path, flags, 0o666), "wb") as file:
            if not self._has_head:
                file.truncate(0)
            file.write(data)
        self._appended = self._has_head = True
        self._apply(line)


# --- The delivery --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Delivery:
    """Images to be delivered from a folder to another, where they have the same paths, and the result."""

    folder: Path
    out: Path
    mode: DeliveryMode
    paths: tuple[str, ...]
    """Paths of all selected images."""
    remaining: tuple[str, ...]
    """Selected images that are not in the destination yet."""
    stale: tuple[DeliveredFile, ...] = ()
    """Files of an earlier command that are not among `paths`."""
    changed: tuple[str, ...] = ()
    """Files of an earlier command that were changed since; they are left as they are."""
    errors: tuple[tuple[str, str], ...] = ()
    """Path and error of the images that could not be delivered."""
    prune_errors: tuple[tuple[str, str], ...] = ()
    """Path and error of the files of earlier commands that could not be removed."""


def plan_delivery(
    folder: Path, out: Path, mode: DeliveryMode, paths: Sequence[str], *, prune: bool = False
) -> Delivery:
    """Return a delivery after a check that all of it is possible.

    Args:
        out: the destination; need not exist.
        paths: the selection, relative to both folders.
        prune: whether files of an earlier command that are not in the selection may be removed.

    Raises:
        DeliveryError: another file has the name of an image, a file is in the place of a folder, or the destination
            holds files of an earlier command that are not in the selection, and `prune` is false.
        DiskFull: there is not enough space for the copies.
    """
    remaining, conflicts = [], []
    for path in paths:
        source, target = folder / path, out / path
        if not innermost_existing(target.parent).is_dir():
            conflicts.append(path)
        elif not os.path.lexists(target):
            remaining.append(path)
        elif not _is_delivered(source, target, mode):
            conflicts.append(path)
    if conflicts:
        raise DeliveryError(
            f"{len(conflicts)} of {len(paths)} names are taken in {out}, first {printable(conflicts[0])}: nothing is "
            f"overwritten, so nothing was {mode.done}; choose another `out`"
        )
    recorded = DeliveryRecord(out).files
    stale, changed = [], []
    for path in sorted(recorded.keys() - set(paths)):
        if recorded[path].is_unchanged(out):
            stale.append(recorded[path])
        elif os.path.lexists(out / path):
            changed.append(path)
    if stale and not prune:
        raise DeliveryError(
            f"{out} holds {counted(len(stale), 'file')} of an earlier celebahq filter that this selection does not "
            f"have, first {printable(stale[0].path)}; nothing was {mode.done}: add `prune` to remove exactly these, or "
            "choose another `out`"
        )
    if mode is DeliveryMode.COPY:
        free = shutil.disk_usage(innermost_existing(out)).free
        size_bytes = sum((folder / path).stat().st_size for path in remaining if (folder / path).exists())
        if size_bytes > free:
            raise DiskFull(f"{out} needs {size_bytes} bytes and its disk has {free} left; nothing was copied")
    return Delivery(folder, out, mode, tuple(paths), tuple(remaining), tuple(stale), tuple(changed))


def _is_delivered(source: Path, target: Path, mode: DeliveryMode) -> bool:
    """Return whether `target` is already a copy of `source`, or a link to it."""
    try:
        if mode is DeliveryMode.LINK:
            return source.samefile(target)
        if target.is_symlink() or source.samefile(target):
            return False
        one, other = source.stat(), target.stat()
        if one.st_size != other.st_size or not stat.S_ISREG(other.st_mode):
            return False
        return one.st_mtime_ns == other.st_mtime_ns or filecmp.cmp(source, target, shallow=False)
    except OSError:
        return False


def innermost_existing(path: Path) -> Path:
    """Return a path, or the innermost folder above it that exists."""
    return path if os.path.lexists(path) else innermost_existing(path.parent)


def deliver(plan: Delivery, progress: Progress) -> Delivery:
    """Call `deliver_images` and `prune_files`, and return the plan with the errors."""
    errors = []
    for path, error in deliver_images(plan):
        if error:
            errors.append((path, error))
        progress.advance(1, failed=bool(error))
    progress.close()
    return replace(plan, errors=tuple(errors), prune_errors=tuple(found for found in prune_files(plan) if found[1]))


def deliver_images(delivery: Delivery) -> Iterator[tuple[str, str]]:
    """Deliver the images that remain, and yield the path of each and the error it met, empty for none.

    A copy is complete, has its time stamps and is on the disk before it gets its name. A link is a hard link, or,
    where the file system cannot have one, a symbolic link to the absolute path.

    Raises:
        DeliveryError: a name was taken in the meantime, or the folder cannot be written into.
        DiskFull: no space left.
        WorkspaceError: the disk failed or is gone.
    """
    out, partial = delivery.out, None
    if delivery.remaining:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DeliveryError(f"{out} cannot be made: {error.strerror}; choose another `out`") from None
        if not os.access(out, os.W_OK | os.X_OK):
            raise DeliveryError(f"nothing can be written into {out}; choose another `out`")
    record = DeliveryRecord(out)
    try:
        _clean_up(record)
    except OSError as error:
        raise as_storage_error(error, out) from error
    try:
        for path in delivery.remaining:
            source, target = delivery.folder / path, out / path
            try:
                source.stat()
                target.parent.mkdir(parents=True, exist_ok=True)
                if delivery.mode is DeliveryMode.LINK:
                    _link(source, target, path, record)
                else:
                    partial = partial or record.add_partial()
                    _copy(source, target, path, partial, record)
                problem = ""
            except FileExistsError:
                record.remove(path)
                raise DeliveryError(
                    f"{target} appeared in the meantime; it was left as it is, because nothing is overwritten; "
                    "run the same command again to see whether it is another image"
                ) from None
            except OSError as error:
                problem = _problem(error, target)
            yield path, problem
    finally:
        with contextlib.suppress(OSError):
            _clean_up(record)


def prune_files(delivery: Delivery) -> Iterator[tuple[str, str]]:
    """Remove the stale files of a delivery, and yield the path of each and the error it met, empty for none.

    A file that was changed since the plan was made stays. Folders stay, also empty ones.

    Raises:
        DiskFull, WorkspaceError: the record cannot be written.
    """
    record = DeliveryRecord(delivery.out)
    for file in delivery.stale:
        try:
            if file.is_unchanged(delivery.out):
                (delivery.out / file.path).unlink()
                record.remove(file.path)
                problem = ""
            else:
                problem = "it changed while this command was at work"
        except OSError as error:
            problem = _problem(error, delivery.out / file.path)
        yield file.path, problem


def _clean_up(record: DeliveryRecord) -> None:
    """Remove unfinished copies, and drop files from the record that are gone."""
    for name in sorted(record.partials):
        (record.out / name).unlink(missing_ok=True)
        record.remove(name)
    for path in sorted(record.files):
        if not os.path.lexists(record.out / path):
            record.remove(path)


def _problem(error: OSError, target: Path) -> str:
    """Return the error of one image in words; raise one that concerns all of them."""
    failure = as_storage_error(error, target)
    if isinstance(failure, WorkspaceError):
        raise failure from error
    return error.strerror or str(error)


def _copy(source: Path, target: Path, path: str, partial: Path, record: DeliveryRecord) -> None:
    partial.unlink(missing_ok=True)
    shutil.copyfile(source, partial)
    sync_file(partial)
    copied = DeliveredFile.at(path, partial)
    shutil.copystat(source, partial)  # last: it may take away the permission to read
    record.add(copied)
    publish_new(partial, target)


def _link(source: Path, target: Path, path: str, record: DeliveryRecord) -> None:
    original = source.resolve(strict=True)
    record.add(DeliveredFile.at(path, original))
    try:
        os.link(original, target)
    except OSError as error:
        if error.errno not in (*NO_HARD_LINKS, errno.EXDEV):
            raise
        record.add(DeliveredFile(path, 0, f"symlink:{original}"))
        target.symlink_to(original)
