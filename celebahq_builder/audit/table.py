"""Findings in lines of text, for terminals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from celebahq_builder.audit.findings import Findings
from celebahq_builder.formats.histogram_text import histogram_lines
from celebahq_builder.formats.printable import printable

NAMED = 10
"""Groups or pictures that a line each is spent on; the JSON file has all."""


def lines(found: Findings) -> Iterator[str]:
    """Yield what was found: a line for each kind, and the first of each."""
    side = f"{found.resolution}x{found.resolution}"
    yield f"{printable(found.file)}: {found.count:,} pictures of {side}"
    yield from _same(found)
    yield from _near(found)
    yield _row("one colour", _pictures(len(found.one_colour)))
    yield from _listed([_called(found, number) for number in found.one_colour])
    yield from _bars(found)
    yield from _padding(found)
    yield from _scores(found)


def _same(found: Findings) -> Iterator[str]:
    by = "by the SHA-256 that the file has of them" if found.hashes_recorded else "byte by byte"
    yield _row("the same", _groups(len(found.same), found.same_extra) + f"; {by}")
    yield from _listed([" = ".join(_called(found, n) for n in group) for group in found.same])


def _near(found: Findings) -> Iterator[str]:
    if found.near is None:
        yield _row("nearly the same", "not known: the pictures are too small for a perceptual hash, 16x16 at least")
        return
    mirrored = sum(copy.mirrored for group in found.near for copy in group)
    of_these = f", {mirrored:,} mirrored" if mirrored else ""
    yield _row("nearly the same", _groups(len(found.near), found.near_extra) + of_these)
    yield from _listed(
        [
            " ~ ".join(_called(found, copy.number) + ("" if copy is group[0] else f" ({copy.words})") for copy in group)
            for group in found.near
        ]
    )


def _bars(found: Findings) -> Iterator[str]:
    if found.bars is None:
        yield _row("bars at the edge", "not known: the pictures are too small, 32x32 at least")
        return
    kinds = Counter(bar.colour for bars in found.bars.values() for bar in bars)
    said = ", ".join(f"{count:,} {colour}" for colour, count in sorted(kinds.items()))
    yield _row("bars at the edge", _pictures(len(found.bars)) + (f", bars: {said}" if said else ""))
    yield from _listed(
        [
            f"{_called(found, number)}: "
            + ", ".join(f"{bar.colour} {bar.edge} {bar.width * found.resolution:.0f} px" for bar in bars)
            for number, bars in found.bars.items()
        ]
    )


def _padding(found: Findings) -> Iterator[str]:
    padding = found.padding
    if padding is None or not len(padding.known):
        yield _row("padding", "not known: the file has neither photos/inside nor photos/quad")
        return
    known = padding.known
    least = "" if padding.exact else "at least "
    some = f"{least}{(known > 0).sum():,} of {len(known):,} pictures, {least}{known.mean():.1%} of their area"
    yield _row("padding", some)
    if not padding.exact:
        yield "  beyond the left and the upper edge of the photos; their sizes are not in the file, so that"
        yield "  what lies beyond the right and the lower edge is not known"
    if known.any():
        shares = " ".join(f"{name} {share:.1%}" for name, share in _percentiles(known))
        yield f"  {shares}"
    yield from _listed([f"{_called(found, n)}: {least}{padding.shares[n]:.1%}" for n in padding.worst()])


def _percentiles(known: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Iterator[tuple[str, float]]:
    for name, share in (("median", 50), ("90 %", 90), ("99 %", 99), ("most", 100)):
        yield name, float(np.percentile(known, share))


def _scores(found: Findings) -> Iterator[str]:
    known = found.known_scores
    if not len(known):
        yield _row("scores", "not known: the file has no photos/score")
        return
    low, middle, high = np.percentile(known, [0, 50, 100])
    without = f", {found.count - len(known):,} without" if len(known) < found.count else ""
    yield _row("scores", f"{low:.4f} to {high:.4f}, median {middle:.4f}{without}")
    yield from histogram_lines(known)


def _row(what: str, said: str) -> str:
    return f"{what:18}{said}"


def _groups(groups: int, extra: int) -> str:
    if not groups:
        return "none"
    return f"{groups:,} group{'s' * (groups != 1)}, {_pictures(extra)} besides the first of each"


def _pictures(count: int) -> str:
    return f"{count:,} picture{'s' * (count != 1)}" if count else "none"


def _listed(items: Sequence[str]) -> Iterator[str]:
    for item in items[:NAMED]:
        yield f"  {item}"
    if len(items) > NAMED:
        yield f"  and {len(items) - NAMED:,} more"


def _called(found: Findings, number: int) -> str:
    """Return a picture's number, and what the file calls it."""
    name = found.tiles[number].name
    return f"{number} [{name}]" if name else str(number)
