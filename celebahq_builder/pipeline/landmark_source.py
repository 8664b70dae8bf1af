"""Landmarks in a build: found for a folder of photos, or checked, before the stages run.

The folder ``landmarks/`` of a run directory holds what the detector found, from which a killed run resumes, and the
table, the page and the list of doubtful photos that are made from it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from celebahq_builder.errors import RecipeError, WeightsError, printable
from celebahq_builder.html import link, thumbnails
from celebahq_builder.image_set import photo_path
from celebahq_builder.landmarks import check
from celebahq_builder.landmarks.check import DoubtfulPhoto
from celebahq_builder.landmarks.choice import FaceChoice
from celebahq_builder.landmarks.detector import locate_model
from celebahq_builder.landmarks.find import LandmarkResult, find_landmarks
from celebahq_builder.landmarks.page import ShownPhoto, draw_face
from celebahq_builder.landmarks.search import THUMBNAIL_PX, list_photos
from celebahq_builder.outcome import Reason
from celebahq_builder.run_directory.shard import Shard
from celebahq_builder.run_directory.state import read_table
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.folder import read_folder
from celebahq_builder.sources.landmark_table import TableRow, make_source
from celebahq_builder.sources.photo import PhotoSource
from celebahq_builder.storage import read_json, write_json

log = logging.getLogger(__name__)

Accept = Callable[[PhotoSource], object]
"""Function that raises an error if the build of a source would be refused. It is called before the results of a search
are written; the log of the search stays, and the next command resumes from it."""

DOUBTFUL_SHOWN = 24
"""Doubtful photos that the report shows."""


@dataclass(frozen=True)
class CheckedLandmarks:
    """The content of ``doubtful.json``."""

    photos: int
    """Photos whose landmarks were compared with the detector's."""
    doubtful: tuple[DoubtfulPhoto, ...]
    """Photos where they differ, the worst first."""


def find_source(
    photos: Path | str,
    out: Path | str,
    *,
    faces: FaceChoice = "all",
    workers: int | None = None,
    model: Path | str | None = None,
    shard: Shard | None = None,
    accept: Accept | None = None,
) -> PhotoSource:
    """Find the landmarks of photos, and return the photos with them as a source; a killed call resumes.

    Args:
        photos: folder that is searched at any depth, or one photo.
        out: run directory of the build.
        faces: faces of a photo that are used.
        workers: processes; by default one per core. The result does not depend on it.
        model: model file of the detector; by default it is downloaded once.
        shard: the part of the build on which this process works. One shard searches all photos; others wait for it.
        accept: see `Accept`.

    Raises:
        CelebAHQError: see `landmarks.find.find_landmarks`.
        WorkspaceLocked: another process works in the run directory.
    """
    folder, _ = list_photos(Path(photos))
    workspace = Workspace(Path(out))
    if os.path.realpath(photos) == os.path.realpath(workspace.root):
        raise RecipeError(f"`out` {out} is the folder of photos; give another folder")
    model = locate_model(model, "landmark_model")
    with workspace.lock(shard):
        workspace.landmarks_path.mkdir(exist_ok=True)
        result = find_landmarks(
            photos,
            workspace.landmark_table_path,
            faces=faces,
            workers=workers,
            model=model,
            accept=lambda result: accept(_source_of(result, folder, photos)) if accept else None,
        )
    for line in result.lines():
        log.info("%s", line)
    return _source_of(result, folder, photos)


def _source_of(found: LandmarkResult, folder: Path, photos: Path | str) -> PhotoSource:
    """Return photos with the landmarks that were found, and those without a face among the rejected ones."""
    rows = [TableRow(line, file, [*map(str, row)]) for line, (file, row) in enumerate(found.rows, start=2)]
    source = make_source(folder, rows, found.table.name, several_faces=True, rejected=found.rejected)
    known = {one.photo for one in found.rejected}
    unlisted = [one for one in source.rejected if one.reason is Reason.NOT_LISTED and one.photo not in known]
    # In a folder, unlisted files were added after the search. Beside a single photo, they are not part of the request.
    rejected = [one for one in source.rejected if one.reason is not Reason.NOT_LISTED]
    return replace(source, rejected=(*rejected, *(unlisted if Path(photos).is_dir() else ())))


def planned_source(source: PhotoSource | Path, out: Path | str) -> PhotoSource | None:
    """Return the source itself or, for photos whose faces are to be found, that of an earlier run; None before it."""
    if isinstance(source, PhotoSource):
        return source
    folder, _ = list_photos(source)
    table = Workspace(Path(out)).landmark_table_path
    return read_folder(folder, table) if table.is_file() else None


