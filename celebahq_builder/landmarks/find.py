"""Landmarks of a folder of photos: choice of faces, table and page."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from celebahq_builder.errors import RecipeError, printable
from celebahq_builder.landmarks.choice import MAX_SPREAD, MIN_CONFIDENCE, MIN_FACE_PX, FaceChoice, FaceRules
from celebahq_builder.landmarks.detector import locate_model
from celebahq_builder.landmarks.page import write_pages
from celebahq_builder.landmarks.search import SearchedPhoto, SearchSettings, list_photos, search_folder
from celebahq_builder.outcome import Rejected, counted
from celebahq_builder.sources.photo import COLUMNS
from celebahq_builder.storage import RecordLog, csv_bytes, path_cell


@dataclass(frozen=True)
class LandmarkResult:
    """The result of `find_landmarks`."""

    table: Path
    """CSV file of the faces; `sources.folder.read_folder` reads it."""
    page: Path
    """HTML page that shows what was found."""
    photos: int
    """Photos that were searched."""
    not_chosen: int
    """Other faces: too small, of too low confidence, or left out by `faces`."""
    rejected: tuple[Rejected, ...]
    """Photos without a face in the table."""
    rows: tuple[tuple[str, tuple[float, ...]], ...]
    """File and landmarks of each face in the table."""

    @property
    def faces(self) -> int:
        """Number of faces in the table."""
        return len(self.rows)

    def lines(self) -> Iterator[str]:
        """Yield the closing lines of the command."""
        without = f"; no face used in {counted(len(self.rejected), 'photo')}" if self.rejected else ""
        yield f"{counted(self.photos, 'photo')}, {counted(self.faces, 'face')}{without}"
        for reason, count in Counter(one.reason for one in self.rejected).most_common():
            first = next(one for one in self.rejected if one.reason is reason)
            yield f"  {reason}: {count}; first: {printable(first.photo)}: {printable(first.detail)}"
        if self.not_chosen:
            yield f"  {counted(self.not_chosen, 'other face')} not used; shown in {printable(str(self.page))}"


def find_landmarks(
    photos: Path | str,
    out: Path | str,
    *,
    faces: FaceChoice = "all",
    min_face_px: int = MIN_FACE_PX,
    min_confidence: float = MIN_CONFIDENCE,
    max_spread: float = MAX_SPREAD,
    workers: int | None = None,
    model: Path | str | None = None,
    refiner: Path | str | None = None,
    accept: Callable[[LandmarkResult], object] | None = None,
) -> LandmarkResult:
    """Find the faces of photos and write their landmarks as a table; a killed call resumes.

    Beside the table ``NAME.csv``, ``NAME.jsonl`` holds all that was found, and ``NAME.html`` shows it. A later call
    searches new and changed photos only; other values of `faces`, `min_face_px`, `min_confidence` and `max_spread` need
    no new search.

    Args:
        photos: folder that is searched at any depth, or one photo.
        out: CSV file to write: ``file``, the ten columns of `sources.photo.COLUMNS` in px of the stored image,
            ``confidence``, ``spread``. A photo of several faces has several rows, from left to right.
        faces: faces of a photo that are used.
        min_face_px: least side length of the crop around a face, in px of the photo.
        min_confidence: least confidence of the detector.
        max_spread: largest standard deviation of the landmarks over several views, in distances of the eyes; profiles
            have more.
        workers: processes; by default one per core. The result does not depend on it.
        model: model file of the detector; by default it is downloaded once.
        refiner: network that makes the landmarks more precise: the folder of a training of
            `landmarks.training.LandmarkTask`, or weights of a registry.
        accept: function that is called before table and page are written; it raises an error if they must not be.

    Raises:
        SourceError: there are no photos.
        RecipeError: arguments that cannot be used.
        WeightsError: the model file is missing or cannot be read.
        WorkspaceError: a file in the way was not written by an earlier call, or the disk failed.
        DiskFull: no space left; the same call resumes once there is some.
    """
    rules = FaceRules(faces, min_face_px, min_confidence, max_spread)
    folder, files = list_photos(Path(photos))
    table = Path(out)
    if table.suffix != ".csv":
        raise RecipeError(f"`out` {table} must end in .csv")
    if not table.parent.is_dir():
        raise RecipeError(f"`out` {table}: {table.parent} is not a folder; create it first")
    weights = os.fspath(refiner) if refiner else None
    settings = SearchSettings(locate_model(model), refine=True, thumbnails=True, refiner=weights)
    with RecordLog(table.with_suffix(".jsonl"), "celebahq landmarks", settings.identity()) as log:
        page = table.with_suffix(".html")
        log.check(table)
        log.check(page)
        searched = list(search_folder(folder, files, log, settings, workers=workers))
        result = summarize(searched, rules, table, page)
        if accept:
            accept(result)
        log.write(table, table_csv(searched, rules))
        write_pages(page, searched, rules, log, folder=folder, table=table.name)
    return result


def table_csv(photos: Iterable[SearchedPhoto], rules: FaceRules) -> bytes:
    """Return the table of the faces that are used."""
    rows: list[Sequence[object]] = [("file", *COLUMNS, "confidence", "spread")]
    for photo in photos:
        for face in rules.chosen(photo):
            rows.append((path_cell(photo.file), *face.row, face.confidence, face.spread))
    return csv_bytes(rows)


def summarize(photos: Sequence[SearchedPhoto], rules: FaceRules, table: Path, page: Path) -> LandmarkResult:
    """Return the counts of what was found."""
    rows = tuple((photo.file, face.row) for photo in photos for face in rules.chosen(photo))
    rejected = tuple(one for photo in photos if (one := rules.rejection(photo)) is not None)
    not_chosen = sum(len(photo.faces) for photo in photos) - len(rows)
    return LandmarkResult(table, page, len(photos), not_chosen, rejected, rows)
