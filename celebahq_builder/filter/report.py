"""Report of a filtered folder: the HTML page and the closing lines of the command."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from celebahq_builder.errors import printable
from celebahq_builder.filter.deliver import Delivery, DeliveryMode
from celebahq_builder.filter.listing import SUFFIXES, SkippedFiles
from celebahq_builder.filter.store import SCORE_PARTS, SIDE_PX, ImageScore, UnscoredImage
from celebahq_builder.html import charts, link, render_page, thumbnails
from celebahq_builder.outcome import counted, most_frequent_first
from celebahq_builder.storage import write_atomic

SHEET_IMAGES = 24
"""Images on a contact sheet."""

THUMBNAIL_PX = 160

UNSCORED_ROWS = 5000
"""Rows in the list of images without a score."""

LINES_MAX = 5
"""Images, files of a reason, suffixes and other names that the closing lines name each."""


@dataclass(frozen=True)
class FilterResult:
    """The result of filtering a folder."""

    folder: Path
    ranked: Sequence[ImageScore]
    """Images that have a score, best first."""
    kept: int
    """Number of them that are kept."""
    selection: str
    """The selection in words; empty if all are kept."""
    unscored: Sequence[UnscoredImage]
    table_path: Path
    page_path: Path
    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    list_path: Path | None = None
    delivery: Delivery | None = None

    @property
    def images(self) -> int:
        """Number of image files, with and without a score."""
        return len(self.ranked) + len(self.unscored)

    @property
    def has_errors(self) -> bool:
        """True if an image could not be delivered, or an earlier file could not be removed."""
        return self.delivery is not None and bool(self.delivery.errors or self.delivery.prune_errors)

    def lines(self) -> Iterator[str]:
        """Yield the closing lines of the command."""
        yield from _count_lines(self)
        yield from _unscored_lines(self)
        yield from _skipped_lines(self.skipped)
        if self.delivery:
            yield from _delivery_lines(self.delivery)


# --- The closing lines --------------------------------------------------------------------------------------------


def _count_lines(result: FilterResult) -> Iterator[str]:
    ranked, kept = result.ranked, result.kept
    rejected, unscored = len(ranked) - kept, len(result.unscored)
    yield f"{result.images} images: {kept} kept + {rejected} below the cut + {unscored} without a score"
    if not ranked:
        return
    scores = [image.score for image in ranked]
    last = f"; the last one kept has {scores[kept - 1]:.4f} ({result.selection})" if result.selection and kept else ""
    yield f"score:  {scores[0]:.4f} best, {statistics.median(scores):.4f} median, {scores[-1]:.4f} worst{last}"
    for name, images in (("best:", ranked[:LINES_MAX]), ("worst:", ranked[LINES_MAX:][-LINES_MAX:])):
        if images:
            yield f"{name:<7} " + ", ".join(f"{printable(image.path)} {image.score:.4f}" for image in images)


def _unscored_lines(result: FilterResult) -> Iterator[str]:
    by_reason: dict[str, list[UnscoredImage]] = {}
    for image in result.unscored:
        by_reason.setdefault(image.code, []).append(image)
    for code, images in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        yield f"  {code}: {len(images)}: {images[0].description}"
        for image in images[:LINES_MAX]:
            yield f"    {printable(image.path)}: {printable(image.detail)}"
        if len(images) > LINES_MAX:
            yield f"    ... and {len(images) - LINES_MAX} more: see {printable(str(result.table_path))}"


def _skipped_lines(skipped: SkippedFiles) -> Iterator[str]:
    parts = []
    if skipped.suffixes:
        named = [f"{count} {suffix or 'without a suffix'}" for suffix, count in most_frequent_first(skipped.suffixes)]
        parts.append(f"{counted(skipped.suffixes.total(), 'other file')} ({_join_names(named)})")
    if skipped.hidden:
        parts.append(f"{skipped.hidden} hidden")
    for kind, paths in (("linked folder", skipped.linked_folders), ("output folder", skipped.excluded)):
        if paths:
            parts.append(f"{counted(len(paths), kind)} ({_join_names(paths)})")
    if parts:
        yield f"skipped: {', '.join(parts)}"


def _delivery_lines(delivery: Delivery) -> Iterator[str]:
    done = delivery.mode.done
    notes = [f"{count} were there already"] if (count := len(delivery.paths) - len(delivery.remaining)) else []
    if delivery.mode is DeliveryMode.LINK:
        count = sum((delivery.out / path).is_symlink() for path in delivery.paths)
        notes += [f"{count} are symbolic links, because hard links are not possible there"] if count else []
    more = f" ({'; '.join(notes)})" if notes else ""
    yield f"{done}: {len(delivery.remaining) - len(delivery.errors)} to {printable(str(delivery.out))}{more}"
    yield from (f"  not {done}: {printable(path)}: {error}" for path, error in delivery.errors)
    if delivery.stale:
        yield f"removed: {len(delivery.stale) - len(delivery.prune_errors)} of an earlier command"
    yield from (f"  not removed: {printable(path)}: {error}" for path, error in delivery.prune_errors)
    if changed := delivery.changed:
        yield f"left there: {len(changed)} of an earlier command, changed since ({_join_names(changed)})"


def _join_names(names: Sequence[str]) -> str:
    return ", ".join([*map(printable, names[:LINES_MAX]), *(["..."] if len(names) > LINES_MAX else [])])


# --- The page -----------------------------------------------------------------------------------------------------


def write_page(result: FilterResult) -> None:
    """Write the HTML page; equal results give equal bytes."""
    write_atomic(result.page_path, render_page("filter.html.j2", _variables(result)))


def _variables(result: FilterResult) -> dict[str, object]:
    ranked, unscored, skipped = result.ranked, result.unscored, result.skipped
    reasons = Counter((image.description, image.code) for image in unscored)
    return {
        "name": printable(result.folder.resolve().name),
        "folder": printable(os.fspath(result.folder)),
        "selection": result.selection,
        "images": result.images,
        "counts": {
            "kept": result.kept,
            "below the cut": len(ranked) - result.kept,
            "without a score": len(unscored),
        },
        "table_link": link(result.table_path, result.page_path),
        "histograms": list(_histograms(result)),
        "sheets": list(_sheets(result)),
        "reasons": most_frequent_first(reasons),
        "rows": [
            (printable(image.path), image.description, image.code, printable(image.detail))
            for image in unscored[:UNSCORED_ROWS]
        ],
        "rows_left": len(unscored[UNSCORED_ROWS:]),
        "skipped": skipped,
        "skipped_suffixes": [(printable(suffix), count) for suffix, count in most_frequent_first(skipped.suffixes)],
        "linked_folders": list(map(printable, skipped.linked_folders)),
        "excluded": list(map(printable, skipped.excluded)),
        "suffixes": SUFFIXES,
        "side_px": SIDE_PX,
    }


def _histograms(result: FilterResult) -> Iterator[tuple[str, charts.Histogram]]:
    """Yield the histograms of the score and of its components; the first one marks the score of the last kept image."""
    has_cut = bool(result.selection) and 0 < result.kept < len(result.ranked)
    for index, name in enumerate(SCORE_PARTS):
        values = [image.parts[index] for image in result.ranked]
        cut = values[result.kept - 1] if has_cut and not index else None
        histogram = charts.histogram(values[: result.kept], values[result.kept :], cut, "images")
        if histogram:
            yield name, histogram


def _sheets(result: FilterResult) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Yield the contact sheets with their titles; of each image the thumbnail, its caption, and a link to the file."""
    kept, rejected = result.ranked[: result.kept], result.ranked[result.kept :]
    sheets: Sequence[tuple[str, Sequence[ImageScore]]]
    if rejected:
        sheets = (
            ("Best", kept[:SHEET_IMAGES]),
            ("Last of those kept", kept[SHEET_IMAGES:][-SHEET_IMAGES:]),
            ("First of those below the cut", rejected[:SHEET_IMAGES]),
            ("Worst", rejected[SHEET_IMAGES:][-SHEET_IMAGES:]),
        )
    else:
        rest = kept[SHEET_IMAGES:-SHEET_IMAGES]
        middle = max(len(rest) - SHEET_IMAGES, 0) // 2
        sheets = (
            ("Best", kept[:SHEET_IMAGES]),
            ("Middle", rest[middle:][:SHEET_IMAGES]),
            ("Worst", kept[SHEET_IMAGES:][-SHEET_IMAGES:]),
        )
    for title, images in sheets:
        if images:
            yield (
                title,
                [
                    {
                        "name": printable(image.path),
                        "score": f"{image.score:.3f}",
                        "thumbnail": thumbnails.of_centre(result.folder / image.path, THUMBNAIL_PX),
                        "link": link(result.folder / image.path, result.page_path),
                    }
                    for image in images
                ],
            )
