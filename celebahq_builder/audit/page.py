"""Findings as a page of pictures: groups side by side, most padding, bars; without scripts or links to elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from celebahq_builder.audit.findings import Findings
from celebahq_builder.formats.level import Level
from celebahq_builder.formats.printable import printable
from celebahq_builder.imaging.codec import encode_jpeg
from celebahq_builder.report import charts
from celebahq_builder.report.template import render
from celebahq_builder.report.thumbnails import Thumbnail

SIDE_PX = 256
"""Of the largest level that is shown."""

GROUPS, MEMBERS = 40, 6
"""Groups on the page, and pictures of each; the JSON file has all."""

SHEET = 48
"""Pictures on a sheet."""

QUALITY = 85
"""Of JPEG."""


@dataclass(frozen=True)
class Pictured:
    """A picture and what is said of it."""

    number: int
    name: str
    score: str
    words: str
    """What was found."""
    thumbnail: Thumbnail


@dataclass(frozen=True)
class Row:
    """Pictures of one group."""

    pictures: list[Pictured]
    left: int
    """Pictures of the group that are not shown."""


@dataclass(frozen=True)
class Sheet:
    """Pictures with one fault, those of a kind."""

    anchor: str
    title: str
    words: str
    pictures: list[Pictured]
    left: int


def page(found: Findings, level: Level) -> bytes:
    """Return the page; equal findings make equal pages.

    Args:
        level: to show pictures from.
    """
    shown = _Shown(found, level)
    padded = int((found.padding.known > 0).sum()) if found.padding else 0
    contents: dict[str, Any] = {
        "found": found,
        "file": printable(found.file),
        "level": level.resolution,
        "counts": {
            "the same": found.same_extra,
            "nearly the same": found.near_extra if found.near is not None else None,
            "bars": len(found.bars) if found.bars is not None else None,
            "one colour": len(found.one_colour),
            "padded": padded if found.padding else None,
        },
        "same": [shown.row([(n, "") for n in group]) for group in found.same[:GROUPS]],
        "near": [
            shown.row([(copy.number, "compared with this one" if copy is group[0] else copy.words) for copy in group])
            for group in (found.near or [])[:GROUPS]
        ],
        "sheets": list(filter(None, _sheets(found, shown))),
        "groups": GROUPS,
        "scores": charts.histogram(found.known_scores.tolist(), [], None, "pictures"),
        "padding": charts.histogram(found.padding.known.tolist(), [], None, "pictures") if found.padding else None,
        "known_padding": found.padding.known.mean() if found.padding and len(found.padding.known) else None,
    }
    return render("celebahq_builder.audit", "audit.html.j2", contents)


class _Shown:
    """Pictures of a level, with what is known of them."""

    def __init__(self, found: Findings, level: Level) -> None:
        self.found, self.level = found, level

    def row(self, members: Sequence[tuple[int, str]]) -> Row:
        return Row([self.picture(*one) for one in members[:MEMBERS]], len(members[MEMBERS:]))

    def picture(self, number: int, words: str) -> Pictured:
        tile, side = self.found.tiles[number], self.level.resolution
        rgb = np.broadcast_to(self.level.read([number])[0], (3, side, side))
        data = base64.b64encode(encode_jpeg(rgb, QUALITY)).decode("ascii")
        thumbnail = Thumbnail(f"data:image/jpeg;base64,{data}", side, side)
        return Pictured(number, tile.name, tile.score_text, words, thumbnail)

    def sheet(self, anchor: str, title: str, words: str, some: Sequence[tuple[int, str]]) -> Sheet | None:
        if not some:
            return None
        return Sheet(anchor, title, words, [self.picture(*one) for one in some[:SHEET]], len(some[SHEET:]))


def _sheets(found: Findings, shown: _Shown) -> list[Sheet | None]:
    bars = [
        (number, ", ".join(f"{bar.colour} {bar.edge} {bar.width * found.resolution:.0f} px" for bar in all_of_it))
        for number, all_of_it in (found.bars or {}).items()
    ]
    padding = found.padding
    least = "" if padding is None or padding.exact else "at least "
    worst = [(number, f"{least}{padding.shares[number]:.1%}") for number in padding.worst()] if padding else []
    return [
        shown.sheet(
            "bars", "Bars at the edge", "Lines of one colour along an edge, where the picture begins at once.", bars
        ),
        shown.sheet(
            "one-colour", "Of one colour", "Nothing is to be seen on them.", [(n, "") for n in found.one_colour]
        ),
        shown.sheet("padded", "Most padding", "The share of a picture that lay outside its photo.", worst),
    ]
