"""Score the aligned picture by its power spectrum."""

from __future__ import annotations

from dataclasses import dataclass

from celebahq_builder.imaging.spectrum import quality_score
from celebahq_builder.stages.face import Face

VERSION = 1


@dataclass(frozen=True)
class Settings:
    """The score has nothing to set."""


def apply(face: Face) -> Face:
    """Return the face with ``score``, ``breadth`` and ``symmetry`` recorded; see `imaging.spectrum`."""
    quality = quality_score(face.pixels)
    return face.noted(score=quality.score, breadth=quality.breadth, symmetry=quality.symmetry)
