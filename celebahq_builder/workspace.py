"""The run directory: atomic files, one manifest per batch, fingerprints, and a lock.

    WORK/
      run.json                       what was asked, and what never changes within a run: the batches
      lock                           held while a process works here
      stages/<stage>/plan.json       what the stage's results depend on, written before the first of them
      stages/<stage>/images/00000/   pictures of a batch
      stages/<stage>/batches/00000.jsonl   one line per photo; written last, so its presence means all is there
      stages/<stage>/stage.json      counts; written when every batch is there
      selection.csv, rejected.csv, celebahq-1024x1024.h5, report/index.html

A file bears its final name only once it is whole. Whatever is named ``*.partial`` may be deleted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celebahq_builder import outcome
from celebahq_builder.errors import DiskFull, FingerprintMismatch, WorkspaceError, WorkspaceLocked
from celebahq_builder.outcome import Outcome

Ingredients = list[dict[str, Any]]
"""What a result depends on: one table per stage, from the source to the stage itself."""

STORAGE_LOST = (errno.EIO, errno.EROFS, errno.ENOTCONN, errno.ESTALE)
"""A disk that fails, one that turned read-only, a network or user-space file system that went away."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is either whole under its name or not there at all.

    Raises:
        DiskFull: no space left; nothing remains of the file.
        WorkspaceError: the file system failed or is gone; the next file would fare no better.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:  # Ctrl-C among them
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise as_storage_error(error, path) from error
        raise


def as_storage_error(error: OSError, path: Path) -> OSError | WorkspaceError:
    """Return what an error in writing a file means for every file to come: a full disk, or one that is lost.

    An error that is about this one file, such as a name too long, is returned as it is.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no space left to write {path}; free some and run the same command again")
    if error.errno in STORAGE_LOST:
        return WorkspaceError(
            f"{path} cannot be written: {error.strerror}; see to the disk or the mount, then run the same command again"
        )
    return error


def write_json(path: Path, values: Any) -> None:
    """Write values as an indented JSON file, atomically."""
    write_atomic(path, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file of the run directory.

    Raises:
        WorkspaceError: it is not JSON; this package never leaves such a file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkspaceError(
            f"{path} cannot be read: {error}; it was altered from outside, restore or delete it"
        ) from None


def sha256(data: bytes) -> str:
    """Return the SHA-256 of some bytes as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def fingerprint(ingredients: Ingredients) -> str:
    """Return a hash that is equal exactly for equal ingredients."""
    return sha256(json.dumps(ingredients, sort_keys=True, ensure_ascii=False).encode())


def batch_name(batch: int) -> str:
    """Return the name of a batch's files: five digits."""
    return f"{batch:05d}"


