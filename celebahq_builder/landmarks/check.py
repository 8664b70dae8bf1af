"""Comparison of given landmarks with those that the detector finds."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from celebahq_builder.errors import printable
from celebahq_builder.image_set import utf8_name
from celebahq_builder.imaging.geometry import normalized_mean_error
from celebahq_builder.landmarks.search import SearchedPhoto, SearchSettings, search_folder
from celebahq_builder.outcome import Reason, Rejected
from celebahq_builder.sources.photo import Photo, PhotoSource, is_mirrored
from celebahq_builder.storage import RecordLog

log = logging.getLogger(__name__)

DISTANCE_MAX = 0.25
"""Largest mean distance of given landmarks from those of the detector, as a share of the given distance of the eyes.
Manual landmarks such as CelebA's have a median of 0.08."""


@dataclass(frozen=True)
class DoubtfulPhoto:
    """A photo whose landmarks the detector does not confirm."""

    id: str
    file: str
    face: str
    """See `sources.photo.Photo.face`."""
    size: tuple[int, int]
    """Width and height of the photo in px."""
    distance: float | None
    """Mean distance from the landmarks of the nearest face that was found, in distances of the eyes; None if none
    was."""
    landmarks: tuple[float, ...]
    """Given landmarks."""
    found: tuple[float, ...]
    """Landmarks of the nearest face that was found; empty if none was."""

    @property
    def words(self) -> str:
        """The finding, in one line."""
        if self.distance is None:
            return "the detector finds no face"
        return (
            f"the nearest face that the detector finds is {self.distance:.2f} distances of the eyes away; at most "
            f"{DISTANCE_MAX} is expected"
        )


def check_landmarks(
    source: PhotoSource, log_path: Path, model: Path, *, workers: int | None = None
) -> tuple[DoubtfulPhoto, ...]:
    """Return the photos whose landmarks the detector does not confirm, the worst first; a killed call resumes.

    A photo that cannot be read is not among them: a build rejects it anyway.

    Args:
        source: photos with landmarks.
        log_path: file that holds what was found; its folder must exist.
        model: model file of the detector, see `detector.locate_model`.
        workers: processes; by default one per core. The result does not depend on it.

    Raises:
        WeightsError: the model file cannot be read.
        WorkspaceError: `log_path` is not a log of this function, or the disk failed.
    """
    doubtful = _doubtful(source.photos, source.folder, log_path, model, workers, refine=False)
    # One detection turns the landmarks of a tilted face towards the horizontal, so doubtful photos are seen again.
    ids = {one.id for one in doubtful}
    again = [photo for photo in source.photos if photo.id in ids]
    refined_path = log_path.with_stem(f"{log_path.stem}-refined")
    doubtful = _doubtful(again, source.folder, refined_path, model, workers, refine=True) if again else []
    return tuple(sorted(doubtful, key=lambda one: (-(one.distance or np.inf), one.id)))


def _doubtful(
    photos: Sequence[Photo], folder: Path, log_path: Path, model: Path, workers: int | None, *, refine: bool
) -> list[DoubtfulPhoto]:
    """Return the photos whose landmarks the detector does not confirm, with or without averaging over views."""
    by_file: defaultdict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        by_file[photo.file].append(photo)
    doubtful, unread = [], []
    settings = SearchSettings(model, refine=refine, thumbnails=False)
    title = "check of doubtful landmarks" if refine else "check of landmarks"
    with RecordLog(log_path, "landmark check", settings.identity()) as records:
        for searched in search_folder(folder, list(by_file), records, settings, workers=workers, title=title):
            if searched.problem is None:
                compared = [_compare(photo, searched) for photo in by_file[searched.file]]
                doubtful += [one for one in compared if one and (one.distance is None or one.distance > DISTANCE_MAX)]
            else:
                unread.append(f"{printable(searched.file)}: {printable(searched.problem[1])}")
    if unread:
        log.warning("warning: %d photos could not be compared; first: %s", len(unread), unread[0])
    return doubtful


def _compare(photo: Photo, searched: SearchedPhoto) -> DoubtfulPhoto | None:
    """Return the comparison of a photo, or None for landmarks that a build rejects anyway."""
    given = photo.points
    if np.hypot(*(given[1] - given[0])) < 1 or is_mirrored(photo.landmarks):
        return None
    distance: float | None = None
    found: tuple[float, ...] = ()
    if searched.faces:
        errors = [normalized_mean_error(face.landmarks, given) for face in searched.faces]
        distance, found = round(min(errors), 4), searched.faces[int(np.argmin(errors))].row
    return DoubtfulPhoto(photo.id, photo.file, photo.face, searched.size, distance, photo.landmarks, found)


def reject_doubtful(source: PhotoSource, doubtful: tuple[DoubtfulPhoto, ...]) -> PhotoSource:
    """Return a source in which doubtful photos are rejected."""
    ids = {one.id for one in doubtful}
    rejected = [Rejected(utf8_name(one.file), Reason.DOUBTFUL_LANDMARKS, one.words, one.face) for one in doubtful]
    photos = tuple(photo for photo in source.photos if photo.id not in ids)
    return source.with_photos(photos, (*source.rejected, *rejected))
