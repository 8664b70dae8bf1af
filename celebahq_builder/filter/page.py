"""The HTML page of a scored folder: where it was cut, the best, the worst, and what has no score."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from celebahq_builder.filter.listing import SUFFIXES, PassedOver
from celebahq_builder.filter.record import PARTS, Scored, Unscored, printable
from celebahq_builder.filter.scoring import SIDE_PX
from celebahq_builder.filter.selection import Cut
from celebahq_builder.html import charts, thumbnails
from celebahq_builder.html.page import render_page
from celebahq_builder.html.thumbnails import Thumbnail
from celebahq_builder.storage import write_atomic

SHEET = 24
"""Images on a sheet."""

SHEET_PX = 160

ROWS = 5000
"""Lines in the list of those without a score."""


@dataclass(frozen=True)
class Imaged:
    """An image with its thumbnail, and a link to the whole of it."""

    name: str
    score: str
    thumbnail: Thumbnail | None
    link: str


@dataclass(frozen=True)
class Sheet:
    """Thumbnails that belong together."""

    title: str
    images: list[Imaged]


@dataclass(frozen=True)
class Contents:
    """What a page is about."""

    folder: Path
    cut: Cut
    ranked: Sequence[Scored]
    """Best first."""
    kept: int
    unscored: Sequence[Unscored]
    passed: PassedOver
    table: Path
    kept_in: Path
    """Folder that the kept images will be in."""


def write(path: Path, contents: Contents) -> None:
    """Write the page; equal contents make equal pages.

    Raises:
        DiskFull: no space left.
    """
    write_atomic(path, render_page("filter.html.j2", _variables(path.parent, contents)))


def _variables(home: Path, contents: Contents) -> dict[str, Any]:
    ranked, kept = contents.ranked, contents.kept
    reasons = Counter((one.words, one.code) for one in contents.unscored)
    return {
        "folder": printable(os.fspath(contents.folder)),
        "cut": contents.cut.words,
        "images": len(ranked) + len(contents.unscored),
        "counts": {"kept": kept, "below the cut": len(ranked) - kept, "without a score": len(contents.unscored)},
        "median": statistics.median(one.score for one in ranked) if ranked else None,
        "table": _link(home, contents.table),
        "histograms": list(_histograms(contents)),
        "sheets": list(_sheets(home, contents)),
        "reasons": sorted(reasons.items(), key=lambda item: (-item[1], item[0])),
        "rows": [(printable(one.path), one.words, one.code, printable(one.detail)) for one in contents.unscored[:ROWS]],
        "rows_left": len(contents.unscored[ROWS:]),
        "passed": contents.passed,
        "endings": sorted(contents.passed.suffixes.items(), key=lambda item: (-item[1], item[0])),
        "linked": list(map(printable, contents.passed.linked_folders)),
        "left_out": list(map(printable, contents.passed.left_out)),
        "suffixes": SUFFIXES,
        "side_px": SIDE_PX,
    }


def _histograms(contents: Contents) -> Iterator[tuple[str, charts.Histogram]]:
    """Yield the score and each of its components, with their names; the cut in the first of them."""
    ranked, kept = contents.ranked, contents.kept
    for index, name in enumerate(PARTS):
        values = [one.parts[index] for one in ranked]
        drawn = charts.histogram(values[:kept], values[kept:], None if index else _cut_at(contents), "images")
        if drawn:
            yield name, drawn


def _cut_at(contents: Contents) -> float | None:
    """Return the score to mark: that of the last image kept; None where the cut leaves none or takes all."""
    ranked, kept = contents.ranked, contents.kept
    if not contents.cut.words or not 0 < kept < len(ranked):
        return None
    return ranked[kept - 1].score


def _sheets(home: Path, contents: Contents) -> Iterator[Sheet]:
    ranked, kept = contents.ranked, contents.kept
    above, below = ranked[:kept], ranked[kept:]
    here, there = contents.folder, contents.kept_in
    parts: Sequence[tuple[str, Sequence[Scored], Path]]
    if below:
        parts = (
            ("Best", above[:SHEET], there),
            ("Last of those kept", above[SHEET:][-SHEET:], there),
            ("First of those below the cut", below[:SHEET], here),
            ("Worst", below[SHEET:][-SHEET:], here),
        )
    else:
        rest = above[SHEET:-SHEET]
        middle = max(len(rest) - SHEET, 0) // 2
        parts = (
            ("Best", above[:SHEET], there),
            ("Middle", rest[middle:][:SHEET], there),
            ("Worst", above[SHEET:][-SHEET:], there),
        )
    for title, some, then in parts:
        if some:
            yield Sheet(title, [_imaged(home, here, then, one) for one in some])


def _imaged(home: Path, now: Path, then: Path, one: Scored) -> Imaged:
    thumbnail = thumbnails.of_centre(now / one.path, SHEET_PX)
    return Imaged(printable(one.path), f"{one.score:.3f}", thumbnail, _link(home, then / one.path))


def _link(home: Path, path: Path) -> str:
    """Return the address of a file relative to the page's folder."""
    return quote(os.fsencode(os.path.relpath(path, home)))
