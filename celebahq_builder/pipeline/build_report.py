"""The HTML report of a build."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from celebahq_builder.config import flatten
from celebahq_builder.html import charts, render_page
from celebahq_builder.outcome import Failed, Reason, Rejected
from celebahq_builder.pipeline import report_images
from celebahq_builder.pipeline.landmark_source import landmark_section
from celebahq_builder.pipeline.results import TABLE, PhotoStatus, photo_statuses
from celebahq_builder.pipeline.state import RunDescription, RunState
from celebahq_builder.pipeline.timings import read_timings
from celebahq_builder.pipeline.workspace import Workspace
from celebahq_builder.storage import write_atomic


@dataclass(frozen=True)
class StageCount:
    """Counts of the photos that entered a stage."""

    names: tuple[str, ...]
    """The stage, and before it those that keep nothing on disk and so are counted with it."""
    entered: int
    kept: int
    rejected: int
    failed: int


def stage_counts(run: RunDescription, state: RunState, statuses: Iterable[PhotoStatus]) -> list[StageCount]:
    """Return the counts of the landmark table and of each complete stage, in order."""
    ends = Counter((one.stage, isinstance(one.end, Failed)) for one in statuses)
    entered, counts, before = ends.total(), [], 0
    for name in (TABLE, *run.stages):
        mark = state.stage(name).mark
        if name != TABLE and mark is None:
            continue
        names: tuple[str, ...] = (name,)
        if name in run.photo_stages:
            own = run.photo_stages.index(name) + 1
            names, before = tuple(run.photo_stages[before:own]), own
        rejected, failed = ends[name, False], ends[name, True]
        kept = mark.kept if mark and name == "pack" else entered - rejected - failed
        counts.append(StageCount(names, entered, kept, rejected, failed))
        entered = kept
    return counts


NOTES = {
    "grey": "greyscale, made RGB",
    "palette": "palette, made RGB",
    "cmyk": "CMYK, made RGB",
    "alpha": "transparency, laid over white",
    "16-bit": "16 bits per channel, scaled to 8",
    "exif-orientation": "EXIF orientation, not applied: landmarks are those of the stored image",
}
"""The decoder's notes in words."""


@dataclass(frozen=True)
class File:
    """A file of the run, and its address relative to the page."""

    name: str
    size_bytes: int
    link: str


@dataclass(frozen=True)
class Share:
    """A number of photos, and their share of all photos."""

    name: str
    words: str
    count: int
    share: float


def write_build_report(workspace: Workspace) -> None:
    """Write the report of a run from the content of its directory.

    Equal directories give equal pages. A photo of the source or an image that is missing costs only its thumbnail.

    Raises:
        WorkspaceError: the directory holds no run, or was changed.
        DiskFull: no space left.
    """
    write_atomic(workspace.report_path, render_page("build.html.j2", _contents(workspace)))


def _contents(workspace: Workspace) -> dict[str, object]:
    """Return the values that the template shows, in its order."""
    run, statuses = workspace.run(), photo_statuses(workspace)
    images = report_images.ReportImages(workspace, run)
    kept = _best_first([one for one in statuses if one.end is None])
    low = _best_first([one for one in statuses if _is_low(one)])
    failed = [one for one in statuses if isinstance(one.end, Failed)]
    rejected = [one for one in statuses if isinstance(one.end, Rejected) and not _is_low(one)]
    left_out = [*failed, *sorted(rejected, key=_reason_order), *low[report_images.SHEET :]]
    rows = images.rows(left_out[: report_images.ROWS])
    return {
        "run": run,
        "photos": run.photos + len(run.rejected_by_table),
        "counts": {"kept": len(kept), "rejected": len(rejected) + len(low), "failed": len(failed)},
        "result": _file(workspace, workspace.hdf5_path(run.resolution)),
        "selection": _file(workspace, workspace.selection_path),
        "rejections": _file(workspace, workspace.rejected_path),
        "stages": stage_counts(run, workspace.read_state(), statuses),
        "reasons": _reasons(statuses),
        "notes": _notes(statuses),
        "landmarks": landmark_section(workspace, Path(run.source)),
        "examples": images.examples(statuses),
        "scores": _histogram(kept, low, "score", cut=kept[-1].score if kept and low else None),
        "zooms": _histogram(kept, low, "zoom"),
        "sheets": images.sheets(kept, low),
        "spectra": images.spectra(_best_first([one for one in (*kept, *low) if one.score is not None])),
        "low_shown": bool(low),
        "rows": rows,
        "rows_left": len(left_out) - len(rows),
        "thumbnails_end": len(rows) > report_images.ROW_THUMBNAILS == sum(row.thumbnail is not None for row in rows),
        "timings": read_timings(workspace.timings_path),
        "settings": _settings(run),
        "row_thumbnails": report_images.ROW_THUMBNAILS,
    }


def _is_low(one: PhotoStatus) -> bool:
    return isinstance(one.end, Rejected) and one.end.reason is Reason.LOW_SCORE


def _reason_order(one: PhotoStatus) -> int:
    return list(Reason).index(one.end.reason) if isinstance(one.end, Rejected) else -1


def _best_first(photos: list[PhotoStatus]) -> list[PhotoStatus]:
    """Return photos as `stages.select` ranks them; those without a score, of an unfinished run, last."""
    return sorted(photos, key=lambda one: (-(one.score or 0.0), one.id))


def _file(workspace: Workspace, path: Path) -> File | None:
    return File(path.name, path.stat().st_size, report_images.link(workspace, path)) if path.is_file() else None


def _reasons(statuses: Sequence[PhotoStatus]) -> list[Share]:
    """Return the number of photos by reason, the most frequent reason first; errors last."""
    counts = Counter(one.end.reason for one in statuses if isinstance(one.end, Rejected))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shares = [Share(reason.value, reason.describe, count, count / len(statuses)) for reason, count in ranked]
    failed = sum(isinstance(one.end, Failed) for one in statuses)
    if failed:
        shares.append(Share("failed", "an error that no reason covers", failed, failed / len(statuses)))
    return shares


def _notes(statuses: Sequence[PhotoStatus]) -> list[Share]:
    counts = Counter(note for one in statuses for note in one.notes)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [Share(note, NOTES.get(note, note), count, count / len(statuses)) for note, count in ranked]


def _histogram(
    kept: Sequence[PhotoStatus], low: Sequence[PhotoStatus], name: str, cut: float | None = None
) -> charts.Histogram | None:
    """Return the histogram of a number that all scored photos have."""
    inside, outside = ([getattr(one, name) for one in some if one.score is not None] for some in (kept, low))
    return charts.histogram(inside, outside, cut)


def _settings(run: RunDescription) -> list[tuple[str, str, str]]:
    """Return name, value and origin of every setting."""
    return [
        (name, json.dumps(value, ensure_ascii=False), run.origins.get(name, "default"))
        for name, value in flatten(run.recipe).items()
    ]
