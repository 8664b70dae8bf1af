"""The HTML report of a build, also of one that is running: faces, counts, contact sheets, spectra, lists of photos.

The page holds thumbnails, so it can be read where its run directory is not. The aligned images are too large for that:
the page links to their files, and shows one in full size where the file is there.

The page is bounded for any number of photos: at most 556 images, and `ROWS` photos in each of two lists.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from celebahq_builder.config import flatten
from celebahq_builder.errors import printable
from celebahq_builder.html import charts, link, render_page
from celebahq_builder.outcome import Failed, Reason, Rejected, most_frequent_first
from celebahq_builder.pipeline import report_images
from celebahq_builder.pipeline.batch_job import BatchResult
from celebahq_builder.pipeline.landmark_source import landmark_section
from celebahq_builder.pipeline.report_images import PhotoImage, ReportImages
from celebahq_builder.pipeline.results import TABLE, PhotoStatus, PhotoStatuses, photo_statuses, read_statuses
from celebahq_builder.progress import Progress
from celebahq_builder.run_directory.state import RunDescription, RunState
from celebahq_builder.run_directory.timings import read_timings
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.storage import write_atomic

log = logging.getLogger(__name__)

NOTES = {
    "grey": "greyscale, made RGB",
    "palette": "palette, made RGB",
    "cmyk": "CMYK, made RGB",
    "alpha": "transparency, laid over white",
    "16-bit": "16 bits per channel, scaled to 8",
    "exif-orientation": "EXIF orientation, not applied: landmarks are those of the stored image",
}
"""The decoder's notes in words."""

FACES = 20
"""Faces at the top of the page."""

SMALL_RUN = 48
"""Largest number of kept faces of a run whose page shows all of them at the top, and nowhere else."""

FACES_SEED = 0

ROWS = 5000
"""Photos in the list of rejected and failed ones, and in that of the kept ones."""

ROW_THUMBNAILS = 300
"""Thumbnails in the list of rejected and failed photos."""

LIVE_THUMBNAILS = 24
"""The same while the build runs, because the page is written again and again."""

REFRESH_S = 60
"""Seconds after which a browser loads the page of a running build again."""

RATES_MAX = 60
"""Points of the curve of the throughput."""


@dataclass(frozen=True)
class BuildProgress:
    """Progress of a build that is running."""

    photos_per_s: float | None
    """Recent throughput of all workers; None while it is not known."""
    seconds_left: float | None
    """Estimated time until the last photo; None while it is not known."""


def write_build_report(
    workspace: Workspace, progress: BuildProgress | None = None, statuses: Sequence[PhotoStatus] | None = None
) -> None:
    """Write the report of a run from the content of its directory, also of a run that is not finished.

    Equal directories give equal pages. A photo of the source or an image that is missing costs only its thumbnail.

    Args:
        workspace: has a description of the run; any of its stages may be missing or incomplete.
        progress: of a build that is running: the page then shows the newest faces first and leaves out what takes
            long; browsers load it again every `REFRESH_S` seconds. None for a build that has ended or was interrupted.
        statuses: of all photos; None reads them from the manifests.

    Raises:
        WorkspaceError: the directory holds no run, or was changed.
        DiskFull: no space left.
    """
    contents = _contents(workspace, photo_statuses(workspace) if statuses is None else statuses, progress)
    write_atomic(workspace.report_path, render_page("build.html.j2", contents))


