"""Landmarks of a folder of photos: choice of faces, table and page."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from celebahq_builder.errors import RecipeError, printable
from celebahq_builder.image_set import utf8_name
from celebahq_builder.landmarks import detector
from celebahq_builder.landmarks.model_file import locate_model
from celebahq_builder.landmarks.search import VIEWS, FoundFace, SearchedPhoto, list_photos, search_folder, search_rules
from celebahq_builder.outcome import Reason, Rejected
from celebahq_builder.sources.photo import COLUMNS
from celebahq_builder.storage import RecordLog, csv_bytes, path_cell

FaceChoice = Literal["all", "largest", "central"]
"""Faces of a photo that are used: all, the one with the largest crop, or the one nearest to the centre of the photo."""

MIN_FACE_PX = 48
MIN_CONFIDENCE = 0.8

MAX_SPREAD = 0.25
"""Profiles have more; of 200 faces of CelebA's kind, none has more than 0.2."""

MIN_VIEWS = 3
"""Of six; blurred faces in the background, and what is no face, have fewer."""


@dataclass(frozen=True)
class FaceRules:
    """The faces that are used.

    Example:
        >>> FaceRules(faces="first")
        Traceback (most recent call last):
        celebahq_builder.errors.RecipeError: `faces` must be all, largest or central, got first
    """

    faces: FaceChoice = "all"
    min_face_px: int = MIN_FACE_PX
    """Least side length of the crop in px of the photo."""
    min_confidence: float = MIN_CONFIDENCE
    """Least confidence of the detector, from `detector.CONFIDENCE_FLOOR` to 1."""

    max_spread: float = MAX_SPREAD
    """Largest standard deviation of the landmarks over several views, in distances of the eyes."""

    def __post_init__(self) -> None:
        if self.faces not in ("all", "largest", "central"):
            raise RecipeError(f"`faces` must be all, largest or central, got {self.faces}")
        if self.min_face_px < 1:
            raise RecipeError(f"`min_face_px` must be at least 1, got {self.min_face_px}")
        if not detector.CONFIDENCE_FLOOR <= self.min_confidence <= 1:
            raise RecipeError(
                f"`min_confidence` must be from {detector.CONFIDENCE_FLOOR} to 1, got {self.min_confidence}"
            )
        if not self.max_spread > 0:
            raise RecipeError(f"`max_spread` must be above 0, got {self.max_spread}")

    def chosen(self, photo: SearchedPhoto) -> list[FoundFace]:
        """Return the faces of a photo that are used, from left to right."""
        usable = [face for face in photo.faces if self.problem(face) is None]
        if self.faces == "all" or not usable:
            return usable
        if self.faces == "largest":
            return [max(usable, key=lambda face: face.crop_px)]
        centre = (np.array(photo.size) - 1) / 2
        return [min(usable, key=lambda face: float(np.hypot(*(face.points.mean(axis=0) - centre))))]

    def problem(self, face: FoundFace) -> str | None:
        """Return why a face cannot be used in any choice, or None."""
        if face.confidence < self.min_confidence:
            return f"confidence {face.confidence:.2f} is below {self.min_confidence:g}"
        if face.crop_px < self.min_face_px:
            return f"the crop is {face.crop_px:.0f} px wide, less than {self.min_face_px}"
        if face.views < MIN_VIEWS:
            return f"blurred, or no face: it was found again in {face.views} of {VIEWS} views"
        if face.spread > self.max_spread:
            return f"spread {face.spread:.2f} is above {self.max_spread:g}: a profile, or covered"
        return None

    def rejection(self, photo: SearchedPhoto) -> Rejected | None:
        """Return why a photo has no face that is used, or None if it has one."""
        name = utf8_name(photo.file)
        if photo.problem is not None:
            reason, detail = photo.problem
            return Rejected(name, reason or Reason.UNREADABLE, detail)
        if self.chosen(photo):
            return None
        if not photo.faces:
            return Rejected(name, Reason.NO_FACE, "the detector found none")
        best = max(photo.faces, key=lambda face: (face.confidence >= self.min_confidence, face.crop_px))
        is_small = best.confidence >= self.min_confidence and best.crop_px < self.min_face_px
        return Rejected(name, Reason.FACE_TOO_SMALL if is_small else Reason.NO_FACE, self.problem(best) or "")