def prepare_source(
    source: PhotoSource | Path,
    out: Path | str,
    *,
    faces: FaceChoice | None = None,
    check_landmarks: bool | None = None,
    reject_doubtful: bool = False,
    landmark_model: Path | str | None = None,
    workers: int | None = None,
    shard: Shard | None = None,
    accept: Accept | None = None,
) -> PhotoSource:
    """Find or check the landmarks of a source before a build.

    Args:
        source: photos with landmarks, or the path of photos whose faces are to be found.
        out: run directory of the build.
        faces: see `find_source`; only for a path.
        check_landmarks: whether given landmarks are compared with the detector's. None compares those of a table of
            one's own where the model file of the detector can be had, and not CelebA's.
        reject_doubtful: whether photos are rejected where they differ; compares them.
        landmark_model: model file of the detector; by default it is downloaded once.
        workers: processes; by default one per core.
        shard: see `find_source`.
        accept: see `Accept`.

    Returns:
        The source; with `reject_doubtful`, doubtful photos are among its rejected ones.

    Raises:
        RecipeError: arguments that contradict each other.
        WeightsError: the model file is missing or cannot be read.
        WorkspaceLocked: another process works in the run directory.
        CelebAHQError: see `find_source`.
    """
    if not isinstance(source, PhotoSource):
        if check_landmarks or reject_doubtful:
            raise RecipeError(
                "`check_landmarks` and `reject_doubtful` compare a table with the face detector: give `landmarks` too, "
                "or leave them out"
            )
        return find_source(
            source, out, faces=faces or "all", workers=workers, model=landmark_model, shard=shard, accept=accept
        )
    if faces:
        raise RecipeError("`faces` chooses among the faces that are found; with a landmark table, leave it out")
    if check_landmarks is None:
        check_landmarks = reject_doubtful or source.is_own
    elif reject_doubtful and not check_landmarks:
        raise RecipeError("`reject_doubtful` needs the check of landmarks")
    if not check_landmarks:
        return source
    try:
        model = locate_model(landmark_model, "landmark_model")
    except WeightsError as error:
        if reject_doubtful or not source.is_own or landmark_model is not None:
            raise
        log.warning("warning: the landmarks are not checked: %s", error)
        return source
    workspace = Workspace(Path(out))
    with workspace.lock(shard):
        return _check_source(source, workspace, model, reject_doubtful, workers, accept)


def _check_source(
    source: PhotoSource, workspace: Workspace, model: Path, reject: bool, workers: int | None, accept: Accept | None
) -> PhotoSource:
    """Compare the landmarks of a source with the detector's, and record the doubtful ones for the report."""
    workspace.landmarks_path.mkdir(exist_ok=True)
    doubtful = check.check_landmarks(source, workspace.landmarks_path / "checked.jsonl", model, workers=workers)
    checked = check.reject_doubtful(source, doubtful) if reject else source
    if accept:
        accept(checked)
    write_json(workspace.doubtful_path, asdict(CheckedLandmarks(len(source.photos), doubtful)))
    if doubtful:
        log.warning(
            "warning: the detector does not confirm the landmarks of %d of %d faces; first: %s: %s",
            len(doubtful),
            len(source.photos),
            doubtful[0].file,
            doubtful[0].words,
        )
    return checked


# --- The report ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LandmarkSection:
    """The section on landmarks of a build report."""

    page: str | None
    """Address of the page of what was found, relative to the report."""
    checked: int
    """Photos whose landmarks were compared with the detector's."""
    doubtful: int
    """Photos where they differ."""
    shown: tuple[ShownPhoto, ...]
    """The worst of these."""


def landmark_section(workspace: Workspace, folder: Path) -> LandmarkSection | None:
    """Return what the report of a run says about landmarks; None where nothing was found or compared."""
    page, path = workspace.landmark_table_path.with_suffix(".html"), workspace.doubtful_path
    checked = CheckedLandmarks(0, ())
    if path.exists():
        values = read_json(path)
        doubtful = values.get("doubtful") if isinstance(values, dict) else None
        if isinstance(doubtful, list):
            doubtful = tuple(read_table(DoubtfulPhoto, one, path, "doubtful") for one in doubtful)
            values = {**values, "doubtful": doubtful}
        checked = read_table(CheckedLandmarks, values, path, "landmarks")
    if not (checked.photos or page.is_file()):
        return None
    shown = tuple(_shown(folder, one, workspace.report_path) for one in checked.doubtful[:DOUBTFUL_SHOWN])
    address = link(page, workspace.report_path) if page.is_file() else None
    return LandmarkSection(address, checked.photos, len(checked.doubtful), shown)


def _shown(folder: Path, one: DoubtfulPhoto, report: Path) -> ShownPhoto:
    thumbnail = thumbnails.of_photo(folder, one.file, THUMBNAIL_PX)
    faces = []
    if thumbnail:
        scale = thumbnail.width_px / one.size[0]
        for kind, row, words in (("unused", one.landmarks, "given"), ("used", one.found, "found")):
            if row:
                faces.append(draw_face(np.array(row).reshape(5, 2), scale, kind, words))
    address = link(photo_path(folder, one.file), report)
    return ShownPhoto(printable(one.file), ("none",), thumbnail, tuple(faces), one.words, address)
