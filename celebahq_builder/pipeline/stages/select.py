"""Selection of the best photos by score."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from celebahq_builder.outcome import PhotoKey, QualityScore, Reason, Rejected, counted
from celebahq_builder.pipeline.face import Identity, ImageRecord, PhotoRecord, read_part
from celebahq_builder.pipeline.results import read_records
from celebahq_builder.pipeline.stage import DatasetContext, DatasetStage
from celebahq_builder.pipeline.stages.crop import CropRecord
from celebahq_builder.run_directory.state import StageCounts
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.photo import COLUMNS
from celebahq_builder.storage import csv_bytes, path_cell, write_atomic

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelectSettings:
    """The size of the selection."""

    keep: int = 30_000
    """Photos to keep; fewer if fewer were good enough."""

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"select.keep = {self.keep} must be at least 1")


@dataclass(frozen=True)
class SelectRecord:
    """The rank of a selected photo."""

    rank: int
    """From 1, the best."""

    def __post_init__(self) -> None:
        if not 1 <= self.rank < 2**31:
            raise ValueError(f"rank {self.rank} is out of range")


class Candidate(NamedTuple):
    """A scored photo."""

    key: PhotoKey
    id: str
    score: float


class SelectStage(DatasetStage[SelectSettings]):
    """Rank the photos by their scores, and keep the best."""

    name = "select"

    Settings = SelectSettings
    Record = SelectRecord

    def most_kept(self, settings: SelectSettings, photos: int) -> int:
        """Return the size of the selection."""
        return min(photos, settings.keep)

    def files(self, workspace: Workspace, resolution: int) -> tuple[Path, ...]:
        """Return the path of the table of selected photos."""
        return (workspace.selection_path,)

    def run(self, settings: SelectSettings, context: DatasetContext) -> StageCounts:
        """Write selection.csv and the manifest: selected photos with their whole records, then the others."""
        workspace = context.workspace
        [score] = [name for name, kind in context.record_types.items() if kind is QualityScore]
        candidates = [
            Candidate(one.key, read_part(one, "identity", Identity).id, read_part(one, score, QualityScore).score)
            for one in workspace.stage(context.photo_stage).kept()
        ]
        selected, low = select_best(candidates, settings.keep)

        ranks = {one.key: rank for rank, one in enumerate(selected, start=1)}
        image_of = {
            one.key: read_part(one, "image", ImageRecord)
            for one in workspace.stage(context.image_stage).kept()
            if one.key in ranks
        }
        records = read_records(workspace.stage(context.photo_stage), context.record_types, ranks.keys())
        ranked = [one.with_part(image_of[one.key]).with_part(SelectRecord(ranks[one.key])) for one in records]
        ranked.sort(key=lambda one: one[SelectRecord].rank)

        write_atomic(workspace.selection_path, selection_csv(ranked))
        kept = [one.kept(context.record_types) for one in ranked]
        workspace.stage(self.name).write_manifest(0, [*kept, *low])
        if len(ranked) < settings.keep <= (photos := len(context.inputs.source.photos)):
            enough = f"{len(ranked)} of {counted(photos, context.inputs.source.counts.unit)}"
            log.warning("select: only %s were good enough, fewer than keep = %d; all are kept", enough, settings.keep)
        return StageCounts(photos=len(candidates), batches=1, kept=len(ranked), rejected=len(low))


def select_best(candidates: Iterable[Candidate], keep: int) -> tuple[list[Candidate], list[Rejected]]:
    """Split scored photos into the `keep` best, best first, and the others, best first.

    Photos of equal score are ordered by id, so the result does not depend on the order of `candidates`.
    """
    ranked = sorted(candidates, key=lambda one: (-one.score, one.id))
    selected, others = ranked[:keep], ranked[keep:]
    rejected = []
    for one in others:
        detail = f"score {one.score:.4f}; the last one kept has {selected[-1].score:.4f}"
        file, face = one.key
        rejected.append(Rejected(file, Reason.LOW_SCORE, detail, face))
    return selected, rejected


def selection_csv(selected: Sequence[PhotoRecord]) -> bytes:
    """Return the table of selected photos: rank, id, file, score, landmarks, crop in the photo, zoom, split."""
    corners = [f"quad{i}_{axis}" for i in range(4) for axis in "xy"]
    rows = [["rank", "id", "file", "score", *COLUMNS, *corners, "zoom", "split"]]
    for one in selected:
        crop, identity = one[CropRecord], one.identity
        quad = [f"{value:.3f}" for point in crop.quad for value in point]
        landmarks = [f"{value:g}" for value in identity.landmarks]
        score, zoom, rank = f"{one[QualityScore].score:.6f}", f"{crop.zoom:.6f}", str(one[SelectRecord].rank)
        rows.append([rank, identity.id, path_cell(one.file), score, *landmarks, *quad, zoom, identity.split])
    return csv_bytes(rows)