@dataclass(frozen=True)
class LandmarkResult:
    """The result of `find_landmarks`."""

    table: Path
    """CSV file of the faces; `sources.folder.read_folder` reads it."""
    page: Path
    """HTML page that shows what was found."""
    photos: int
    """Photos that were searched."""
    faces: int
    """Faces in the table."""
    not_chosen: int
    """Other faces: too small, of too low confidence, or left out by `faces`."""
    rejected: tuple[Rejected, ...]
    """Photos without a face in the table."""

    def lines(self) -> Iterator[str]:
        """Yield the closing lines of the command."""
        yield (
            f"{self.photos} photos: {self.faces} faces in {self.photos - len(self.rejected)} photos, "
            f"{len(self.rejected)} photos without a face"
        )
        for reason, count in Counter(one.reason for one in self.rejected).most_common():
            first = next(one for one in self.rejected if one.reason is reason)
            yield f"  {reason}: {count}; first: {printable(first.photo)}: {printable(first.detail)}"
        if self.not_chosen:
            yield f"  {self.not_chosen} other faces were not used; the page shows them"
        yield f"table: {printable(str(self.table))}"
        yield f"page:  {printable(str(self.page))}"


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
        refiner: network that makes the landmarks more precise: the folder of a training of `landmarks.training.train`,
            or weights of a registry.

    Raises:
        SourceError: there are no photos.
        RecipeError: arguments that cannot be used.
        WeightsError: the model file is missing or cannot be read.
        WorkspaceError: a file in the way was not written by an earlier call, or the disk failed.
        DiskFull: no space left; the same call resumes once there is some.
    """
    from celebahq_builder.landmarks.page import write_pages

    rules = FaceRules(faces, min_face_px, min_confidence, max_spread)
    folder, files = list_photos(Path(photos))
    table = Path(out)
    if table.suffix != ".csv":
        raise RecipeError(f"`out` {table} must end in .csv")
    if not table.parent.is_dir():
        raise RecipeError(f"`out` {table}: {table.parent} is not a folder; create it first")
    path = locate_model(Path(model) if model else None)
    weights = os.fspath(refiner) if refiner else None
    about = search_rules(path, refine=True, thumbnails=True, refiner=weights)
    about["folder"] = os.fspath(folder.resolve())
    with RecordLog(table.with_suffix(".jsonl"), "celebahq landmarks", about) as log:
        searched = list(
            search_folder(folder, files, log, path, refine=True, thumbnails=True, refiner=weights, workers=workers)
        )
        log.write(table, table_csv(searched, rules))
        page = table.with_suffix(".html")
        write_pages(page, searched, rules, log, folder=folder, table=table.name)
    return summarize(searched, rules, table, page)


def table_csv(photos: Iterable[SearchedPhoto], rules: FaceRules) -> bytes:
    """Return the table of the faces that are used."""
    rows: list[Sequence[object]] = [("file", *COLUMNS, "confidence", "spread")]
    for photo in photos:
        for face in rules.chosen(photo):
            rows.append((path_cell(photo.file), *face.landmarks, face.confidence, face.spread))
    return csv_bytes(rows)


def summarize(photos: Sequence[SearchedPhoto], rules: FaceRules, table: Path, page: Path) -> LandmarkResult:
    """Return the counts of what was found."""
    used = sum(len(rules.chosen(photo)) for photo in photos)
    return LandmarkResult(
        table=table,
        page=page,
        photos=len(photos),
        faces=used,
        not_chosen=sum(len(photo.faces) for photo in photos) - used,
        rejected=tuple(one for photo in photos if (one := rules.rejection(photo)) is not None),
    )
