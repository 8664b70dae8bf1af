"""Search of photos for faces, in worker processes and with a log from which a killed search resumes."""

from __future__ import annotations

import base64
import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from celebahq_builder import parallel
from celebahq_builder.errors import SourceError, WorkspaceError, printable
from celebahq_builder.image_set import IMAGE_SUFFIXES, Pixels, list_images, photo_path
from celebahq_builder.imaging import orientation
from celebahq_builder.imaging.image_io import EXIF_ORIENTATION, encode_jpeg, open_rgb
from celebahq_builder.landmarks import detector
from celebahq_builder.landmarks.detector import DetectedFace, FaceDetector, model_sha256
from celebahq_builder.limits import MAX_IMAGE_PIXELS
from celebahq_builder.outcome import Reason, Rejection
from celebahq_builder.progress import Progress
from celebahq_builder.storage import Record, RecordLog, read_file

if TYPE_CHECKING:
    from celebahq_builder.landmarks.refiner import Refiner

VIEWS = 2 * len(detector.VIEW_ROTATIONS_DEG)

VERSION = 1
"""Version of the records and of the detection; another version searches all photos again."""

BATCH_PHOTOS = 4
"""Photos that a worker gets at once; a kill costs at most this many per worker."""

THUMBNAIL_PX = 224
"""Longer side of a photo on the page."""


@dataclass(frozen=True)
class SearchedPhoto:
    """The faces of a photo, from left to right of the upright image, or why it could not be searched."""

    file: str
    size: tuple[int, int] = (0, 0)
    """Width and height of the stored image in px."""
    orientation: int = 1
    """EXIF orientation."""
    faces: tuple[DetectedFace, ...] = ()
    """Landmarks are those of the stored image."""
    problem: tuple[Reason | None, str] | None = None
    """Reason, None for an unexpected error, and finding."""

    @classmethod
    def from_record(cls, file: str, record: Record) -> SearchedPhoto:
        """Return the photo whose record `search_photo` made."""
        problem = record.get("problem")
        return cls(
            file,
            (int(record["size"][0]), int(record["size"][1])),
            orientation.checked(record["orientation"]),
            tuple(_face_of(numbers) for numbers in record["faces"]),
            (Reason(problem[0]) if problem[0] else None, str(problem[1])) if problem else None,
        )


def _face_of(numbers: Sequence[float]) -> DetectedFace:
    """Return a face from its 13 numbers in a record: landmarks, confidence, spread, views."""
    values = [float(number) for number in numbers]
    if len(values) != 13 or not np.isfinite(values).all():
        raise ValueError(f"expected 13 finite numbers for a face, got {len(values)}")
    return DetectedFace(np.reshape(values[:10], (5, 2)), values[10], values[11], int(values[12]))


# --- Detection, in worker processes -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search."""

    model: Path
    """Model file of the detector."""
    refine: bool
    """True if landmarks are averaged over several views."""
    thumbnails: bool
    """True if the records have thumbnails."""
    refiner: str | None = None
    """Weights of the refiner, see `refiner.Refiner.load`; None leaves it out."""

    def identity(self) -> dict[str, object]:
        """Return everything that a record depends on, apart from the photo, as JSON values."""
        weights = None
        if self.refiner:
            from celebahq_builder.landmarks.refiner import Refiner

            weights = Refiner.load(self.refiner).sha256()
        return {
            "version": VERSION,
            "model": model_sha256(self.model),
            "opencv": cv2.__version__,
            "search_px": [*detector.SEARCH_PX],
            "views": [detector.VIEW_PX, *detector.VIEW_ROTATIONS_DEG] if self.refine else [],
            "refiner": weights,
            "thumbnail_px": THUMBNAIL_PX if self.thumbnails else 0,
        }


@dataclass(frozen=True)
class SearchJob:
    """Photos to be searched by a worker process."""

    folder: Path
    files: tuple[str, ...]
    settings: SearchSettings


SearchedFile = tuple[str, os.stat_result | None, Record]
"""File, its status before it was read (None if it cannot be read), and the record."""


def search_files(job: SearchJob) -> list[SearchedFile]:
    """Search some photos in a worker process; an error of one photo is its record."""
    cv2.setNumThreads(1)
    return [search_file(job, file) for file in job.files]


def search_file(job: SearchJob, file: str) -> SearchedFile:
    """Search a photo.

    Raises:
        WorkspaceError: not enough memory, or the folder is gone.
    """
    path = photo_path(job.folder, file)
    empty = {"size": (0, 0), "orientation": 1, "faces": []}
    try:
        status = path.stat()
        data = read_file(path)
    except OSError as error:
        if not job.folder.is_dir():
            raise WorkspaceError(
                f"{job.folder} is gone; bring it back and run the same command, which resumes"
            ) from None
        return file, None, {**empty, "problem": (Reason.UNREADABLE, error.strerror or str(error))}
    try:
        image, _ = open_rgb(data, MAX_IMAGE_PIXELS, "the search for faces")
        turn = orientation.checked(image.getexif().get(EXIF_ORIENTATION, 1))
        return file, status, search_photo(np.asarray(image), turn, job.settings)
    except Rejection as rejection:
        return file, status, {**empty, "problem": (rejection.reason, rejection.detail)}
    except (MemoryError, cv2.error) as error:
        if isinstance(error, MemoryError) or error.code == cv2.Error.StsNoMem:
            raise WorkspaceError(f"out of memory at {file}; run the same command again with fewer `workers`") from None
        return file, status, {**empty, "problem": (None, " ".join(str(error).split()))}


