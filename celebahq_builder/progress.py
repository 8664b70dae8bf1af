"""Progress of a command: a bar on a terminal, otherwise a log line every 30 s. Durations, sizes, tables as text."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Container, Iterator, Sequence
from typing import Self

from tqdm import tqdm

log = logging.getLogger(__name__)

LINE_EVERY_S = 30.0

MOMENT_S = 2.0
"""Passes that take no longer than this print no progress."""


def rough_duration(seconds: float) -> str:
    """Return a duration in its largest unit, for estimates.

    >>> [rough_duration(seconds) for seconds in (40, 126, 9_000, 400_000, 4e9)]
    ['40 s', '2 min', '2.5 h', '4.6 days', '127 years']
    """
    units = ((100, 1, "s", 0), (6000, 60, "min", 0), (172_800, 3600, "h", 1), (5e7, 86_400, "days", 1))
    for limit_s, unit_s, unit, digits in units:
        if seconds < limit_s:
            return f"{seconds / unit_s:.{digits}f} {unit}"
    return f"{seconds / 31_557_600:,.0f} years"


def size(size_bytes: int) -> str:
    """Return a size for people, in decimal units.

    >>> size(25_340_000), size(800)
    ('25.3 MB', '800 bytes')
    """
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= factor:
            return f"{size_bytes / factor:,.1f} {unit}"
    return f"{size_bytes} bytes"


def aligned(table: Sequence[Sequence[str]], left: Container[int] = ()) -> Iterator[str]:
    """Yield the rows of a table with aligned columns; `left` has the numbers of the columns that are left-aligned.

    >>> list(aligned([["swd", "8"], ["fid", "12"]], left=[0]))
    ['swd   8', 'fid  12']
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def image_progress(what: str, images: int) -> Progress:
    """Return the progress of a pass over images, which prints nothing if the pass is short."""
    return Progress(what, images, unit="image", judged=False, silent_s=MOMENT_S)


class Progress:
    """Count the items of one pass; print rate, time left, and how many were rejected. A context manager.

    Args:
        what: name of the pass.
        total: number of items.
        done: items that an earlier command has done.
        unit: name of an item.
        judged: whether items can be rejected or fail; otherwise these counts are not printed.
        silent_s: a pass that takes less time prints nothing.
    """

    def __init__(
        self, what: str, total: int, done: int = 0, unit: str = "photo", judged: bool = True, silent_s: float = 0.0
    ) -> None:
        self.unit, self.judged, self.silent_s = unit, judged, silent_s
        self.what, self.total, self.done = what, total, done
        self.first, self.began = done, time.monotonic()
        self.last_line = self.began
        self.rejected = self.failed = 0
        self.workers: int | None = None
        """Workers of a cluster, to be printed; None for none."""
        self.bar = None
        if sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=done, desc=what, unit=unit, dynamic_ncols=True, delay=silent_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, items: int, rejected: int = 0, failed: int = 0) -> None:
        """Count more items as done."""
        self.done += items
        self.rejected += rejected
        self.failed += failed
        if self.bar is not None:
            if self.judged:
                workers = "" if self.workers is None else f", {self.workers} workers"
                self.bar.set_postfix_str(self._judged_words() + workers, refresh=False)
            self.bar.update(items)
        elif time.monotonic() - self.last_line >= LINE_EVERY_S:
            self.last_line = time.monotonic()
            log.info("%s", self.line())

    @property
    def items_per_s(self) -> float | None:
        """Items per second of this command; None before the first one."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        return (self.done - self.first) / seconds if self.done > self.first else None

    @property
    def seconds_left(self) -> float | None:
        """Estimated time until the last item; None while it is not known."""
        rate = self.items_per_s
        return (self.total - self.done) / rate if rate else None

    def line(self) -> str:
        """Return the state of the pass in one line."""
        parts = [f"{self.what}: {self.done} of {self.total} {self.unit}s"]
        rate, seconds_left = self.items_per_s, self.seconds_left
        if rate is not None and seconds_left is not None:
            parts.append(f"{rate:.2f} {self.unit}s/s")
            parts += [f"{rough_duration(seconds_left)} left"] if seconds_left else []
        if self.workers:
            each = f" ({rate / self.workers:.2f} {self.unit}s/s each)" if rate is not None else ""
            parts.append(f"workers: {self.workers}{each}")
        if self.judged:
            parts.append(self._judged_words())
        return ", ".join(parts)

    def _judged_words(self) -> str:
        """Return the numbers of rejected and failed items; of a command that resumes, only its own are known."""
        return f"{self.rejected} rejected, {self.failed} failed" + (" in this command" if self.first else "")

    def close(self) -> None:
        """End the pass."""
        if self.bar is not None:
            self.bar.close()
        elif time.monotonic() - self.began >= self.silent_s:
            log.info("%s", self.line())
