"""Shards of a build: parts of its batches, which several processes, on one or more machines, build at once.

Shard 3/16 consists of the third batch and every 16th batch after it. A process that works on a shard holds the lock of
the run directory while it plans, and that of the shard's folder from then on. So shards plan one after the other and
work at the same time. A build of the whole run works alone.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from celebahq_builder.errors import RecipeError
from celebahq_builder.storage import LOCK_NAME, Holder, LockedFolder, lock

log = logging.getLogger(__name__)

FOLDER = "shards"
"""Folder in the run directory that holds a folder of each shard."""


@dataclass(frozen=True, order=True)
class Shard:
    """A part of the batches of a build."""

    count: int
    """Number of shards."""
    number: int
    """From 1 to `count`."""

    @classmethod
    def parse(cls, value: str | tuple[int, int]) -> Shard:
        """Return the shard of a text such as ``3/16``, or of number and count.

        Raises:
            RecipeError: there is no such shard.

        >>> str(Shard.parse((3, 16)))
        '3/16'
        """
        text = value if isinstance(value, str) else "/".join(map(str, value))
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise RecipeError(f"`shard` {text} is not a shard; expected K/N with K from 1 to N, such as 3/16")
        return cls(int(found[2]), int(found[1]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def role(self) -> str:
        """The role of its process in a lock file."""
        return f"shard {self}"

    def batches(self, batches: int) -> range:
        """Return its batches, of a number of batches."""
        return range(self.number - 1, batches, self.count)

    def folder(self, root: Path) -> Path:
        """Return its folder in a run directory."""
        return root / FOLDER / f"{self.number}-of-{self.count}"

    def lock(self, root: Path) -> contextlib.AbstractContextManager[LockedFolder]:
        """Hold the shard for this process; see `storage.lock`."""
        return lock(self.folder(root), "shard of a run", "shard", role=self.role)


def shard_folders(root: Path) -> dict[Shard, Path]:
    """Return the folder of each shard that was begun in a run directory."""
    found = {}
    for path in (root / FOLDER).glob("*-of-*"):
        with contextlib.suppress(RecipeError):
            found[Shard.parse(path.name.replace("-of-", "/"))] = path
    return dict(sorted(found.items()))


def check_shards(root: Path, *, beside: Shard | None = None) -> None:
    """Check that no process works on a shard; only for the holder of the run directory's lock.

    Args:
        root: the run directory.
        beside: shards of the same division as this one may be in work. Batches of shards of two divisions overlap.

    Raises:
        WorkspaceLocked: a process works on a shard; the message names both.
    """
    for shard, folder in shard_folders(root).items():
        if beside is None or shard.count != beside.count:
            path = folder / LOCK_NAME
            if path.is_file() and path.read_bytes().count(b"\n") > 1:  # it has, or had, a holder
                with lock(folder, "shard of a run", "out"):
                    pass


def wait_for_planning(root: Path) -> Callable[[Holder], bool]:
    """Return a function for `storage.lock` that waits for shards which plan, and for nothing else."""
    told: set[Holder] = set()

    def wait(holder: Holder) -> bool:
        if holder.role and holder not in told:
            log.info("%s: waiting until %s has planned its work", root, holder)
        told.add(holder)
        return bool(holder.role)

    return wait
