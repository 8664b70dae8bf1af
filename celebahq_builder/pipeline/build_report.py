"""The HTML report of a build: its counts, and its images as contact sheets, examples, rejected photos and spectra."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from celebahq_builder.config import flatten
from celebahq_builder.html import charts, render_page, thumbnails
from celebahq_builder.html.thumbnails import Thumbnail
from celebahq_builder.outcome import Failed, Reason, Rejected
from celebahq_builder.pipeline.landmark_source import landmark_section
from celebahq_builder.pipeline.results import TABLE, PhotoStatus, photo_statuses
from celebahq_builder.pipeline.stage import PhotoStage
from celebahq_builder.pipeline.stages import load_stages
from celebahq_builder.pipeline.state import RunDescription, RunState
from celebahq_builder.pipeline.workspace import Workspace, read_timings
from celebahq_builder.storage import write_atomic

NOTES = {
    "grey": "greyscale, made RGB",
    "palette": "palette, made RGB",
    "cmyk": "CMYK, made RGB",
    "alpha": "transparency, laid over white",
    "16-bit": "16 bits per channel, scaled to 8",
    "exif-orientation": "EXIF orientation, not applied: landmarks are those of the stored image",
}
"""The decoder's notes in words."""

T = TypeVar("T")
Name = TypeVar("Name", bound=str)

EXAMPLES = 6
"""Photos shown at every stage."""

EXAMPLE_PX = 320
"""Side length of their crops."""

DETAIL = (0.375 - 160 / 768, 0.475 - 96 / 768, 0.375 + 160 / 768, 0.475 + 96 / 768)
"""Box around the eye on the viewer's left, which the crop puts near (0.375, 0.475): 320 x 192 px of an example."""

SHEET = 24
"""Photos on a sheet."""

SHEET_PX = 160

SPECTRA = 8
"""Results at each end of the ranking whose spectra are shown."""

ROWS = 5000
"""Photos in the list of those left out."""

ROW_THUMBNAILS = 300
"""Thumbnails in that list."""

ROW_PX = 96


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
        progress: of a build that is running, whose page leaves out what takes long; None for one that has ended or was
            interrupted.
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
    run = workspace.run()
    images = ReportImages(workspace, run)
    kept = _best_first([one for one in statuses if one.end is None])
    low = _best_first([one for one in statuses if _is_low(one)])
    failed = [one for one in statuses if isinstance(one.end, Failed)]
    rejected = [one for one in statuses if isinstance(one.end, Rejected) and not _is_low(one)]
    left_out = [*failed, *sorted(rejected, key=_reason_order), *low[SHEET:]]
    rows = images.rows(left_out[:ROWS])
    return {
        "run": run,
        "photos": run.photos + len(run.rejected_by_table),
        "counts": {"kept": len(kept), "rejected": len(rejected) + len(low), "failed": len(failed)},
        "progress": progress,
        "result": _file(workspace, workspace.hdf5_path(run.resolution)),
        "selection": _file(workspace, workspace.selection_path),
        "rejections": _file(workspace, workspace.rejected_path),
        "stages": stage_counts(run, workspace.read_state(), statuses),
        "reasons": _reasons(statuses),
        "notes": _notes(statuses),
        "landmarks": landmark_section(workspace, Path(run.source)),
        "examples": [] if progress else images.examples(statuses),
        "scores": _histogram(kept, low, "score", cut=kept[-1].score if kept and low else None),
        "zooms": _histogram(kept, low, "zoom"),
        "sheets": [] if progress else images.sheets(kept, low),
        "spectra": []
        if progress
        else images.spectra(_best_first([one for one in (*kept, *low) if one.score is not None])),
        "low_shown": bool(low),
        "rows": rows,
        "rows_left": len(left_out) - len(rows),
        "thumbnails_end": len(rows) > ROW_THUMBNAILS == sum(row.thumbnail is not None for row in rows),
        "timings": read_timings(workspace.timings_path),
        "settings": _settings(run),
        "row_thumbnails": ROW_THUMBNAILS,
    }


def _is_low(one: PhotoStatus) -> bool:
    return isinstance(one.end, Rejected) and one.end.reason is Reason.LOW_SCORE


def _reason_order(one: PhotoStatus) -> int:
    return list(Reason).index(one.end.reason) if isinstance(one.end, Rejected) else -1


def _best_first(photos: list[PhotoStatus]) -> list[PhotoStatus]:
    """Return photos as `stages.select` ranks them; those without a score, of an unfinished run, last."""
    return sorted(photos, key=lambda one: (-(one.score or 0.0), one.id))


def _link(workspace: Workspace, path: Path) -> str:
    """Return the address of a file of the run relative to the page."""
    return "../" + quote(path.relative_to(workspace.root).as_posix())


def _file(workspace: Workspace, path: Path) -> dict[str, object] | None:
    """Return name, size and link of a file of the run; None where it is missing."""
    if not path.is_file():
        return None
    return {"name": path.name, "size_bytes": path.stat().st_size, "link": _link(workspace, path)}


def _reasons(statuses: Sequence[PhotoStatus]) -> list[dict[str, object]]:
    """Return the number of photos by reason, the most frequent reason first; errors last."""
    counts = Counter(one.end.reason for one in statuses if isinstance(one.end, Rejected))
    shares = [_share(reason.value, reason.describe, count, statuses) for reason, count in _most_frequent_first(counts)]
    failed = sum(isinstance(one.end, Failed) for one in statuses)
    return [*shares, _share("failed", "an error that no reason covers", failed, statuses)] if failed else shares


