"""The status of every photo of a run, read from the manifests."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

from celebahq_builder import outcome
from celebahq_builder.outcome import Failed, Kept, PhotoKey, QualityScore, Rejected
from celebahq_builder.pipeline.face import Identity, ImageRecord, P, PhotoRecord, RecordTypes, read_part
from celebahq_builder.pipeline.stage import record_types
from celebahq_builder.pipeline.stages import load_stages
from celebahq_builder.pipeline.stages.crop import CropRecord
from celebahq_builder.pipeline.stages.upscale import UpscaleRecord
from celebahq_builder.run_directory.state import Ingredients, RunDescription, Table, fingerprint
from celebahq_builder.run_directory.workspace import StageFolder, Workspace
from celebahq_builder.storage import csv_bytes, path_cell, read_file, sha256

TABLE = "landmark table"
"""Name of the step before all stages, where the source rejects photos."""


@dataclass(slots=True)
class PhotoStatus:
    """Status of one photo."""

    file: str
    face: str = ""
    """Id of the face where the source has several faces of the file, else empty."""
    end: Rejected | Failed | None = None
    """Outcome of a photo that was rejected or failed; None while it is kept."""
    stage: str = ""
    """Name of the stage whose manifest holds this outcome."""
    id: str = ""
    batch: int = 0
    image: str = ""
    """Path of its image in the folder of the run's image stage; empty where it has none."""
    score: float | None = None
    zoom: float | None = None
    """Result px per photo px."""
    upscaled: int = 1
    """Factor by which the face was enlarged."""
    notes: tuple[str, ...] = ()
    """Conversions by the decoder; see `imaging.image_io.open_rgb`."""

    @property
    def key(self) -> PhotoKey:
        """File name, and the id of the face where the source has several faces of the file."""
        return self.file, self.face

    @property
    def name(self) -> str:
        """The file, and the id of the face where the source has several faces of the file, for people."""
        return f"{self.file} ({self.face})" if self.face else self.file


class PhotoStatuses:
    """The status of every photo that a stage has finished, from its outcomes."""

    def __init__(self, run: RunDescription) -> None:
        self.run = run
        self.names = {kind: name for name, kind in record_types(load_stages(run.method)).items()}
        """Name of a stage by the type of its record."""
        rejected = [outcome.from_json(values) for values in run.rejected_by_table]
        self.by_table = [
            PhotoStatus(*one.key, end=one, stage=TABLE, id=one.face) for one in rejected if isinstance(one, Rejected)
        ]
        self.by_key: dict[PhotoKey, PhotoStatus] = {}

    def add(self, stage: str, batch: int, result: outcome.Outcome) -> None:
        """Add the outcome of a photo at a stage. For each photo, the stages must come in order."""
        status = self.by_key.setdefault(result.key, PhotoStatus(*result.key, batch=batch, id=result.face))
        if status.end is not None:  # the first one counts
            return
        if not isinstance(result, Kept):
            status.end, status.stage = result, stage
            return
        # Each line repeats the tables of earlier stages, so values that are known are not read again.
        if not status.id:
            status.id = read_part(result, "identity", Identity).id
        if stage == self.run.image_stage and "image" in result.record:
            status.image = read_part(result, "image", ImageRecord).path
        if status.zoom is None and (crop := self._part(result, CropRecord)):
            status.zoom, status.notes = crop.zoom, crop.notes
        if status.upscaled == 1 and (upscale := self._part(result, UpscaleRecord)):
            status.upscaled = upscale.factor
        if status.score is None and (score := self._part(result, QualityScore)):
            status.score = score.score

    def _part(self, one: Kept, kind: type[P]) -> P | None:
        name = self.names.get(kind, "")
        return read_part(one, name, kind) if name in one.record else None

    def all(self) -> list[PhotoStatus]:
        """Return the statuses: first those of photos that the table rejected, then in the order of the outcomes."""
        return [*self.by_table, *self.by_key.values()]


def read_statuses(workspace: Workspace) -> PhotoStatuses:
    """Read the outcomes of all photos so far.

    Raises:
        WorkspaceError: the directory holds no run, or a manifest was changed or is corrupt.
    """
    run = workspace.run()
    statuses = PhotoStatuses(run)
    for name in run.stages:
        stage = workspace.stage(name)
        if name in run.photo_stages or stage.mark_path.exists():  # selection and packing count when they are complete
            for batch, one in stage.outcomes():
                statuses.add(name, batch, one)
    return statuses


def photo_statuses(workspace: Workspace) -> list[PhotoStatus]:
    """Return the statuses that `read_statuses` reads: those rejected by the table, then the others in photo order."""
    return read_statuses(workspace).all()


def read_records(
    folder: StageFolder, types: RecordTypes, keys: Container[PhotoKey] | None = None
) -> Iterator[PhotoRecord]:
    """Yield the records of the photos that a stage kept, in photo order: all, or those with certain keys."""
    for one in folder.kept():
        if keys is None or one.key in keys:
            yield PhotoRecord.from_kept(one, types)


def summary_fingerprint(workspace: Workspace, ingredients: Ingredients, rejected_by_table: list[Table]) -> str:
    """Return the fingerprint of a summary: of the last stage's ingredients, and of what was rejected before it."""
    table: Table = {"name": "table", "rejected": rejected_by_table}
    if workspace.doubtful_path.exists():
        table["doubtful"] = sha256(read_file(workspace.doubtful_path))
    return fingerprint([*ingredients, table])


def rejected_csv(outcomes: Iterable[tuple[str, outcome.Outcome]]) -> bytes:
    """Return the table of photos that are not kept: file, id, outcome, reason, detail.

    Args:
        outcomes: id and outcome of each photo; the id is empty for a row of the landmark table that makes no photo.
    """
    rows = [["file", "id", "outcome", "reason", "detail"]]
    for name, one in outcomes:
        if isinstance(one, Rejected):
            rows.append([path_cell(one.photo), name, "rejected", one.reason.value, one.detail])
        elif isinstance(one, Failed):
            rows.append([path_cell(one.photo), name, "failed", "", one.error])
    return csv_bytes(rows)
