"""The report of an audit: text, JSON and an HTML page."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.hdf5.chunks import LevelReader
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.html import charts
from celebahq_builder.html.page import render_page
from celebahq_builder.html.thumbnails import Thumbnail
from celebahq_builder.imaging.image_io import encode_jpeg
from celebahq_builder.inspect.audit.duplicates import DISTANCE, LIKENESS
from celebahq_builder.inspect.audit.scan import Findings, Limits, scan
from celebahq_builder.inspect.info import histogram_lines
from celebahq_builder.storage import NewFiles, check_free, check_writable, new_files

NAMED = 10
"""Groups or images that a line each is spent on; the JSON file has all."""


def lines(found: Findings) -> Iterator[str]:
    """Yield what was found: a line for each kind, and the first of each."""
    side = f"{found.resolution}x{found.resolution}"
    yield f"{printable(found.file)}: {found.count:,} images of {side}"
    yield from _same(found)
    yield from _near(found)
    yield _row("one colour", _images(len(found.one_colour)))
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
        yield _row("nearly the same", "not known: the images are too small for a perceptual hash, 16x16 at least")
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
        yield _row("bars at the edge", "not known: the images are too small, 32x32 at least")
        return
    kinds = Counter(bar.colour for bars in found.bars.values() for bar in bars)
    said = ", ".join(f"{count:,} {colour}" for colour, count in sorted(kinds.items()))
    yield _row("bars at the edge", _images(len(found.bars)) + (f", bars: {said}" if said else ""))
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
    some = f"{least}{(known > 0).sum():,} of {len(known):,} images, {least}{known.mean():.1%} of their area"
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
    return f"{groups:,} group{'s' * (groups != 1)}, {_images(extra)} besides the first of each"


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}" if count else "none"


def _listed(items: Sequence[str]) -> Iterator[str]:
    for item in items[:NAMED]:
        yield f"  {item}"
    if len(items) > NAMED:
        yield f"  and {len(items) - NAMED:,} more"


def _called(found: Findings, number: int) -> str:
    """Return an image's number, and what the file calls it."""
    name = found.tiles[number].name
    return f"{number} [{name}]" if name else str(number)


SIDE_PX = 256
"""Of the largest level that is shown."""

GROUPS, MEMBERS = 40, 6
"""Groups on the page, and images of each; the JSON file has all."""

SHEET = 48
"""Images on a sheet."""

QUALITY = 85
"""Of JPEG."""


@dataclass(frozen=True)
class AuditImage:
    """An image and what is said of it."""

    number: int
    name: str
    score: str
    words: str
    """What was found."""
    thumbnail: Thumbnail


@dataclass(frozen=True)
class AuditRow:
    """Images of one group."""

    images: list[AuditImage]
    left: int
    """Images of the group that are not shown."""


@dataclass(frozen=True)
class AuditGrid:
    """Images with one fault, those of a kind."""

    anchor: str
    title: str
    words: str
    images: list[AuditImage]
    left: int


def page(found: Findings, level: LevelReader) -> bytes:
    """Return the page; equal findings make equal pages.

    Args:
        level: to show images from.
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
        "sheets": (sheets := list(filter(None, _sheets(found, shown)))),
        "sheet_links": [(sheet.anchor, sheet.title, True) for sheet in sheets],
        "groups": GROUPS,
        "scores": charts.histogram(found.known_scores.tolist(), [], None, "images"),
        "padding": charts.histogram(found.padding.known.tolist(), [], None, "images") if found.padding else None,
        "known_padding": found.padding.known.mean() if found.padding and len(found.padding.known) else None,
    }
    return render_page("audit.html.j2", contents)


class _Shown:
    """Images of a level, with what is known of them."""

    def __init__(self, found: Findings, level: LevelReader) -> None:
        self.found, self.level = found, level

    def row(self, members: Sequence[tuple[int, str]]) -> AuditRow:
        return AuditRow([self.image(*one) for one in members[:MEMBERS]], len(members[MEMBERS:]))

    def image(self, number: int, words: str) -> AuditImage:
        tile, side = self.found.tiles[number], self.level.resolution
        rgb = np.broadcast_to(self.level.read([number])[0], (3, side, side))
        data = base64.b64encode(encode_jpeg(rgb, QUALITY)).decode("ascii")
        thumbnail = Thumbnail(f"data:image/jpeg;base64,{data}", side, side)
        return AuditImage(number, tile.name, tile.score_text, words, thumbnail)

    def sheet(self, anchor: str, title: str, words: str, some: Sequence[tuple[int, str]]) -> AuditGrid | None:
        if not some:
            return None
        return AuditGrid(anchor, title, words, [self.image(*one) for one in some[:SHEET]], len(some[SHEET:]))


def _sheets(found: Findings, shown: _Shown) -> list[AuditGrid | None]:
    bars = [
        (number, ", ".join(f"{bar.colour} {bar.edge} {bar.width * found.resolution:.0f} px" for bar in all_of_it))
        for number, all_of_it in (found.bars or {}).items()
    ]
    padding = found.padding
    least = "" if padding is None or padding.exact else "at least "
    worst = [(number, f"{least}{padding.shares[number]:.1%}") for number in padding.worst()] if padding else []
    return [
        shown.sheet(
            "bars", "Bars at the edge", "Lines of one colour along an edge, where the image begins at once.", bars
        ),
        shown.sheet(
            "one-colour", "Of one colour", "Nothing is to be seen on them.", [(n, "") for n in found.one_colour]
        ),
        shown.sheet("padded", "Most padding", "The share of an image that lay outside its photo.", worst),
    ]


JSON, PAGE = "audit.json", "index.html"


def audit(
    file: Path,
    out: Path,
    *,
    distance: int = DISTANCE,
    likeness: float = LIKENESS,
    threads: int | None = None,
    files: NewFiles | None = None,
) -> list[str]:
    """Look for what is wrong with a data set, and return the table of it in lines of text.

    Writes ``audit.json`` with all that was found and ``index.html`` with the images. Nothing is altered, and nothing
    is judged by its looks alone: what is nearly the same, or has a bar, is for people to see on the page.

    Args:
        file: of all levels, this project's or the ProGAN authors' tool's.
        out: folder for both files, neither of which may be there; made where it is not.
        distance: bits of 255 in which the hashes of two images that are nearly the same may differ.
        likeness: correlation, from -1 to 1, that such two must have besides.
        threads: that decompress; None for one per core.
        files: other files that are made together with these, all or none; None for these two alone.

    Raises:
        FormatError: the file is not such a one or damaged, or a result is there already.
        DiskFull: no space left.
    """
    if out.exists() and not out.is_dir():
        raise FormatError(f"{out} is a file; give a folder for {JSON} and {PAGE} as --out")
    for name in (JSON, PAGE):
        check_free(out / name)
        check_writable(out / name)
    with PyramidFile.with_images(file) as pyramid:
        found = scan(file, pyramid, Limits(distance, likeness), threads)
    drawn = page(found, LevelReader(file, min(SIDE_PX, found.resolution), threads))
    with new_files(files) as written:
        written.write(out / JSON, (json.dumps(found.mapping(), indent=1, ensure_ascii=False) + "\n").encode())
        written.write(out / PAGE, drawn)
    return [*lines(found), f"{out / PAGE} shows the images, {out / JSON} names them all"]