def _notes(statuses: Sequence[PhotoStatus]) -> list[dict[str, object]]:
    counts = Counter(note for one in statuses for note in one.notes)
    return [_share(note, NOTES.get(note, note), count, statuses) for note, count in _most_frequent_first(counts)]


def _share(name: str, words: str, count: int, statuses: Sequence[PhotoStatus]) -> dict[str, object]:
    return {"name": name, "words": words, "count": count, "share": count / len(statuses)}


def _most_frequent_first(counts: Counter[Name]) -> list[tuple[Name, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


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


# --- Counts


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


# --- Images


@dataclass(frozen=True)
class PhotoImage:
    """A photo with its thumbnail, and a link to the whole image."""

    status: PhotoStatus
    thumbnail: Thumbnail | None
    link: str | None

    @property
    def name(self) -> str:
        """File of the photo, and its face where it has several, as a caption."""
        return self.status.name

    @property
    def score(self) -> str:
        """Score of the photo, as a caption; empty where it has none."""
        return "" if self.status.score is None else f"{self.status.score:.3f}"


@dataclass(frozen=True)
class Step:
    """An example photo after a stage."""

    name: str
    whole: Thumbnail
    detail: Thumbnail


@dataclass(frozen=True)
class Example:
    """The images of a photo after each stage."""

    status: PhotoStatus
    steps: list[Step]


@dataclass(frozen=True)
class ReportImages:
    """Makes the images of a report from the files of a run."""

    workspace: Workspace
    run: RunDescription

    def examples(self, statuses: Sequence[PhotoStatus]) -> list[Example]:
        """Return photos after each stage, the smallest face first; photos not kept only where others are too few."""
        folder = self.workspace.report_path.parent / "examples"
        names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        recorded = [one for one in statuses if one.id in names and one.zoom is not None]
        readable = [Example(one, steps) for one in recorded if (steps := self._steps(one))]
        kept = [one for one in readable if one.status.end is None]
        others = [one for one in readable if one.status.end is not None]
        chosen = [*kept, *others[: max(EXAMPLES - len(kept), 0)]]
        return _spread(sorted(chosen, key=lambda one: -(one.status.zoom or 0.0)), EXAMPLES)

    def _steps(self, one: PhotoStatus) -> list[Step] | None:
        """Return an example's images after all stages, or None if one of them is missing."""
        steps = []
        for stage in load_stages(self.run.method):
            if isinstance(stage, PhotoStage) and stage.example_title:
                path = self.workspace.example_path(one.id, stage.name)
                images = thumbnails.of_example(path, EXAMPLE_PX, DETAIL)
                if images is None:
                    return None
                steps.append(Step(stage.example_title, *images))
        return steps

    def sheets(self, kept: Sequence[PhotoStatus], low: Sequence[PhotoStatus]) -> list[tuple[str, list[PhotoImage]]]:
        """Return sheets of results with their titles: both ends of those kept, and the best of those below the cut.

        Args:
            kept: best first.
            low: below the cut, best first.
        """
        ends = (
            ("Best of those kept", kept[:SHEET]),
            ("Last of those kept", kept[SHEET:][-SHEET:]),
            ("First of those below the cut", low[:SHEET]),
        )
        return [(title, [self._result(one, SHEET_PX) for one in photos]) for title, photos in ends if photos]

    def spectra(self, ranked: Sequence[PhotoStatus]) -> list[tuple[str, list[tuple[PhotoImage, Thumbnail]]]]:
        """Return the results of the highest and of the lowest scores with their spectra, each end under its title.

        Args:
            ranked: all that have a score, best first, whether they were kept or not.
        """
        ends = (("Highest scores", ranked[:SPECTRA]), ("Lowest scores", ranked[SPECTRA:][-SPECTRA:]))
        found = []
        for title, photos in ends:
            spectra = [(one, thumbnails.of_spectrum(self._path(one), SHEET_PX)) for one in photos]
            shown = [(self._result(one, SHEET_PX), spectrum) for one, spectrum in spectra if spectrum]
            if shown:
                found.append((title, shown))
        return found

    def rows(self, photos: Sequence[PhotoStatus]) -> list[PhotoImage]:
        """Return photos that were left out: the aligned face where there is one, else the photo of the source."""
        rows: list[PhotoImage] = []
        left = ROW_THUMBNAILS
        for one in photos:
            if not left:
                row = PhotoImage(one, None, None)
            elif one.score is not None:
                row = self._result(one, ROW_PX)
            else:
                row = PhotoImage(one, thumbnails.of_photo(Path(self.run.source), one.file, ROW_PX), None)
            left -= row.thumbnail is not None
            rows.append(row)
        return rows

    def _result(self, one: PhotoStatus, side_px: int) -> PhotoImage:
        path = self._path(one)
        thumbnail = thumbnails.of_result(path, side_px)
        return PhotoImage(one, thumbnail, _link(self.workspace, path) if thumbnail else None)

    def _path(self, one: PhotoStatus) -> Path:
        return self.workspace.stage(self.run.image_stage).image_path(one.batch, one.id)


def _spread(items: list[T], count: int) -> list[T]:
    """Return `count` items at even distances, including the first and the last."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