def _contents(
    workspace: Workspace, statuses: Sequence[PhotoStatus], progress: BuildProgress | None
) -> dict[str, object]:
    """Return the values that the template shows, in its order."""
    run, state = workspace.run(), workspace.read_state()
    images = ReportImages(workspace, run)
    kept = _best_first([one for one in statuses if one.end is None])
    low = _best_first([one for one in statuses if _is_low(one)])
    failed = [one for one in statuses if isinstance(one.end, Failed)]
    rejected = [one for one in statuses if isinstance(one.end, Rejected) and not _is_low(one)]
    left_out = [*failed, *sorted(rejected, key=_reason_order), *low[report_images.SHEET :]]
    thumbnails_max = LIVE_THUMBNAILS if progress else ROW_THUMBNAILS
    rows = images.rows(left_out[:ROWS], thumbnails_max)
    timings = read_timings(*workspace.timing_logs())
    finished = state.stage(run.until).mark is not None and len(statuses) == run.counts.items
    aligned = [one for one in kept if one.image]
    is_small = not progress and len(aligned) == len(kept) <= SMALL_RUN
    shown = _newest(aligned) if progress else aligned if is_small else _random(aligned)
    return {
        "run": run,
        "name": printable(workspace.root.resolve().name),
        "is_small": is_small,
        "counts": {"kept": len(kept), "rejected": len(rejected) + len(low), "failed": len(failed)},
        "progress": progress,
        "refresh_s": REFRESH_S if progress else None,
        "finished": finished,
        "result": _file(workspace, workspace.hdf5_path(run.resolution)) if workspace.is_packed() else None,
        # Before the end of a run that grows, these are the tables of the run before.
        "selection": _file(workspace, workspace.selection_path) if finished else None,
        "rejections": _file(workspace, workspace.rejected_path) if finished else None,
        "faces": images.faces(shown),
        "stages": stage_counts(run, state, statuses),
        "reasons": _reasons(statuses),
        "notes": _notes(statuses),
        "landmarks": landmark_section(workspace, Path(run.source)),
        "examples": [] if progress else images.examples(statuses),
        "scores": _histogram(kept, low, "score", f"{run.counts.unit}s", cut=kept[-1].score if kept and low else None),
        "zooms": _histogram(kept, low, "zoom", f"{run.counts.unit}s"),
        "sheets": [] if progress else images.sheets([] if is_small else kept, low),
        "spectra": []
        if progress
        else images.spectra(
            _best_first([one for one in (*kept, *low) if one.score is not None]), with_faces=not is_small
        ),
        "low_shown": bool(low),
        "rows": rows,
        "rows_left": len(left_out) - len(rows),
        "thumbnails_end": len(rows) > thumbnails_max == sum(row.thumbnail is not None for row in rows),
        "kept": [PhotoImage(one, None, images.link(one)) for one in kept[: 0 if is_small else ROWS]],
        "kept_left": len(kept[ROWS:]),
        "timings": timings,
        "throughput": _throughput(timings.batches, f"{run.counts.unit}s"),
        "settings": _settings(run, state),
        "row_thumbnails": thumbnails_max,
    }


def _random(photos: Sequence[PhotoStatus]) -> list[PhotoStatus]:
    """Return some photos, always the same of equal ones."""
    return random.Random(FACES_SEED).sample(sorted(photos, key=lambda one: one.key), min(FACES, len(photos)))


def _newest(photos: Sequence[PhotoStatus]) -> list[PhotoStatus]:
    return sorted(photos, key=lambda one: (-one.batch, one.key))[:FACES]


def _is_low(one: PhotoStatus) -> bool:
    return isinstance(one.end, Rejected) and one.end.reason is Reason.LOW_SCORE


def _reason_order(one: PhotoStatus) -> int:
    return list(Reason).index(one.end.reason) if isinstance(one.end, Rejected) else -1


def _best_first(photos: list[PhotoStatus]) -> list[PhotoStatus]:
    """Return photos as `stages.select` ranks them; those without a score, of an unfinished run, last."""
    return sorted(photos, key=lambda one: (-(one.score or 0.0), one.id))


def _file(workspace: Workspace, path: Path) -> dict[str, object] | None:
    """Return name, size and link of a file of the run; None where it is missing."""
    if not path.is_file():
        return None
    return {"name": path.name, "size_bytes": path.stat().st_size, "link": link(path, workspace.report_path)}


def _reasons(statuses: Sequence[PhotoStatus]) -> list[dict[str, object]]:
    """Return the number of photos by reason, the most frequent reason first; errors last."""
    counts = Counter(one.end.reason for one in statuses if isinstance(one.end, Rejected))
    shares = [_share(reason.value, reason.describe, count, statuses) for reason, count in most_frequent_first(counts)]
    failed = sum(isinstance(one.end, Failed) for one in statuses)
    return [*shares, _share("failed", "an error that no reason covers", failed, statuses)] if failed else shares


def _notes(statuses: Sequence[PhotoStatus]) -> list[dict[str, object]]:
    counts = Counter(note for one in statuses for note in one.notes)
    return [_share(note, NOTES.get(note, note), count, statuses) for note, count in most_frequent_first(counts)]


def _share(name: str, words: str, count: int, statuses: Sequence[PhotoStatus]) -> dict[str, object]:
    return {"name": name, "words": words, "count": count, "share": count / len(statuses)}


def _histogram(
    kept: Sequence[PhotoStatus], low: Sequence[PhotoStatus], name: str, units: str, cut: float | None = None
) -> charts.Histogram | None:
    """Return the histogram of a number that all scored photos have."""
    inside, outside = ([getattr(one, name) for one in some if one.score is not None] for some in (kept, low))
    return charts.histogram(inside, outside, cut, units)


