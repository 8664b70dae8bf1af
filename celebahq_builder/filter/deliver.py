"""Selection of the best images, and their delivery into a folder of their own as copies or links."""

from __future__ import annotations

import contextlib
import enum
import errno
import filecmp
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from celebahq_builder.errors import CelebAHQError, DeliveryError, DiskFull, RecipeError, printable
from celebahq_builder.filter.delivery_record import DeliveredFile, DeliveryRecord
from celebahq_builder.filter.records import ImageScore
from celebahq_builder.progress import Progress
from celebahq_builder.storage import NO_HARD_LINKS, as_storage_error, publish_new


class DeliveryMode(enum.StrEnum):
    """The way in which a kept image gets into the destination."""

    COPY = "copy"
    LINK = "link"

    @property
    def done(self) -> str:
        """The past participle."""
        return {"copy": "copied", "link": "linked"}[self.value]


# --- The selection -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selection:
    """The number of images to keep, given by one of the fields; without any, all images are kept.

    Raises:
        RecipeError: more than one field is given.
    """

    keep: int | None = None
    """Number of images."""
    min_score: float | None = None
    """Lowest score."""
    top_percent: float | None = None
    """Share of the images that have a score, rounded down, but at least one image."""

    def __post_init__(self) -> None:
        given = [name for name in ("keep", "min_score", "top_percent") if getattr(self, name) is not None]
        if len(given) > 1:
            names = " and ".join(f"`{name}`" for name in given)
            raise RecipeError(f"{names} both say how many images are kept; give only one of them")

    @property
    def description(self) -> str:
        """The selection in words, such as "best 10 %"; empty if all images are kept."""
        if self.keep is not None:
            return f"best {self.keep}"
        if self.min_score is not None:
            return f"scores of {self.min_score:g} or more"
        return "" if self.top_percent is None else f"best {self.top_percent:g} %"

    def count(self, ranked: Sequence[ImageScore]) -> int:
        """Return how many of these images, best first, are kept."""
        if self.keep is not None:
            return min(self.keep, len(ranked))
        if self.min_score is not None:
            return sum(image.score >= self.min_score for image in ranked)
        if self.top_percent is not None:
            share = Fraction(str(self.top_percent)) / 100  # exact: 0.29 * 100 as floats would be rounded down to 28
            return min(max(int(len(ranked) * share), 1), len(ranked))
        return len(ranked)


def rank(images: Iterable[ImageScore]) -> list[ImageScore]:
    """Return images best first; those of equal scores by path."""
    return sorted(images, key=lambda image: (-image.score, image.path))


# --- The plan -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Delivery:
    """Images to be delivered from a folder to another, where they have the same paths."""

    folder: Path
    out: Path
    mode: DeliveryMode
    paths: tuple[str, ...]
    """All of them."""
    left: tuple[str, ...]
    """Those that are not there yet."""
    stale: tuple[DeliveredFile, ...] = ()
    """Files of an earlier command that are not among `paths`."""
    changed: tuple[str, ...] = ()
    """Files of an earlier command that were changed since; they are left as they are."""


@dataclass(frozen=True)
class DeliveryResult:
    """The result of a delivery."""

    plan: Delivery
    errors: tuple[tuple[str, str], ...]
    """Path and error of the images that could not be delivered."""
    prune_errors: tuple[tuple[str, str], ...]
    """Path and error of the files of earlier commands that could not be removed."""

    def lines(self) -> Iterator[str]:
        """Yield the closing lines of the command."""
        plan, done = self.plan, self.plan.mode.done
        notes = [f"{count} were there already"] if (count := len(plan.paths) - len(plan.left)) else []
        if plan.mode is DeliveryMode.LINK and (count := sum((plan.out / path).is_symlink() for path in plan.paths)):
            notes.append(f"{count} are symbolic links, because hard links are not possible there")
        more = f" ({'; '.join(notes)})" if notes else ""
        yield f"{done}: {len(plan.left) - len(self.errors)} to {printable(str(plan.out))}{more}"
        for path, error in self.errors:
            yield f"  not {done}: {printable(path)}: {error}"
        if plan.stale:
            yield f"removed: {len(plan.stale) - len(self.prune_errors)} of an earlier command"
        for path, error in self.prune_errors:
            yield f"  not removed: {printable(path)}: {error}"
        if plan.changed:
            names = join_names(plan.changed)
            yield f"left there: {len(plan.changed)} of an earlier command, changed since ({names})"


def join_names(names: Sequence[str], count: int = 5) -> str:
    """Return the first names of a sequence as a printable text."""
    return ", ".join([*map(printable, names[:count]), *(["..."] if len(names) > count else [])])


