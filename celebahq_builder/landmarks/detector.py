"""Faces in an image, and their five landmarks, by OpenCV's detector YuNet; its model file, downloaded once.

References:
    Wu, Peng, Yu 2023, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 20.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import WeightsError
from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.geometry import Crop, Points, crop_from_landmarks
from celebahq_builder.imaging.orientation import MIRRORED
from celebahq_builder.landmarks.crops import crop_matrix, inverse, sample_crop, transform
from celebahq_builder.storage import read_file, sha256

log = logging.getLogger(__name__)

SEARCH_PX = (320, 960)
"""Longer side at which an image is searched: small for large faces, large for small ones. YuNet was trained on faces of
10 to 300 px."""

CONFIDENCE_FLOOR = 0.5
"""Least confidence of a face of `FaceDetector.detect`."""

VIEW_CONFIDENCE_FLOOR = 0.3
"""Least confidence of a face in a view of `FaceDetector.refine`."""

OVERLAP_MAX = 0.3
"""Largest intersection over union of two faces; of two that overlap more, the one of lower confidence is dropped."""

FACES_MAX = 5000
"""Largest number of faces in an image."""

VIEW_PX = 384
"""Side length of the upright crop in which landmarks are found again."""

VIEW_ROTATIONS_DEG = (-8.0, 0.0, 8.0)
"""Rotations of that crop. Each is seen as it is and mirrored, and the landmarks of all views are averaged."""

PASSES_MAX = 3
"""Most passes of `FaceDetector.refine`."""

TURN_DEG = 5.0
"""Turn of the crop after which another pass follows."""

SURE_CONFIDENCE = 0.9
"""Confidence below which a face may lie on its side or stand on its head."""

TURN_SHARE = 1.5
"""Width of turned views as a share of the crop's, because the landmarks of a turned face are wrong."""

VIEW_DISTANCE_MAX = 0.25
"""Largest mean distance of a view's landmarks from the first ones, in half side lengths of the crop; a view that finds
something else is left out."""


@dataclass(frozen=True, eq=False)
class DetectedFace:
    """A face in an image."""

    landmarks: Points
    """[5, 2] in px, (0, 0) is the centre of the first pixel: left eye, right eye, nose, left and right corner of the
    mouth; left and right as the viewer sees them."""
    confidence: float
    """Confidence of the detector, 0 to 1; `FaceDetector.refine` makes it the mean over all views."""
    spread: float = 0.0
    """Standard deviation of the landmarks over all views, in distances of the eyes; 0 without views."""
    views: int = 0
    """Views of `refine` that found the face."""

    @property
    def row(self) -> tuple[float, ...]:
        """The landmarks as ten numbers, in the order of `sources.photo.COLUMNS`."""
        return tuple(self.landmarks.ravel().tolist())

    @property
    def crop(self) -> Crop | None:
        """The square that CelebA-HQ crops; None where the landmarks leave it undefined."""
        try:
            return crop_from_landmarks(self.landmarks)
        except ValueError:
            return None

    @property
    def crop_px(self) -> float:
        """Side length of the crop; 0 where the landmarks leave it undefined."""
        return self.crop.side if self.crop else 0.0


