"""The images of a build report: contact sheets, examples, rejected photos, spectra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from celebahq_builder.html import thumbnails
from celebahq_builder.html.thumbnails import Thumbnail
from celebahq_builder.pipeline.results import PhotoStatus
from celebahq_builder.pipeline.stage import PhotoStage
from celebahq_builder.pipeline.stages import load_stages
from celebahq_builder.pipeline.state import RunDescription
from celebahq_builder.pipeline.workspace import Workspace

T = TypeVar("T")

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
class PhotoGrid:
    """Thumbnails under one title."""

    title: str
    photos: list[PhotoImage]


@dataclass(frozen=True)
class Spectrum:
    """A result and its power spectrum."""

    result: PhotoImage
    spectrum: Thumbnail


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

    def sheets(self, kept: Sequence[PhotoStatus], low: Sequence[PhotoStatus]) -> list[PhotoGrid]:
        """Return sheets of results: both ends of those kept, and the best of those below the cut.

        Args:
            kept: best first.
            low: below the cut, best first.
        """
        ends = (
            ("Best of those kept", kept[:SHEET]),
            ("Last of those kept", kept[SHEET:][-SHEET:]),
            ("First of those below the cut", low[:SHEET]),
        )
        return [PhotoGrid(title, [self._result(one, SHEET_PX) for one in photos]) for title, photos in ends if photos]

    def spectra(self, ranked: Sequence[PhotoStatus]) -> list[tuple[str, list[Spectrum]]]:
        """Return the results of the highest and of the lowest scores with their spectra, each end under its title.

        Args:
            ranked: all that have a score, best first, whether they were kept or not.
        """
        ends = (("Highest scores", ranked[:SPECTRA]), ("Lowest scores", ranked[SPECTRA:][-SPECTRA:]))
        shown = [(title, [one for photo in photos if (one := self._spectrum(photo))]) for title, photos in ends]
        return [(title, some) for title, some in shown if some]

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

    def _spectrum(self, one: PhotoStatus) -> Spectrum | None:
        spectrum = thumbnails.of_spectrum(self._path(one), SHEET_PX)
        return Spectrum(self._result(one, SHEET_PX), spectrum) if spectrum else None

    def _result(self, one: PhotoStatus, side_px: int) -> PhotoImage:
        path = self._path(one)
        thumbnail = thumbnails.of_result(path, side_px)
        return PhotoImage(one, thumbnail, link(self.workspace, path) if thumbnail else None)

    def _path(self, one: PhotoStatus) -> Path:
        return self.workspace.stage(self.run.image_stage).image_path(one.batch, one.id)


def link(workspace: Workspace, path: Path) -> str:
    """Return the address of a file of the run relative to the page."""
    return "../" + quote(path.relative_to(workspace.root).as_posix())


def _spread(items: list[T], count: int) -> list[T]:
    """Return `count` items at even distances, including the first and the last."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
