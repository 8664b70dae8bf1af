"""The HTML report: one page, without scripts or links to elsewhere, of what a run made and why it left photos out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celebahq_builder import ledger
from celebahq_builder.files import write_atomic
from celebahq_builder.ledger import Standing
from celebahq_builder.outcome import Failed, Reason, Rejected
from celebahq_builder.recipe import flatten
from celebahq_builder.report import charts, gallery, tally, template
from celebahq_builder.report.template import render
from celebahq_builder.workspace import Workspace

NOTES = {
    "grey": "greyscale, made RGB",
    "palette": "palette, made RGB",
    "cmyk": "CMYK, made RGB",
    "alpha": "transparency, laid over white",
    "16-bit": "16 bits per channel, scaled to 8",
    "exif-orientation": "EXIF orientation, not applied: landmarks are those of the stored picture",
}
"""The decoder's notes in words."""


@dataclass(frozen=True)
class File:
    """A file of the run, and where it lies relative to the page."""

    name: str
    size_bytes: int
    link: str


@dataclass(frozen=True)
class Share:
    """A count in words, and which part of all photos it is."""

    name: str
    words: str
    count: int
    share: float


def write(workspace: Workspace) -> None:
    """Write the report of a run from what its directory holds.

    Equal directories make equal pages. Photos of the source are shown where they still exist; the absence of one,
    or of any picture, costs only its thumbnail.

    Raises:
        WorkspaceError: the directory holds no run, or was altered.
        DiskFull: no space left.
    """
    write_atomic(workspace.report_path, render(template.HOUSE, "report.html.j2", _contents(workspace)))


def _contents(workspace: Workspace) -> dict[str, Any]:
    """Return all that the template shows, in its order."""
    run = workspace.run()
    stood = ledger.standings(workspace)
    kept = _best_first([one for one in stood if one.end is None])
    low = _best_first([one for one in stood if _is_low(one)])
    failed = [one for one in stood if isinstance(one.end, Failed)]
    rejected = sorted((one for one in stood if isinstance(one.end, Rejected) and not _is_low(one)), key=_reason_order)
    left_out = [*failed, *rejected, *low[gallery.SHEET :]]
    rows = gallery.rows(workspace, Path(run["source"]), left_out[: gallery.ROWS])
    return {
        "run": run,
        "photos": run["photos"] + len(run["rejected_by_table"]),
        "counts": {"kept": len(kept), "rejected": len(rejected) + len(low), "failed": len(failed)},
        "result": _file(workspace, workspace.hdf5_path(run["recipe"]["resolution"])),
        "selection": _file(workspace, workspace.selection_path),
        "rejections": _file(workspace, workspace.rejected_path),
        "stages": tally.stage_counts(workspace, stood),
        "reasons": _reasons(stood),
        "notes": _notes(stood),
        "examples": gallery.examples(workspace, stood),
        "scores": _histogram(kept, low, "score", cut=kept[-1].score if kept and low else None),
        "zooms": _histogram(kept, low, "zoom"),
        "sheets": list(gallery.sheets(workspace, kept, low)),
        "spectra": gallery.spectra(workspace, _best_first([one for one in (*kept, *low) if one.score is not None])),
        "low_shown": bool(low),
        "rows": rows,
        "rows_left": len(left_out) - len(rows),
        "thumbnails_end": len(rows) > gallery.ROW_THUMBNAILS == sum(row.thumbnail is not None for row in rows),
        "timings": tally.timings(workspace),
        "settings": _settings(run),
        "row_thumbnails": gallery.ROW_THUMBNAILS,
    }


def _is_low(one: Standing) -> bool:
    return isinstance(one.end, Rejected) and one.end.reason is Reason.LOW_SCORE


def _reason_order(one: Standing) -> int:
    return list(Reason).index(one.end.reason) if isinstance(one.end, Rejected) else -1


def _best_first(photos: list[Standing]) -> list[Standing]:
    """Return photos as `stages.select.best` ranks them; those without a score, of an unfinished run, last."""
    return sorted(photos, key=lambda one: (-(one.score or 0.0), one.id))


def _file(workspace: Workspace, path: Path) -> File | None:
    return File(path.name, path.stat().st_size, gallery.link(workspace, path)) if path.is_file() else None


def _reasons(stood: Sequence[Standing]) -> list[Share]:
    """Return how often each reason was met, the most frequent first; errors last."""
    counts = Counter(one.end.reason for one in stood if isinstance(one.end, Rejected))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shares = [Share(reason.value, reason.describe, count, count / len(stood)) for reason, count in ranked]
    failed = sum(isinstance(one.end, Failed) for one in stood)
    if failed:
        shares.append(Share("failed", "an error that no reason covers", failed, failed / len(stood)))
    return shares


def _notes(stood: Sequence[Standing]) -> list[Share]:
    counts = Counter(note for one in stood for note in one.notes)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [Share(note, NOTES.get(note, note), count, count / len(stood)) for note, count in ranked]


def _histogram(
    kept: Sequence[Standing], low: Sequence[Standing], name: str, cut: float | None = None
) -> charts.Histogram | None:
    """Return the histogram of a number that all scored photos have."""
    inside, outside = ([getattr(one, name) for one in some if one.score is not None] for some in (kept, low))
    return charts.histogram(inside, outside, cut)


def _settings(run: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, value and origin of every setting."""
    return [
        (name, json.dumps(value, ensure_ascii=False), run["origins"].get(name, "default"))
        for name, value in flatten(run["recipe"]).items()
    ]
