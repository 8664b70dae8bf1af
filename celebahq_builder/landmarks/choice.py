"""Choice of the faces of a photo that are used, and the reasons against the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from celebahq_builder.errors import RecipeError
from celebahq_builder.image_set import utf8_name
from celebahq_builder.landmarks import detector
from celebahq_builder.landmarks.detector import DetectedFace
from celebahq_builder.landmarks.search import VIEWS, SearchedPhoto
from celebahq_builder.outcome import Reason, Rejected

FaceChoice = Literal["all", "largest", "central"]
"""Faces of a photo that are used: all, the one with the largest crop, or the one nearest to the centre of the photo."""

MIN_FACE_PX = 48
MIN_CONFIDENCE = 0.8

MAX_SPREAD = 0.25
"""Profiles have more; of 200 faces of CelebA's kind, none has more than 0.2."""

MIN_VIEWS = 3
"""Least number of views, of six, that find a face again. Blurred faces and false detections have fewer."""


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

    def chosen(self, photo: SearchedPhoto) -> list[DetectedFace]:
        """Return the faces of a photo that are used, from left to right."""
        if utf8_name(photo.file) != photo.file:
            return []
        usable = [face for face in photo.faces if self.problem(face) is None]
        if self.faces == "all" or not usable:
            return usable
        if self.faces == "largest":
            return [max(usable, key=lambda face: face.crop_px)]
        centre = (np.array(photo.size) - 1) / 2
        return [min(usable, key=lambda face: float(np.hypot(*(face.landmarks.mean(axis=0) - centre))))]

    def problem(self, face: DetectedFace) -> str | None:
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
        if name != photo.file:
            return Rejected(name, Reason.UNREADABLE, "the file name is not UTF-8; rename the file")
        if self.chosen(photo):
            return None
        if not photo.faces:
            return Rejected(name, Reason.NO_FACE, "the detector found none")
        best = max(photo.faces, key=lambda face: (face.confidence >= self.min_confidence, face.crop_px))
        is_small = best.confidence >= self.min_confidence and best.crop_px < self.min_face_px
        return Rejected(name, Reason.FACE_TOO_SMALL if is_small else Reason.NO_FACE, self.problem(best) or "")
