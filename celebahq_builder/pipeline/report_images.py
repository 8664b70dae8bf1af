"""The images of a build report: contact sheets, examples, rejected photos, spectra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from celebahq_builder.html import thumbnails
from celebahq_builder.html.thumbnails import Thumbnail
from celebahq_builder.pipeline import batch
from celebahq_builder.pipeline.results import PhotoStatus
from celebahq_builder.pipeline.workspace import Workspace

T = TypeVar("T")

EXAMPLES = 6
"""Photos shown at every stage."""

EXAMPLE_PX = 320
"""Side of the crops among them."""

DETAIL = (0.375 - 160 / 768, 0.475 - 96 / 768, 0.375 + 160 / 768, 0.475 + 96 / 768)
"""Around the eye on the viewer's left, which the crop puts near (0.375, 0.475): 320 x 192 px of an example."""

STEPS = {"region": "photo", "denoise": "denoised", "upscale": "upscaled", "align": "result"}
"""What an image after each of `example.STAGES` is called."""

SHEET = 24
"""Photos on a sheet."""

SHEET_PX = 160

SPECTRA = 8
"""Results at either end of the ranking whose spectra are shown."""

ROWS = 5000
"""Photos in the list of those left out."""

ROW_THUMBNAILS = 300
"""Thumbnails in that list."""

ROW_PX = 96


@dataclass(frozen=True)
class PhotoImage:
    """A photo with its thumbnail, and a link to the whole image."""

    standing: PhotoStatus
    thumbnail: Thumbnail | None
    link: str | None

    @property
    def name(self) -> str:
        """Its file, as a caption."""
        return self.standing.file

    @property
    def score(self) -> str:
        """Its score, as a caption; empty where it has none."""
        return "" if self.standing.score is None else f"{self.standing.score:.3f}"


@dataclass(frozen=True)
class PhotoGrid:
    """Thumbnails that belong together."""

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
    """A photo's way through the stages."""

    standing: PhotoStatus
    steps: list[Step]


def examples(workspace: Workspace, stood: Sequence[PhotoStatus]) -> list[Example]:
    """Return photos at every stage, the smallest face first; photos not kept only where kept ones are too few."""
    folder = workspace.report_path.parent / "examples"
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    recorded = [one for one in stood if one.id in names and one.zoom is not None]
    readable = [Example(one, steps) for one in recorded if (steps := _steps(workspace, one))]
    kept = [one for one in readable if one.standing.end is None]
    others = [one for one in readable if one.standing.end is not None]
    chosen = kept if len(kept) >= EXAMPLES else [*kept, *others[: EXAMPLES - len(kept)]]
    return _spread(sorted(chosen, key=lambda one: -(one.standing.zoom or 0.0)), EXAMPLES)


def _steps(workspace: Workspace, one: PhotoStatus) -> list[Step] | None:
    """Return an example's images after all stages, or None if one of them is missing."""
    steps = []
    for stage in batch.STAGES:
        images = thumbnails.of_example(workspace.example_path(one.id, stage), EXAMPLE_PX, DETAIL)
        if images is None:
            return None
        steps.append(Step(STEPS[stage], *images))
    return steps


def _spread(items: list[T], count: int) -> list[T]:
    """Return `count` items at even distances, the first and the last among them."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def sheets(workspace: Workspace, kept: Sequence[PhotoStatus], low: Sequence[PhotoStatus]) -> Iterator[PhotoGrid]:
    """Yield sheets of results: both ends of those kept, and what the cut just missed.

    Args:
        kept: best first.
        low: below the cut, best first.
    """
    for title, photos in (
        ("Best of those kept", kept[:SHEET]),
        ("Last of those kept", kept[SHEET:][-SHEET:]),
        ("First of those below the cut", low[:SHEET]),
    ):
        if photos:
            yield PhotoGrid(title, [_result(workspace, one, SHEET_PX) for one in photos])


def spectra(workspace: Workspace, ranked: Sequence[PhotoStatus]) -> list[tuple[str, list[Spectrum]]]:
    """Return the results of the highest and of the lowest scores with their spectra, each end under its title.

    Args:
        ranked: all that have a score, best first, whether they were kept or not.
    """
    best, worst = ranked[:SPECTRA], ranked[SPECTRA:][-SPECTRA:]
    ends = (("Highest scores", best), ("Lowest scores", worst))
    shown = [(title, [one for photo in photos if (one := _spectrum(workspace, photo))]) for title, photos in ends]
    return [(title, some) for title, some in shown if some]


def _spectrum(workspace: Workspace, one: PhotoStatus) -> Spectrum | None:
    path = workspace.stage("align").image_path(one.batch, one.id)
    spectrum = thumbnails.of_spectrum(path, SHEET_PX)
    return Spectrum(_result(workspace, one, SHEET_PX), spectrum) if spectrum else None


def _result(workspace: Workspace, one: PhotoStatus, side_px: int) -> PhotoImage:
    path = workspace.stage("align").image_path(one.batch, one.id)
    thumbnail = thumbnails.of_result(path, side_px)
    return PhotoImage(one, thumbnail, link(workspace, path) if thumbnail else None)


def rows(workspace: Workspace, source: Path, photos: Sequence[PhotoStatus]) -> list[PhotoImage]:
    """Return photos that were left out, as results where they came so far, else as they are in the source."""
    listed: list[PhotoImage] = []
    left = ROW_THUMBNAILS
    for one in photos:
        if not left:
            row = PhotoImage(one, None, None)
        elif one.score is not None:
            row = _result(workspace, one, ROW_PX)
        else:
            row = PhotoImage(one, thumbnails.of_photo(source, one.file, ROW_PX), None)
        left -= row.thumbnail is not None
        listed.append(row)
    return listed


def link(workspace: Workspace, path: Path) -> str:
    """Return the address of a file of the run relative to the page."""
    return "../" + quote(path.relative_to(workspace.root).as_posix())
