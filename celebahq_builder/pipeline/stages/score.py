"""Quality score of the aligned face by its power spectrum."""

from __future__ import annotations

from collections.abc import Sequence

from celebahq_builder.outcome import QualityScore
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.stage import NoSettings, PhotoContext, PhotoStage

VERSION = 4


class ScoreStage(PhotoStage[NoSettings]):
    """Compute the quality score of each face; see `imaging.quality_score`."""

    name = "score"

    version = VERSION
    Settings = NoSettings
    Record = QualityScore
    saves_image = False
    grouped = True

    def run(self, faces: Sequence[Face], settings: NoSettings, context: PhotoContext) -> list[Face]:
        """Return the faces, all of one size, with their scores; they are scored as one batch."""
        import torch

        from celebahq_builder.imaging.quality_score import quality_scores

        scores = quality_scores(torch.stack([face.pixels for face in faces]))
        return [face.with_record(score) for face, score in zip(faces, scores, strict=True)]