@dataclass(frozen=True)
class StageFolder:
    """The files of one stage."""

    root: Path
    name: str

    @property
    def plan_path(self) -> Path:
        """What the results depend on."""
        return self.root / "plan.json"

    @property
    def complete_path(self) -> Path:
        """The stage's counts; present when it is complete."""
        return self.root / "stage.json"

    def image_path(self, batch: int, photo_id: str) -> Path:
        """Return where a photo's picture lies."""
        return self.root / "images" / batch_name(batch) / f"{photo_id}.png"

    def manifest_path(self, batch: int) -> Path:
        """Return where a batch's manifest lies."""
        return self.root / "batches" / f"{batch_name(batch)}.jsonl"

    def batches_done(self) -> set[int]:
        """Return the numbers of the batches whose manifests are there."""
        folder = self.root / "batches"
        if not folder.is_dir():
            return set()
        names = (entry.name for entry in os.scandir(folder))
        return {int(name[:-6]) for name in names if name.endswith(".jsonl") and name[:-6].isdigit()}

    def write_manifest(self, batch: int, outcomes: Iterable[Outcome]) -> None:
        """Record how the photos of a batch ended; the last file of the batch to be written."""
        lines = [json.dumps(outcome.to_json(o), ensure_ascii=False) for o in outcomes]
        write_atomic(self.manifest_path(batch), "".join(f"{line}\n" for line in lines).encode())

    def read_manifest(self, batch: int) -> list[Outcome]:
        """Return how the photos of a batch ended.

        Raises:
            WorkspaceError: the manifest was altered.
        """
        path = self.manifest_path(batch)
        try:
            return [outcome.from_json(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WorkspaceError(f"{path} is damaged ({error}); delete it and run again: the batch is redone") from None

    def outcomes(self) -> Iterator[tuple[int, Outcome]]:
        """Yield batch and outcome of every photo recorded so far, in order."""
        for batch in sorted(self.batches_done()):
            for one in self.read_manifest(batch):
                yield batch, one

    def begin(self, ingredients: Ingredients) -> None:
        """Write the stage's plan; or check that the one there is the same.

        Raises:
            FingerprintMismatch: the folder holds results that depend on something else; names the first
                setting that differs.
        """
        if self.plan_path.exists():
            self.check(ingredients)
        else:
            write_json(self.plan_path, {"fingerprint": fingerprint(ingredients), "ingredients": ingredients})

    def check(self, ingredients: Ingredients) -> None:
        """Raise if the stage has results that depend on other ingredients.

        Raises:
            FingerprintMismatch: names the first setting that differs and what to do.
        """
        if not self.plan_path.exists():
            return
        plan = read_json(self.plan_path)
        if plan["fingerprint"] == fingerprint(ingredients):
            return
        old, new = _flat(plan["ingredients"]), _flat(json.loads(json.dumps(ingredients)))
        order = [*new, *(key for key in old if key not in new)]
        key = next(key for key in order if old.get(key) != new.get(key))
        stage, _, setting = key.partition(".")
        remedy = "" if stage == "source" else f", or --redo {stage}"
        raise FingerprintMismatch(
            f"{self.root.parent.parent} was built with [{stage}] {setting} = {old.get(key)}, this run asks "
            f"{new.get(key)}; outputs would mix. Use another --out{remedy}"
        )

    def is_complete(self, ingredients: Ingredients) -> bool:
        """Return whether the stage is complete with just these ingredients."""
        if not self.complete_path.exists():
            return False
        return bool(read_json(self.complete_path)["fingerprint"] == fingerprint(ingredients))

    def complete(self, ingredients: Ingredients, counts: dict[str, Any]) -> None:
        """Mark the stage complete; its last file."""
        write_json(self.complete_path, {"fingerprint": fingerprint(ingredients), **counts})

    def discard(self) -> None:
        """Delete the stage's results, its marks first, so that a kill in between leaves nothing that looks whole."""
        for path in (self.complete_path, *sorted((self.root / "batches").glob("*.jsonl")), self.plan_path):
            path.unlink(missing_ok=True)
        if self.root.exists():
            shutil.rmtree(self.root)


class Workspace:
    """A run directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def run_path(self) -> Path:
        """What was asked of the run."""
        return self.root / "run.json"

    @property
    def summary_path(self) -> Path:
        """How all photos ended, of the last run that came to its end."""
        return self.root / "summary.json"

    @property
    def timings_path(self) -> Path:
        """Seconds per batch and stage, one line per batch; no part of any result."""
        return self.root / "timings.jsonl"

    @property
    def selection_path(self) -> Path:
        """Table of the photos kept, best first."""
        return self.root / "selection.csv"

    @property
    def rejected_path(self) -> Path:
        """Table of the photos not kept, with reasons."""
        return self.root / "rejected.csv"

    @property
    def report_path(self) -> Path:
        """The HTML report."""
        return self.root / "report" / "index.html"

    def example_path(self, photo_id: str, stage: str) -> Path:
        """Return where the report's picture of an example photo after a stage lies."""
        return self.root / "report" / "examples" / photo_id / f"{stage}.jpg"

    def hdf5_path(self, resolution: int) -> Path:
        """Return where the result lies."""
        return self.root / f"celebahq-{resolution}x{resolution}.h5"

    def stage(self, name: str) -> StageFolder:
        """Return the folder of a stage."""
        return StageFolder(self.root / "stages" / name, name)

    def run(self) -> dict[str, Any]:
        """Return what was asked of the run.

        Raises:
            WorkspaceError: the directory holds no run.
        """
        if not self.run_path.exists():
            raise WorkspaceError(f"{self.root} is not a run directory: it has no run.json (build.py --out makes one)")
        return dict(read_json(self.run_path))

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the directory for this process: see `lock`."""
        return lock(self.root, "run directory", "--out")

    def sweep(self) -> None:
        """Delete the partial files that a killed run left, and no others; only for the holder of the lock."""
        ours = [*self.root.glob("*.partial")]
        for folder in ("stages", "report"):
            ours += (self.root / folder).rglob("*.partial")
        for path in ours:
            if re.search(r"\.(\d+|h5)\.partial$", path.name) and path.is_file():
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(root: Path, what: str, option: str) -> Iterator[None]:
    """Hold a directory for this process; a kill of any kind releases it.

    Args:
        root: made if need be; gets a file named ``lock``.
        what: what the user knows the directory as.
        option: where another one would be given.

    Raises:
        WorkspaceLocked: another process holds it; says which.
        WorkspaceError: the path is a file, or cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise WorkspaceError(f"{what} {root} cannot be used: {error.strerror}; choose another {option}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise WorkspaceLocked(f"{root} is in use by {holder}; wait for it, or use another {option}") from None
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):  # a folder that was made for this alone goes again
                (root / "lock").unlink()
                root.rmdir()
            with contextlib.suppress(OSError):  # what could not be written is tried once more
                file.close()
            raise as_storage_error(error, root) from error
        try:
            yield
        finally:
            file.truncate(0)


def _flat(ingredients: Ingredients) -> dict[str, Any]:
    return {f"{table['name']}.{key}": value for table in ingredients for key, value in table.items() if key != "name"}