def _throughput(batches: Sequence[tuple[float, int]], units: str) -> tuple[charts.LineChart, str] | None:
    """Return the curve of photos per second over the time of work, and the name of the time; None for too few batches.

    Args:
        batches: see `TimingTotals.batches`; the time before the beginning of a run does not count.
        units: photos or faces.
    """
    worked, done, before = [0.0], [0], None
    for unix_s, photos in batches:
        if photos and before is not None:
            worked.append(worked[-1] + max(unix_s - before, 0.0))
            done.append(done[-1] + photos)
        before = unix_s
    if len(worked) < 3 or not worked[-1]:
        return None
    edges = np.linspace(0, worked[-1], min(len(worked), RATES_MAX + 1))
    rates = np.diff(np.interp(edges, worked, done)) / np.diff(edges)
    unit_s, unit = (3600, "hours") if worked[-1] > 7200 else (60, "minutes")
    middles = (edges[1:] + edges[:-1]) / 2 / unit_s
    drawn = charts.line_chart("Throughput", middles.tolist(), {f"{units} per second": rates.tolist()}, from_zero=True)
    return None if drawn is None else (drawn, f"{unit} of work")


def _settings(run: RunDescription, state: RunState) -> list[tuple[str, str, str]]:
    """Return name, value and origin of every setting, and the hashes of the weights."""
    origins = {name: re.sub("^`(.*)`$", r"argument \1", origin) for name, origin in run.origins.items()}
    settings = {
        name: (json.dumps(value, ensure_ascii=False), origins.get(name, "default"))
        for name, value in flatten(run.recipe).items()
    }
    ingredients = [table for stage in state.stages.values() for table in stage.ingredients or ()]
    hashes = {
        f"{table['name']}.weights_sha256": (str(table["weights_sha256"]), f"file of {table['name']}.weights")
        for table in ingredients
        if "weights_sha256" in table
    }
    return [(name, *values) for name, values in (settings | hashes).items()]


# --- Counts -------------------------------------------------------------------------------------------------------


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
        kept = entered - rejected - failed
        counts.append(StageCount(names, entered, kept, rejected, failed))
        entered = kept
    return counts


# --- The report of a build that is running ------------------------------------------------------------------------

COST_SHARE = 0.01
"""Largest share of a run's time that is spent on its reports."""

PAUSE_S = 5.0
"""Shortest time between two reports."""

READ_S = 3e-4
"""Estimated time that the status of a photo of an earlier run takes to be read."""

MOMENT_S = 2.0
"""Longest processor time that the report of an interrupted run, or the first one of a resumed run, may take."""


class LiveReport:
    """Writes the report of a build while the build runs.

    The statuses of photos come from the results of the workers. Manifests are read once, where a run resumes. Nothing
    depends on the report, so an error in writing it is a warning.

    Args:
        workspace: the run directory.
        progress: of the photo stages.
        silent: write nothing; for one of several shards.
    """

    def __init__(self, workspace: Workspace, progress: Progress, *, silent: bool = False) -> None:
        self.workspace, self.progress, self.silent = workspace, progress, silent
        self.statuses: PhotoStatuses | None = None
        self.cost_s = READ_S * progress.done
        """Processor time that the last report took, or the first one will take."""
        self.due_s = time.monotonic() + (self.cost_s / COST_SHARE if self.cost_s > MOMENT_S else 0)

    def add(self, result: BatchResult) -> None:
        """Take note of the outcomes of a batch."""
        if self.statuses is not None:
            for stage, outcomes in result.outcomes.items():
                for one in outcomes:
                    self.statuses.add(stage, result.number, one)

    def write_if_due(self) -> None:
        """Write the report, unless that would take too large a share of the time."""
        if time.monotonic() >= self.due_s:
            self._write(BuildProgress(self.progress.items_per_s, self.progress.seconds_left))

    def close(self) -> None:
        """Write the report of a build that is interrupted, if this takes a moment only."""
        if self.cost_s <= MOMENT_S:
            self._write(None)

    def _write(self, progress: BuildProgress | None) -> None:
        if self.silent:
            return
        began, is_first = time.thread_time(), self.statuses is None and not self.progress.done
        try:
            if self.statuses is None:
                self.statuses = read_statuses(self.workspace)
                log.info("report of the running build: %s", self.workspace.report_path.absolute())
            write_build_report(self.workspace, progress, self.statuses.all())
        except Exception as error:
            log.warning("warning: the report of the running build was not written: %s", error)
        self.cost_s = time.thread_time() - began
        # The first page of a new run has no images, so the next one need not wait for long.
        self.due_s = time.monotonic() + (PAUSE_S if is_first else max(self.cost_s / COST_SHARE, PAUSE_S))
