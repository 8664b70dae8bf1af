"""The HTML report of a build: faces, counts, contact sheets, examples, spectra, and lists of photos.

The page holds thumbnails, so it can be read where its run directory is not. The aligned images are too large for that:
the page links to their files, and shows one in full size where the file is there.

The page is bounded for any number of photos: at most 556 images, and `ROWS` photos in each of two lists.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from celebahq_builder.config import flatten
from celebahq_builder.errors import printable
from celebahq_builder.html import charts, link, render_page, thumbnails
from celebahq_builder.html.thumbnails import Thumbnail
from celebahq_builder.image_set import photo_path
from celebahq_builder.landmarks import orientation
from celebahq_builder.landmarks.crops import MIRRORED
from celebahq_builder.landmarks.page import ShownPhoto, draw_face
from celebahq_builder.outcome import Failed, Kept, Reason, Rejected
from celebahq_builder.pipeline.face import PhotoRecord
from celebahq_builder.pipeline.landmark_source import landmark_section
from celebahq_builder.pipeline.results import TABLE, PhotoStatus, photo_statuses
from celebahq_builder.pipeline.stage import PhotoStage, record_types
from celebahq_builder.pipeline.stages import load_stages
from celebahq_builder.pipeline.stages.crop import CropRecord
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

FACES = 20
"""Faces at the top of the page."""

SMALL_RUN = 48
"""Largest number of kept faces of a run whose page shows all of them at the top, and nowhere else."""

FACE_PX = 320
"""Side length of their thumbnails, and of those of their photos."""

FACES_SEED = 0

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
"""Photos in the list of rejected and failed ones, and in that of the kept ones."""

ROW_THUMBNAILS = 300
"""Thumbnails in the list of rejected and failed photos."""

LIVE_THUMBNAILS = 24
"""The same while the build runs, because the page is written again and again."""

REFRESH_S = 60
"""Seconds after which a browser loads the page of a running build again."""

RATES_MAX = 60
"""Points of the curve of the throughput."""

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
    left_out = [*failed, *sorted(rejected, key=_reason_order), *low[SHEET:]]
    thumbnails_max = LIVE_THUMBNAILS if progress else ROW_THUMBNAILS
    rows = images.rows(left_out[:ROWS], thumbnails_max)
    timings = read_timings(workspace.timings_path)
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
        "settings": _settings(run),
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
    drawn = charts.line_chart("Throughput", middles.tolist(), {f"{units} per second": rates.tolist()})
    return None if drawn is None else (drawn, f"{unit} of work")


def _settings(run: RunDescription) -> list[tuple[str, str, str]]:
    """Return name, value and origin of every setting."""
    origins = {name: re.sub("^`(.*)`$", r"argument \1", origin) for name, origin in run.origins.items()}
    return [
        (name, json.dumps(value, ensure_ascii=False), origins.get(name, "default"))
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
    def id(self) -> str:
        """Id of the photo."""
        return self.status.id

    @property
    def name(self) -> str:
        """File of the photo, and its face where it has several, as a caption."""
        return self.status.name

    @property
    def zoom(self) -> str:
        """Zoom of the photo, as a caption; empty where it has none."""
        return "" if self.status.zoom is None else f"{self.status.zoom:.2f}"

    @property
    def score(self) -> str:
        """Score of the photo, as a caption; empty where it has none."""
        return "" if self.status.score is None else f"{self.status.score:.3f}"


@dataclass(frozen=True)
class Origin:
    """The photo of a face, and the crop in it."""

    photo: ShownPhoto
    crop: Thumbnail


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

    def faces(self, photos: Sequence[PhotoStatus]) -> list[tuple[PhotoImage, Origin | None]]:
        """Return results, each with its photo; None for a photo that is missing or cannot be read."""
        return [(self._result(one, FACE_PX), self._origin(one)) for one in photos]

    def _origin(self, one: PhotoStatus) -> Origin | None:
        types = record_types(load_stages(self.run.method))
        folder = self.workspace.stage(self.run.image_stage)
        outcomes = folder.read_manifest(one.batch) if folder.manifest_path(one.batch).exists() else []
        kept = next((end for end in outcomes if isinstance(end, Kept) and end.key == one.key), None)
        if kept is None:
            return None
        record = PhotoRecord.from_kept(kept, types)
        crop = record.get(CropRecord)
        if crop is None:
            return None
        found = thumbnails.of_origin(Path(self.run.source), one.file, np.array(crop.quad), FACE_PX, self.run.resolution)
        if found is None:
            return None
        photo, cut, turned = found[0], found[1], orientation.checked(found[2])
        points = orientation.to_upright(np.reshape(record.identity.landmarks, (5, 2)), crop.size, turned)
        if orientation.is_mirrored(turned):
            points = points[list(MIRRORED)]
        width_px = crop.size[1 if turned >= 5 else 0]
        face = draw_face(points, photo.width_px / width_px, "used", f"{self.run.resolution / crop.zoom:.0f} px wide")
        address = link(photo_path(Path(self.run.source), one.file), self.workspace.report_path)
        return Origin(
            ShownPhoto(f"{one.name}, photo with landmarks and crop", ("used",), photo, (face,), "", address), cut
        )

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

    def spectra(
        self, ranked: Sequence[PhotoStatus], *, with_faces: bool
    ) -> list[tuple[str, list[tuple[PhotoImage, Thumbnail]]]]:
        """Return the results of the highest and of the lowest scores with their spectra, each end under its title.

        Args:
            ranked: all that have a score, best first, whether they were kept or not.
            with_faces: whether the results have thumbnails.
        """
        ends = (("Highest scores", ranked[:SPECTRA]), ("Lowest scores", ranked[SPECTRA:][-SPECTRA:]))
        found = []
        for title, photos in ends:
            spectra = [(one, thumbnails.of_spectrum(self._path(one), SHEET_PX)) for one in photos]
            shown = [
                (self._result(one, SHEET_PX) if with_faces else PhotoImage(one, None, None), spectrum)
                for one, spectrum in spectra
                if spectrum
            ]
            if shown:
                found.append((title, shown))
        return found

    def rows(self, photos: Sequence[PhotoStatus], left: int) -> list[PhotoImage]:
        """Return rejected and failed photos: the aligned face where there is one, else the photo of the source.

        Args:
            photos: to return.
            left: largest number of thumbnails.
        """
        rows: list[PhotoImage] = []
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
        thumbnail = thumbnails.of_image(self._path(one), side_px)
        return PhotoImage(one, thumbnail, self.link(one) if thumbnail else None)

    def link(self, one: PhotoStatus) -> str | None:
        """Return the address of an aligned image relative to the page; None for a photo that has none."""
        return link(self._path(one), self.workspace.report_path) if one.image else None

    def _path(self, one: PhotoStatus) -> Path:
        return self.workspace.stage(self.run.image_stage).root / one.image


def _spread(items: list[T], count: int) -> list[T]:
    """Return `count` items at even distances, including the first and the last."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
