"""How a filtering ended, in lines for people."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from celebahq_builder.filter.delivery import Mode
from celebahq_builder.filter.listing import PassedOver
from celebahq_builder.filter.record import Scored, Unscored, printable

SHOWN = 5
"""Images, reasons' files and endings that are named each."""


@dataclass(frozen=True)
class Delivered:
    """What came of a delivery."""

    mode: Mode
    out: Path
    images: int
    there: int
    """Those of them that were there before."""
    symbolic: int
    """Those of them that are symbolic links."""
    problems: tuple[tuple[str, str], ...]
    """Path and error of those that could not be delivered."""


@dataclass(frozen=True)
class Summary:
    """How a filtering ended."""

    ranked: Sequence[Scored]
    """Best first."""
    kept: int
    cut: str
    """The option that said how many; empty for none."""
    unscored: Sequence[Unscored]
    passed: PassedOver = field(default_factory=PassedOver)
    table: Path | None = None
    page: Path | None = None
    list_path: Path | None = None
    delivered: Delivered | None = None
    declined: bool = False
    """Whether a move was not agreed to."""
    went_on: bool = False
    """Whether this was but the rest of an interrupted move; then nothing was scored."""

    def lines(self) -> Iterator[str]:
        """Yield what to print."""
        if not self.went_on:
            yield from self._counts()
            yield from self._ranking()
            yield from self._without()
            yield from self._passed()
        if self.declined:
            yield "nothing was moved"
        if self.delivered:
            yield from self._delivered(self.delivered)
        for name, path in (("list:", self.list_path), ("table:", self.table), ("page:", self.page)):
            if path:
                yield f"{name:<6} {path}"

    def _counts(self) -> Iterator[str]:
        below, without = len(self.ranked) - self.kept, len(self.unscored)
        total = len(self.ranked) + without
        yield f"{total} images: {self.kept} kept + {below} below the cut + {without} without a score"

    def _ranking(self) -> Iterator[str]:
        if not self.ranked:
            return
        scores = [one.score for one in self.ranked]
        last = f"; the last one kept has {scores[self.kept - 1]:.4f} ({self.cut})" if self.cut and self.kept else ""
        yield f"score:  {scores[0]:.4f} best, {statistics.median(scores):.4f} median, {scores[-1]:.4f} worst{last}"
        for name, some in (("best:", self.ranked[:SHOWN]), ("worst:", self.ranked[SHOWN:][-SHOWN:])):
            if some:
                yield f"{name:<7} " + ", ".join(f"{printable(one.path)} {one.score:.4f}" for one in some)

    def _without(self) -> Iterator[str]:
        by_reason: dict[str, list[Unscored]] = {}
        for one in self.unscored:
            by_reason.setdefault(one.code, []).append(one)
        for code, some in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
            yield f"  {code}: {len(some)}: {some[0].words}"
            for one in some[:SHOWN]:
                yield f"    {printable(one.path)}: {printable(one.detail)}"
            if len(some) > SHOWN:
                yield f"    ... and {len(some) - SHOWN} more: see {self.table}"

    def _passed(self) -> Iterator[str]:
        passed, parts = self.passed, []
        if passed.suffixes:
            ranked = sorted(passed.suffixes.items(), key=lambda item: (-item[1], item[0]))
            named = [f"{count} {ending or 'without an ending'}" for ending, count in ranked[:SHOWN]]
            named += ["..."] if len(ranked) > SHOWN else []
            parts.append(f"{_counted(passed.suffixes)} ({', '.join(named)})")
        if passed.hidden:
            parts.append(f"{passed.hidden} hidden")
        for words, names in (("linked {}", passed.linked_folders), ("{} written into", passed.left_out)):
            if names:
                what = words.format("folder" if len(names) == 1 else "folders")
                parts.append(f"{len(names)} {what} ({', '.join(map(printable, names[:SHOWN]))})")
        if parts:
            yield f"passed over: {', '.join(parts)}"

    def _delivered(self, done: Delivered) -> Iterator[str]:
        notes = [f"{done.there} were there already"] if done.there else []
        if done.symbolic:
            notes.append(f"{done.symbolic} as symbolic links, where no hard ones can be")
        new = done.images - len(done.problems)
        yield f"{done.mode.done}: {new} to {os.fspath(done.out)}" + (f" ({'; '.join(notes)})" if notes else "")
        for path, problem in done.problems:
            yield f"  not {done.mode.done}: {printable(path)}: {problem}"


def _counted(suffixes: Counter[str]) -> str:
    count = sum(suffixes.values())
    return f"{count} other file" if count == 1 else f"{count} other files"
