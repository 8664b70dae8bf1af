"""Faces with true landmarks, from a folder in CelebA's layout, for training and validation."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from celebahq_builder.errors import TrainingError
from celebahq_builder.image_set import Pixels, photo_path
from celebahq_builder.imaging.geometry import Points
from celebahq_builder.imaging.image_io import open_rgb
from celebahq_builder.landmarks.crops import crop_matrix, sample_crop, transform
from celebahq_builder.limits import MAX_IMAGE_PIXELS
from celebahq_builder.outcome import Rejection
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.photo import Photo, is_mirrored
from celebahq_builder.storage import read_file, sha256
from celebahq_builder.training.interface import IN_MEMORY_BYTES, PHOTO_LIMIT, Photos, split

log = logging.getLogger(__name__)

CONTEXT_PX = 208
"""Width and height of the crops that are kept of photos. Their pixels are a little smaller than the network's."""

CONTEXT_SHARE = 1.6
"""Width and height of these crops as a share of the side of CelebA-HQ's crop: they hold all augmented crops."""

Face = tuple[Pixels, Points]
"""A crop around a face, uint8 [CONTEXT_PX, CONTEXT_PX, 3], RGB, and its true landmarks [5, 2]."""


@dataclass(frozen=True)
class LandmarkFaces(Photos):
    """The faces of a folder, split into training faces and held-out faces."""

    folder: Path
    """Folder of the photos."""
    training: tuple[Face | Photo, ...]
    """Crops, or photos that are decoded for every use."""
    held_out: tuple[Face, ...]
    digest: str
    """Hash of the names and landmarks of all faces; it identifies them in a checkpoint."""

    @classmethod
    def read(cls, root: Path, *, held_out: int, in_memory_bytes: int = IN_MEMORY_BYTES) -> LandmarkFaces:
        """Read a folder in CelebA's layout.

        Rows that cannot be used, missing files and damaged photos are left out and logged.

        Args:
            root: see `sources.celeba.read_celeba`.
            held_out: number of photos for validation; see `training.interface.split`.
            in_memory_bytes: see `IN_MEMORY_BYTES`.

        Raises:
            SourceError: the folder cannot be read.
            TrainingError: fewer than 2 * `held_out` photos can be used.
        """
        source = read_celeba(root)
        left_out = [f"{one.photo}: {one.detail}" for one in source.rejected]
        photos = []
        for photo in source.photos:
            if problem := _problem(source.folder, photo):
                left_out.append(f"{photo.file}: {problem}")
            else:
                photos.append(photo)
        if len(photos) < 2 * held_out:
            raise TrainingError(
                f"`celeba_root` {root}: {len(photos)} of {len(photos) + len(left_out)} photos can be used"
                + (f" (the first problem is {left_out[0]})" if left_out else "")
                + f"; training needs {2 * held_out} or more, twice held_out of the recipe"
            )
        training, validation = split(photos, held_out)
        kept = in_memory_bytes // (3 * CONTEXT_PX**2)
        listing = "".join(f"{photo.file} {photo.landmarks}\n" for photo in photos)
        faces = cls(
            source.folder,
            (*_read_faces(source.folder, training[:kept], left_out), *training[kept:]),
            tuple(_read_faces(source.folder, validation, left_out)),
            sha256(listing.encode())[:16],
        )
        if left_out:
            log.warning("warning: %d photos or rows are left out, the first is %s", len(left_out), left_out[0])
        if not faces.training or not faces.held_out:
            raise TrainingError(f"`celeba_root` {root}: no photo can be decoded; the first is {left_out[-1]}")
        return faces

    def face(self, index: int) -> Face:
        """Return a training face.

        Raises:
            TrainingError: the photo is decoded now, and is damaged.
        """
        face = self.training[index]
        if not isinstance(face, Photo):
            return face
        try:
            return _read_face(self.folder, face)
        except _Unreadable as error:
            raise TrainingError(
                f"training photo {photo_path(self.folder, face.file)} cannot be read: {error}; replace it, or remove "
                "its row from the landmark table"
            ) from None


class _Unreadable(Exception):
    """A photo cannot be decoded."""


def _problem(folder: Path, photo: Photo) -> str:
    """Return why the network cannot learn from a photo; an empty string if it can."""
    if not photo_path(folder, photo.file).is_file():
        return "the file is missing"
    if is_mirrored(photo.landmarks):
        return "the face is mirrored"
    try:
        crop_matrix(_points(photo), CONTEXT_PX, CONTEXT_SHARE)
    except ValueError as error:
        return str(error)
    return ""


def _points(photo: Photo) -> Points:
    return np.array(photo.landmarks, dtype=np.float64).reshape(5, 2)


def _read_faces(folder: Path, photos: Iterable[Photo], left_out: list[str]) -> list[Face]:
    """Return the crops of photos; the names and problems of damaged ones are added to `left_out`."""
    faces = []
    for photo in photos:
        try:
            faces.append(_read_face(folder, photo))
        except _Unreadable as error:
            left_out.append(f"{photo.file}: {error}")
    return faces


def _read_face(folder: Path, photo: Photo) -> Face:
    """Return the crop of a photo and its landmarks.

    Raises:
        _Unreadable: the photo cannot be decoded.
    """
    try:
        image, _ = open_rgb(read_file(photo_path(folder, photo.file)), MAX_IMAGE_PIXELS, PHOTO_LIMIT)
    except Rejection as error:
        raise _Unreadable(error.detail) from None
    except OSError as error:
        raise _Unreadable(error.strerror or str(error)) from None
    points = _points(photo)
    matrix = crop_matrix(points, CONTEXT_PX, CONTEXT_SHARE)
    return sample_crop(np.asarray(image), matrix, CONTEXT_PX), transform(matrix, points)
