"""What became of two files that were compared, in lines for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from celebahq_builder.formats.comparison import Comparison
from celebahq_builder.formats.hdf5 import PyramidFile
from celebahq_builder.formats.printable import printable

NAMED = 5
"""Pictures without a partner that are named."""


def lines(a: PyramidFile, b: PyramidFile, result: Comparison) -> Iterator[str]:
    """Yield files, pairs, levels, the worst pairs, and in the last line whether all is equal."""
    for mark, pyramid in (("A", a), ("B", b)):
        r = pyramid.resolution
        colour = "grey" if pyramid.channels == 1 else "RGB"
        yield f"{mark}: {pyramid.path}: {pyramid.count:,} pictures of {r}x{r}, {colour}"
    yield from _matched(result)
    for mark, only in zip("AB", result.only_levels, strict=True):
        if only:
            yield f"levels that only {mark} has: {', '.join(map(str, only))}"
    if result.unread:
        yield f"{result.unread:,} pairs not read: the SHA-256 recorded for them are equal (--full reads them too)"
    if any(one.compared for one in result.levels):
        yield from _levels(result)
    if result.worst:
        yield f"worst {len(result.worst)}, each at its largest level that differs:"
        yield from _table(
            ("A", "B", "level", "largest", "mean", "PSNR", result.match.by if result.match.names else ""),
            [
                (
                    str(one.a),
                    str(one.b),
                    f"{one.resolution}x{one.resolution}",
                    str(one.difference.largest),
                    f"{one.difference.mean:.4f}",
                    _decibels(one.difference.psnr_db),
                    printable(one.name),
                )
                for one in result.worst
            ],
        )
    yield _verdict(result)


def _levels(result: Comparison) -> Iterator[str]:
    yield from _table(
        ("level", "compared", "different", "largest", "mean", "PSNR"),
        [
            (
                f"{one.resolution}x{one.resolution}",
                f"{one.compared:,}",
                f"{one.different:,}",
                str(one.difference.largest),
                f"{one.difference.mean:.4f}",
                _decibels(one.difference.psnr_db),
            )
            for one in result.levels
        ],
    )


def _matched(result: Comparison) -> Iterator[str]:
    match = result.match
    by = {"id": "id", "file": "source file", "position": "place"}[match.by]
    moved = f", {match.moved:,} of them at another place" if match.moved else ""
    yield f"paired by {by}: {len(match.a):,}{moved}"
    for mark, only in (("A", match.only_a), ("B", match.only_b)):
        if only:
            names = ", ".join(map(printable, only[:NAMED])) + (", ..." if len(only) > NAMED else "")
            yield f"only in {mark}: {len(only):,} ({names})"


def _verdict(result: Comparison) -> str:
    if result.equal:
        trust = (
            "" if not result.unread else f", {result.unread:,} of them by their recorded SHA-256 (--full reads them)"
        )
        return f"equal: {len(result.match.a):,} pictures{trust}"
    without = len(result.match.only_a) + len(result.match.only_b)
    parts = [f"{result.different:,} of {len(result.match.a):,} pairs differ"]
    parts += [f"{without:,} pictures have no partner"] if without else []
    parts += ["not the same levels"] if any(result.only_levels) else []
    return "different: " + ", ".join(parts)


def _decibels(value: float) -> str:
    return "equal" if math.isinf(value) else f"{value:.2f} dB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows under a head, right-aligned but for a name at the end."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [text.rjust(width) for text, width in zip(row, widths, strict=True)]
        cells[-1] = row[-1].ljust(widths[-1]) if len(row) == 7 else cells[-1]
        yield ("  " + "  ".join(cells)).rstrip()
