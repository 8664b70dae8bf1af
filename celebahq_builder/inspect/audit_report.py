"""The audit of an HDF5 file and its report: text, JSON and an HTML page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.hdf5.chunks import LevelReader
from celebahq_builder.hdf5.reader import open_pyramid
from celebahq_builder.html import charts, render_page
from celebahq_builder.html.thumbnails import of_pixels
from celebahq_builder.inspect.audit import Findings, scan
from celebahq_builder.inspect.borders import BorderBar
from celebahq_builder.inspect.contact_sheet import PageImage
from celebahq_builder.inspect.duplicates import DISTANCE, LIKENESS
from celebahq_builder.inspect.info import histogram_lines, score_summary
from celebahq_builder.storage import check_writable, delete_partial_of, holds, new_files, read_json, write_atomic

JSON, PAGE = "audit.json", "index.html"


def audit(file: Path, out: Path) -> list[str]:
    """Audit an HDF5 file, and return the report as lines of text.

    All findings are written to ``audit.json``, and a page with the images to ``index.html``. The HDF5 file is not
    changed. Near-duplicates and bars are candidates: a person decides about them on the page.

    Args:
        file: a multi-resolution file of this package or of the ProGAN authors' tool.
        out: folder to create for both files. It may be empty, or hold an earlier audit of the same file, which is
            replaced.

    Raises:
        FormatError: the file has another format or is damaged, or the folder holds anything else.
        DiskFull: no space left.
    """
    is_again = _check_folder(file, out)
    check_writable(out / JSON)
    with open_pyramid(file) as pyramid:
        found = scan(file, pyramid)
    drawn = page(found, LevelReader(file, min(SIDE_PX, found.resolution)))
    values = {"path": str(file.absolute()), **found.to_json()}
    listed = (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
    with new_files() as written:
        write = write_atomic if is_again else written.write
        write(out / JSON, listed)
        write(out / PAGE, drawn)
    return list(lines(found))


def _check_folder(file: Path, out: Path) -> bool:
    """Check that a folder is new, empty or of an earlier audit of the same file; return whether it is the last.

    Raises:
        FormatError: it is something else, in which nothing is written.
    """
    if out.exists() and not out.is_dir():
        raise FormatError(f"{out} is a file; give a folder for {JSON} and {PAGE} as `out`")
    for name in (JSON, PAGE):
        delete_partial_of(out / name)
    if not out.exists() or not any(out.iterdir()):
        return False
    if not holds(out / JSON, {"path", "images", "same"}):
        raise FormatError(f"{out} exists and is not the folder of an audit; choose another `out`")
    audited = read_json(out / JSON)["path"]
    if audited != str(file.absolute()):
        raise FormatError(f"{out} holds the audit of {audited}; choose another `out`")
    return True


# --- Text -------------------------------------------------------------------------------------------------------

NAMED = 10
"""Groups or images of each kind that are listed; the JSON file has all."""


def lines(found: Findings) -> Iterator[str]:
    """Yield one line for each kind of finding, and below it the first findings."""
    yield f"{printable(found.file)}: {found.count:,} images of {found.resolution}x{found.resolution}"
    by = "by the SHA-256 in the file" if found.hashes_recorded else "byte by byte"
    yield _row("duplicates", f"{_groups(len(found.same), found.same_extra)}; {by}")
    yield from _listed([" = ".join(_name(found, number) for number in group) for group in found.same])
    yield from _near(found)
    yield _row("one colour", _images(len(found.one_colour)))
    yield from _listed([_name(found, number) for number in found.one_colour])
    yield from _bars(found)
    yield from _padding(found)
    if len(found.known_scores) and found.scores is not None:
        yield _row("scores", score_summary(found.scores))
        yield from histogram_lines(found.known_scores)
    else:
        yield _row("scores", "not known: the file has no photos/score")


def _near(found: Findings) -> Iterator[str]:
    if found.near is None:
        yield _row("near-duplicates", "not known: the images are too small for a perceptual hash, 16x16 at least")
        return
    mirrored = sum(copy.mirrored for group in found.near for copy in group)
    of_these = f", {mirrored:,} mirrored" if mirrored else ""
    yield _row("near-duplicates", _groups(len(found.near), found.near_extra) + of_these)
    yield from _listed(
        [
            " ~ ".join([_name(found, first.number), *(f"{_name(found, one.number)} ({one.words})" for one in others)])
            for first, *others in found.near
        ]
    )


def _bars(found: Findings) -> Iterator[str]:
    if found.bars is None:
        yield _row("bars at the edge", "not known: the images are too small, 32x32 at least")
        return
    kinds = Counter(bar.colour for bars in found.bars.values() for bar in bars)
    counts = ", ".join(f"{count:,} {colour}" for colour, count in sorted(kinds.items()))
    yield _row("bars at the edge", _images(len(found.bars)) + (f", bars: {counts}" if counts else ""))
    yield from _listed(
        [f"{_name(found, number)}: {_bar_words(bars, found.resolution)}" for number, bars in found.bars.items()]
    )


def _padding(found: Findings) -> Iterator[str]:
    padding = found.padding
    if padding is None or not len(padding.known):
        yield _row("padding", "not known: the file has neither photos/inside nor photos/quad")
        return
    known, least = padding.known, _least(found)
    padded = f"{least}{(known > 0).sum():,} of {len(known):,} images"
    yield _row("padding", f"{padded}, {least}{known.mean():.1%} of their area")
    if not padding.exact:
        yield "  lower bounds: the file does not have the sizes of the photos, so only padding to the left of and above"
        yield "  the photos is counted"
    if known.any():
        shares = np.percentile(known, [50, 90, 99, 100])
        names = ("median", "90th percentile", "99th percentile", "largest")
        yield "  " + ", ".join(f"{name} {share:.1%}" for name, share in zip(names, shares, strict=True))
    yield from _listed([f"{_name(found, n)}: {least}{padding.shares[n]:.1%}" for n in padding.worst()])


def _row(title: str, text: str) -> str:
    return f"{title:18}{text}"


def _groups(groups: int, extra: int) -> str:
    if not groups:
        return "none"
    return f"{groups:,} group{'s' * (groups != 1)}, {_images(extra)} without the first of each"


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}" if count else "none"


def _listed(items: Sequence[str]) -> Iterator[str]:
    yield from (f"  {item}" for item in items[:NAMED])
    if len(items) > NAMED:
        yield f"  and {len(items) - NAMED:,} more"


def _name(found: Findings, number: int) -> str:
    """Return the number of an image, and its name in the file if it has one."""
    name = found.tiles[number].name
    return f"{number} [{name}]" if name else str(number)


def _bar_words(bars: Sequence[BorderBar], resolution: int) -> str:
    return ", ".join(f"{bar.colour} {bar.edge} {bar.width * resolution:.0f} px" for bar in bars)


def _least(found: Findings) -> str:
    return "" if found.padding is None or found.padding.exact else "at least "


# --- Page -------------------------------------------------------------------------------------------------------

SIDE_PX = 256
"""Resolution of the largest level that is shown."""

GROUPS, MEMBERS = 40, 6
"""Groups on the page, and images of each group; the JSON file has all."""

SHEET = 48
"""Images of a sheet."""

JPEG_QUALITY = 85

Captioned = Sequence[tuple[int, str]]
"""Image numbers and remarks."""


def page(found: Findings, level: LevelReader) -> bytes:
    """Return the page, with images of a level; equal findings make equal pages."""

    def sheet(images: Captioned, most: int, anchor: str = "", title: str = "", words: str = "") -> dict[str, object]:
        shown = [
            PageImage(found.tiles[number], of_pixels(level.read([number])[0], JPEG_QUALITY), remark)
            for number, remark in images[:most]
        ]
        return {"images": shown, "left": len(images[most:]), "anchor": anchor, "title": title, "words": words}

    padding = found.padding
    bars = [(number, _bar_words(bars, found.resolution)) for number, bars in (found.bars or {}).items()]
    padded = [(n, f"{_least(found)}{padding.shares[n]:.1%}") for n in padding.worst()] if padding else []
    near = [
        [(first.number, "compared with this one"), *((copy.number, copy.words) for copy in others)]
        for first, *others in (found.near or [])[:GROUPS]
    ]
    kinds: list[tuple[Captioned, str, str, str]] = [
        (bars, "bars", "Bars at the edge", "Lines of one colour along an edge, with a sharp border to the image."),
        ([(n, "") for n in found.one_colour], "one-colour", "Images of one colour", "These images have no content."),
        (padded, "padded", "Most padding", "The caption has the share of the image that lies outside its photo."),
    ]
    sheets = [sheet(images, SHEET, *titles) for images, *titles in kinds if images]
    return render_page(
        "audit.html.j2",
        {
            "found": found,
            "limits": {"distance": DISTANCE, "likeness": LIKENESS},
            "file": printable(found.file),
            "level": level.resolution,
            "counts": {
                "duplicates": found.same_extra,
                "near-duplicates": found.near_extra if found.near is not None else None,
                "bars": len(found.bars) if found.bars is not None else None,
                "one colour": len(found.one_colour),
                "padded": int((padding.known > 0).sum()) if padding else None,
            },
            "same": [sheet([(n, "") for n in group], MEMBERS) for group in found.same[:GROUPS]],
            "near": [sheet(group, MEMBERS) for group in near],
            "sheets": sheets,
            "sheet_links": [(one["anchor"], one["title"], True) for one in sheets],
            "scores": charts.histogram(found.known_scores.tolist(), [], None, "images"),
            "padding": charts.histogram(padding.known.tolist(), [], None, "images") if padding else None,
            "known_padding": padding.known.mean() if padding and len(padding.known) else None,
        },
    )