class FaceDetector:
    """A detector of faces; results do not depend on what it has seen before.

    Args:
        model: model file, see `locate_model`.

    Raises:
        WeightsError: OpenCV cannot read the file.
    """

    def __init__(self, model: Path) -> None:
        try:
            with _quiet_opencv():
                self._net = cv2.FaceDetectorYN.create(
                    str(model), "", (32, 32), VIEW_CONFIDENCE_FLOOR, OVERLAP_MAX, FACES_MAX
                )
                list(self._candidates(np.zeros((32, 32, 3), np.uint8)))
        except cv2.error as error:
            reason = " ".join(str(error.err or error).split())[:120]
            raise WeightsError(
                f"OpenCV {cv2.__version__} cannot read {model} as a model of YuNet ({reason}); OpenCV 5 needs "
                "face_detection_yunet_2026may.onnx, OpenCV 4 face_detection_yunet_2023mar.onnx"
            ) from None

    def detect(self, image: Pixels) -> list[DetectedFace]:
        """Return the faces of an image, from left to right.

        The image is searched at each of `SEARCH_PX` that does not enlarge it. If that finds no face, the image is
        turned by 90, 180 and 270 degrees.

        Args:
            image: uint8 [H, W, 3], RGB.
        """
        kept = self._search(image)
        for turns in (1, 2, 3) if not kept else ():
            to_image = np.linalg.matrix_power(np.array([[0.0, 1.0], [-1.0, 0.0]]), turns)
            turned = np.rot90(image, turns)
            centres = (np.array(turned.shape[1::-1]) - 1) / 2, (np.array(image.shape[1::-1]) - 1) / 2
            found = self._search(turned)
            if found and max(face.confidence for face in found) > max((face.confidence for face in kept), default=0):
                kept = [
                    replace(face, landmarks=(face.landmarks - centres[0]) @ to_image + centres[1]) for face in found
                ]
        return sorted(kept, key=lambda face: float(face.landmarks[:2, 0].mean()))

    def _search(self, image: Pixels) -> list[DetectedFace]:
        height, width = image.shape[:2]
        longest = max(width, height)
        found = []
        for side in sorted({min(side, longest) for side in SEARCH_PX}):
            scale = side / longest
            size = max(round(width * scale), 1), max(round(height * scale), 1)
            factor = np.array([width / size[0], height / size[1]])
            for box, landmarks, confidence in self._candidates(reduce(image, size) if scale < 1 else image):
                if confidence >= CONFIDENCE_FLOOR:
                    found.append((box.reshape(2, 2) * factor, (landmarks + 0.5) * factor - 0.5, confidence))
        found.sort(key=lambda one: -one[2])
        kept: list[tuple[NDArray[np.float64], Points, float]] = []
        for one in found:
            if all(_overlap(one[0], other[0]) <= OVERLAP_MAX for other in kept):
                kept.append(one)
        return [DetectedFace(landmarks, confidence) for _, landmarks, confidence in kept]

    def refine(self, image: Pixels, face: DetectedFace) -> DetectedFace:
        """Return a face with the mean of the landmarks that are found in rotated and mirrored views of its crop.

        The detector turns the landmarks of a tilted face towards the horizontal, so they are found again in the new
        crop where that is turned by more than `TURN_DEG`. A face of low confidence may lie on its side or stand on its
        head; it is also searched in turned views.

        Args:
            image: uint8 [H, W, 3], RGB.
            face: of `detect`.
        """
        refined = self._converge(image, face)
        if face.confidence < SURE_CONFIDENCE and (turned := self._turned(image, face)):
            other = self._converge(image, turned)
            if (other.views, other.confidence) > (refined.views, refined.confidence):
                return other
        return refined

    def _converge(self, image: Pixels, face: DetectedFace) -> DetectedFace:
        for _ in range(PASSES_MAX):
            before = face.crop
            face = self._average_views(image, face)
            after = face.crop
            if before is None or after is None or before.turn_deg(after) <= TURN_DEG:
                break
        return face

    def _turned(self, image: Pixels, face: DetectedFace) -> DetectedFace | None:
        """Return the face that is found with the highest confidence in views turned by 90, 180 and 270 degrees."""
        crop = face.crop
        if crop is None:
            return None
        found = []
        for rotation in (90.0, 180.0, 270.0):
            matrix = crop_matrix(face.landmarks, VIEW_PX, TURN_SHARE, rotation_deg=rotation)
            for _, landmarks, confidence in self._candidates(sample_crop(image, matrix, VIEW_PX)):
                points = transform(inverse(matrix), landmarks)
                if np.hypot(*(points.mean(axis=0) - face.landmarks.mean(axis=0))) < crop.side / 4:
                    found.append(replace(face, landmarks=points, confidence=confidence))
        return max(found, key=lambda one: one.confidence, default=None)

    def _average_views(self, image: Pixels, face: DetectedFace) -> DetectedFace:
        """Return the face with the mean of landmarks and confidence over all views that find it."""
        crop = face.crop
        if crop is None:
            return face
        views = []
        for rotation, mirror in itertools.product(VIEW_ROTATIONS_DEG, (False, True)):
            matrix = crop_matrix(face.landmarks, VIEW_PX, 1.0, mirror=mirror, rotation_deg=rotation)
            found = []
            for _, landmarks, confidence in self._candidates(sample_crop(image, matrix, VIEW_PX)):
                points = transform(inverse(matrix), landmarks[MIRRORED] if mirror else landmarks)
                found.append((float(np.hypot(*(points - face.landmarks).T).mean()), points, confidence))
            if found:
                nearest = min(found, key=lambda one: one[0])
                if nearest[0] < VIEW_DISTANCE_MAX * crop.side / 2:
                    views.append(nearest)
        if not views:
            return face
        seen = np.stack([points for _, points, _ in views])
        mean = seen.mean(axis=0)
        eyes = float(np.hypot(*(mean[1] - mean[0])))
        spread = float(np.sqrt(((seen - mean) ** 2).sum(axis=-1).mean()) / max(eyes, 1e-6))
        confidence = float(np.mean([confidence for _, _, confidence in views]))
        return DetectedFace(mean, confidence, spread, len(views))

    def _candidates(self, image: Pixels) -> Iterator[tuple[NDArray[np.float64], Points, float]]:
        """Yield box (left, top, right, bottom), landmarks and confidence of each face, in px of this image."""
        self._net.setInputSize((image.shape[1], image.shape[0]))
        _, rows = self._net.detect(np.ascontiguousarray(image[..., ::-1]))
        for row in () if rows is None else rows.astype(np.float64):
            if np.isfinite(row).all():
                box = np.concatenate([row[:2], row[:2] + row[2:4]])
                yield box, row[4:14].reshape(5, 2), float(row[14])