@functools.lru_cache(maxsize=1)
def _detector(model: Path) -> FaceDetector:
    return FaceDetector(model)


@functools.lru_cache(maxsize=1)
def _refiner(weights: str) -> Refiner:
    import torch

    from celebahq_builder.landmarks.refiner import Refiner

    torch.set_num_threads(1)  # the split of a sum over threads decides its last bits
    return Refiner.load(weights)


def search_photo(stored: Pixels, exif: int, settings: SearchSettings) -> dict[str, object]:
    """Return the record of a photo, with positions in the stored image.

    Args:
        stored: the image as stored, uint8 [H, W, 3], RGB.
        exif: EXIF orientation, which is applied for the search.
    """
    finder = _detector(settings.model)
    image = np.ascontiguousarray(orientation.upright(stored, exif))
    size = stored.shape[1], stored.shape[0]
    faces = []
    for face in finder.detect(image):
        found = finder.refine(image, face) if settings.refine else face
        if settings.refiner and found.crop:
            found = replace(found, landmarks=_refiner(settings.refiner).refine(image, found.landmarks)[0])
        points = orientation.to_stored(found.landmarks, size, exif).ravel().round(2).tolist()
        faces.append([*points, round(found.confidence, 4), round(found.spread, 4), found.views])
    record: dict[str, object] = {"size": size, "orientation": exif, "faces": faces}
    if settings.thumbnails:
        height, width = image.shape[:2]
        small = detector.reduce(image, thumbnail_size(width, height))
        record["thumbnail"] = base64.b64encode(encode_jpeg(small.transpose(2, 0, 1), quality=75)).decode("ascii")
    return record


def thumbnail_size(width: int, height: int) -> tuple[int, int]:
    """Return width and height of the thumbnail of an image in px."""
    scale = thumbnail_scale(width, height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def thumbnail_scale(width: int, height: int) -> float:
    """Return the px of the thumbnail per px of the image, at most 1."""
    return min(1.0, THUMBNAIL_PX / max(width, height))


# --- A folder of photos -------------------------------------------------------------------------------------------


def list_photos(photos: Path) -> tuple[Path, list[str]]:
    """Return the folder of photos and the names of the photos in it; for a file, its folder and its name.

    Raises:
        SourceError: there are no photos.
    """
    try:
        if photos.is_file():
            return photos.parent, [photos.name]
        if not photos.is_dir():
            raise SourceError(f"`photos` {printable(str(photos))} is neither a folder of photos nor a photo")
    except OSError as error:
        raise SourceError(f"`photos` {str(photos)[:200]} cannot be read: {error.strerror}") from None
    files = list_images(photos, with_others=True)
    if not files:
        raise SourceError(f"`photos` {photos} holds no image files: looked for {', '.join(IMAGE_SUFFIXES)}")
    return photos, files


def search_folder(
    folder: Path,
    files: Sequence[str],
    log: RecordLog,
    settings: SearchSettings,
    *,
    workers: int | None,
    title: str = "landmarks",
) -> Iterator[SearchedPhoto]:
    """Search the photos of a folder that have no valid record; then yield all photos, in the order of `files`.

    Args:
        log: an open log of the `identity` of the settings; records of an earlier run are used again.
        workers: processes; None for one per core. The result does not depend on it.
        title: of the progress.
    """
    FaceDetector(settings.model)  # raises for a file that is no model, before any worker starts
    unreadable: dict[str, Record] = {}
    todo = [file for file in files if not _is_valid(folder, file, log)]
    if todo:
        jobs = [
            SearchJob(folder, tuple(todo[start : start + BATCH_PHOTOS]), settings)
            for start in range(0, len(todo), BATCH_PHOTOS)
        ]
        progress = Progress(title, len(files), len(files) - len(todo), judged=False)
        workers = min(workers or parallel.cores(), len(jobs))
        try:
            with closing(parallel.run(search_files, jobs, workers=workers)) as results:
                for searched in results:
                    for file, status, record in searched:
                        if status is None:
                            unreadable[file] = record
                        else:
                            log.add(file, status, record)
                    progress.advance(len(searched))
        finally:
            progress.close()
    for file in files:
        try:
            yield SearchedPhoto.from_record(file, unreadable.get(file) or log.latest(file))
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            raise WorkspaceError(f"{log.path}: the record of {file} was changed ({error}); delete {log.path}") from None


def _is_valid(folder: Path, file: str, log: RecordLog) -> bool:
    try:
        return log.is_valid(file, photo_path(folder, file).stat())
    except OSError:
        return False
