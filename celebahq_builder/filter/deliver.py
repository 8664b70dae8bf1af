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

from celebahq_builder.errors import CelebAHQError, DeliveryError, DiskFull, RecipeError
from celebahq_builder.filter.delivery_record import DeliveredFile, DeliveryRecord
from celebahq_builder.filter.records import ImageScore, printable
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

    def _options(self) -> list[str]:
        given = {"keep": self.keep, "min_score": self.min_score, "top_percent": self.top_percent}
        return [f"{name} = {value:g}" for name, value in given.items() if value is not None]

    @property
    def option(self) -> str:
        """The field and its value, such as "keep = 10"; empty if all images are kept."""
        return "".join(self._options())

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
    """Files of an earlier command that somebody changed since; they are left as they are."""


@dataclass(frozen=True)
class DeliveryResult:
    """The result of a delivery."""

    mode: DeliveryMode
    out: Path
    delivered: int
    """Images that this command delivered."""
    already_there: int
    """Images that were there before."""
    symlinks: int
    """Symbolic links among all of them."""
    errors: tuple[tuple[str, str], ...]
    """Path and error of the images that could not be delivered."""
    pruned: int
    """Files of earlier commands that were removed."""
    prune_errors: tuple[tuple[str, str], ...]
    """Path and error of those that could not be removed."""
    changed: tuple[str, ...]
    """Files of earlier commands that somebody changed since; they are left as they are."""


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
    left, clashes, size_bytes = [], [], 0
    folders: dict[Path, bool] = {}
    for path in paths:
        source, target = folder / path, out / path
        if not _can_hold(target.parent, folders):
            clashes.append(path)
        elif not os.path.lexists(target):
            left.append(path)
            size_bytes += _size_bytes(source)
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
            f"{out} holds {_counted(len(stale))} of an earlier celebahq filter that this selection does not have, "
            f"first {printable(stale[0].path)}; nothing was {mode.done}: add `prune` to remove "
            f"{'it' if len(stale) == 1 else 'exactly these'}, or choose another `out`"
        )
    if mode is DeliveryMode.COPY:
        free = shutil.disk_usage(_existing(out)).free
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


def _counted(files: int) -> str:
    return "1 file" if files == 1 else f"{files} files"


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


def _can_hold(folder: Path, known: dict[Path, bool]) -> bool:
    """Return whether a folder exists or can be made; `known` is the cache."""
    if folder not in known:
        if os.path.lexists(folder):
            known[folder] = folder.is_dir()
        else:
            known[folder] = folder == folder.parent or _can_hold(folder.parent, known)
    return known[folder]


def _existing(folder: Path) -> Path:
    """Return the innermost part of a path that exists."""
    return folder if folder.exists() else _existing(folder.parent)


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


# --- Its execution ------------------------------------------------------------------------------------------------


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
    with _storage_errors(out):
        _clean_up(record)
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


def count_symlinks(delivery: Delivery) -> int:
    """Return how many of the delivered images are symbolic links."""
    return sum((delivery.out / path).is_symlink() for path in delivery.paths)


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


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise as_storage_error(error, path) from error


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