def reduce(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Return an image [H, W, 3] reduced to (width, height) by the mean over the area of each pixel."""
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the intersection over union of two boxes [[left, top], [right, bottom]]."""
    shared = np.prod(np.clip(np.minimum(one[1], other[1]) - np.maximum(one[0], other[0]), 0, None))
    return float(shared / max(np.prod(one[1] - one[0]) + np.prod(other[1] - other[0]) - shared, 1e-9))


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Suppress the warnings that OpenCV 5 prints for every model."""
    levels = cv2.utils.logging
    before = levels.setLogLevel(levels.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        levels.setLogLevel(before)


# --- The model file -----------------------------------------------------------------------------------------------

MAX_MODEL_BYTES = 1 << 26
"""Bytes of a model file, 64 MB: YuNet has 0.2 MB."""


MODEL_FOLDER_URL = "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet"
"""The folder of the published model files; they are in Git LFS, so the address of a raw file would give a pointer."""

YUNET_FILES = {
    4: ("face_detection_yunet_2023mar.onnx", "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"),
    5: ("face_detection_yunet_2026may.onnx", "ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0"),
}
"""Name and SHA-256 of the model file by major version of OpenCV; the weights are the same. OpenCV 5 needs an input of
any size."""


def locate_model(path: Path | str | None = None, argument: str = "model") -> Path:
    """Return the path of the detector's model file: the one given, or the cached one, which is downloaded if needed.

    Args:
        path: a model file of YuNet; None for the published one.
        argument: name of the argument that gives it, for messages.

    Raises:
        WeightsError: the file is missing and cannot be downloaded, or the cached one has another SHA-256.
    """
    if path:
        return Path(path)
    import pooch  # takes 0.2 s

    name, digest = YUNET_FILES[5 if int(cv2.__version__.split(".")[0]) >= 5 else 4]
    url = f"{MODEL_FOLDER_URL}/{name}"
    cached = Path(pooch.os_cache("celebahq_builder")) / name
    if not cached.exists():
        log.info("downloading %s (0.2 MB) from %s to %s", name, url, cached.parent)
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        return Path(
            pooch.retrieve(
                url,
                f"sha256:{digest}",
                name,
                cached.parent,
                downloader=pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30),
            )
        )
    except (OSError, ValueError, RuntimeError) as error:  # requests' errors are OSErrors
        reason = "its SHA-256 differs" if isinstance(error, ValueError) else type(error).__name__
        raise WeightsError(
            f"the face detector {name} is not on this machine and cannot be downloaded ({reason}); get {url} (SHA-256 "
            f"{digest}) elsewhere, and put it into {cached.parent} or give its path as `{argument}`"
        ) from None


def model_sha256(path: Path) -> str:
    """Return the hash of a model file.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        return sha256(read_file(path, MAX_MODEL_BYTES))
    except OSError as error:
        raise WeightsError(f"`model` {path} cannot be read: {error.strerror}; give a model file of YuNet") from None
