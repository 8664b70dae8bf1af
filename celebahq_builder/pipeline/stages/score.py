"""Score the aligned image by its power spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from celebahq_builder.imaging.quality_score import quality_scores
from celebahq_builder.pipeline.face import Face

VERSION = 4


@dataclass(frozen=True)
class ScoreSettings:
    """The score has nothing to set."""


def apply(face: Face) -> Face:
    """Return the face with its score and the parts of it recorded; see `imaging.spectrum.QualityScore`."""
    return apply_all([face])[0]


def apply_all(faces: Sequence[Face]) -> list[Face]:
    """Return what `apply` makes of faces of one size, all on one device and scored as one batch."""
    scores = quality_scores(torch.stack([face.pixels for face in faces]))
    return [face.noted(**asdict(score)) for face, score in zip(faces, scores, strict=True)]