def plan_delivery(
    folder: Path, out: Path, mode: DeliveryMode, paths: Sequence[str], *, prune: bool = False
) -> Delivery:
    """Return what is left to be delivered, after a check that all of it can be.

    Args:
        folder: where the images are.
        out: the destination; need not exist.
        mode: copy or link.
        paths: the selection, relative to both folders.
        prune: whether files of an earlier command that are not in the selection may be removed.

    Raises:
        DeliveryError: another file has the name of an image, a file is in the place of a folder, or the destination
            holds files of an earlier command that are not in the selection, and `prune` is false.
        DiskFull: there is not enough space for the copies.
    """
    left, clashes = [], []
    for path in paths:
        source, target = folder / path, out / path
        if not innermost_existing(target.parent).is_dir():
            clashes.append(path)
        elif not os.path.lexists(target):
            left.append(path)
        elif not _is_delivered(source, target, mode):
            clashes.append(path)
    if clashes:
        raise DeliveryError(
            f"{len(clashes)} of {len(paths)} names are taken in {out}, first {printable(clashes[0])}: nothing is "
            f"overwritten, so nothing was {mode.done}; choose another `out`"
        )
    stale, changed = _earlier_files(out, set(paths))
    if stale and not prune:
        raise DeliveryError(
            f"{out} holds {len(stale)} {'file' if len(stale) == 1 else 'files'} of an earlier celebahq filter that "
            f"this selection does not have, first {printable(stale[0].path)}; nothing was {mode.done}: add "
            "`prune` to remove exactly these, or choose another `out`"
        )
    if mode is DeliveryMode.COPY:
        free = shutil.disk_usage(innermost_existing(out)).free
        size_bytes = sum((folder / path).stat().st_size for path in left if (folder / path).exists())
        if size_bytes > free:
            raise DiskFull(f"{out} needs {size_bytes} bytes and its disk has {free} left; nothing was copied")
    return Delivery(folder, out, mode, tuple(paths), tuple(left), tuple(stale), tuple(changed))


def _earlier_files(out: Path, selected: set[str]) -> tuple[list[DeliveredFile], list[str]]:
    """Return the files of earlier commands outside the selection, by path: those to prune, and those changed since."""
    stale, changed = [], []
    for path, file in sorted(DeliveryRecord(out).files.items()):
        if path in selected or not os.path.lexists(out / path):
            continue
        if file.is_unchanged(out):
            stale.append(file)
        else:
            changed.append(path)
    return stale, changed


def _is_delivered(source: Path, target: Path, mode: DeliveryMode) -> bool:
    """Return whether `target` is what a copy or a link of `source` would be."""
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


# --- Its execution ------------------------------------------------------------------------------------------------


def deliver(plan: Delivery, progress: Progress) -> DeliveryResult:
    """Deliver the images that are left, then remove the stale files.

    Raises:
        DeliveryError, DiskFull, WorkspaceError: see `deliver_images`.
    """
    errors = []
    for path, error in deliver_images(plan):
        if error:
            errors.append((path, error))
        progress.advance(1, failed=bool(error))
    progress.close()
    return DeliveryResult(plan, tuple(errors), tuple(found for found in prune_files(plan) if found[1]))


def deliver_images(delivery: Delivery) -> Iterator[tuple[str, str]]:
    """Deliver the images that are left, and yield the path of each and the error it met, empty for none.

    A copy is complete, has its time stamps and is on the disk before it gets its name. A link is a hard link, or,
    where the file system cannot have one, a symbolic link to the absolute path.

    Raises:
        DeliveryError: a name was taken in the meantime, or the folder cannot be written into.
        DiskFull: no space left.
        WorkspaceError: the disk failed or is gone.
    """
    out = delivery.out
    if delivery.left:
        _make_folder(out)
    record = DeliveryRecord(out)
    try:
        _clean_up(record)
    except OSError as error:
        raise as_storage_error(error, out) from error
    partial: Path | None = None
    try:
        for path in delivery.left:
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
            except (OSError, shutil.Error) as error:
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
        problem = ""
        try:
            if not file.is_unchanged(delivery.out):
                problem = "it changed while this command was at work"
            else:
                (delivery.out / file.path).unlink()
                record.remove(file.path)
        except OSError as error:
            problem = _problem(error, delivery.out / file.path)
        yield file.path, problem


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeliveryError(f"{out} cannot be made: {error.strerror}; choose another `out`") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise DeliveryError(f"nothing can be written into {out}; choose another `out`")


def _clean_up(record: DeliveryRecord) -> None:
    """Remove unfinished copies, and drop files from the record that are gone."""
    for name in sorted(record.partials):
        (record.out / name).unlink(missing_ok=True)
        record.remove(name)
    for path in sorted(record.files):
        if not os.path.lexists(record.out / path):
            record.remove(path)


def _problem(error: OSError | shutil.Error, target: Path) -> str:
    """Return the error of one image in words; raise one that concerns all of them."""
    failure = as_storage_error(error, target) if isinstance(error, OSError) else error
    if isinstance(failure, CelebAHQError):
        raise failure from error
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _copy(source: Path, target: Path, path: str, partial: Path, record: DeliveryRecord) -> None:
    digest, size_bytes = hashlib.sha256(), 0
    partial.unlink(missing_ok=True)
    with source.open("rb") as read, partial.open("xb") as written:
        while block := read.read(1 << 20):
            digest.update(block)
            size_bytes += written.write(block)
        written.flush()
        os.fsync(written.fileno())
    shutil.copystat(source, partial)
    record.add(DeliveredFile(path, size_bytes, f"sha256:{digest.hexdigest()}"))
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
