"""The status of every photo of a run, read from the manifests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass

from celebahq_builder import outcome
from celebahq_builder.errors import WorkspaceError
from celebahq_builder.outcome import Failed, Kept, Outcome, Rejected
from celebahq_builder.pipeline.recipe import PHOTO_STAGES
from celebahq_builder.pipeline.workspace import StageFolder, Workspace

TABLE = "landmark table"
"""Where photos end that the source rejects before any stage sees them."""


@dataclass(slots=True)
class PhotoStatus:
    """How one photo stands."""

    file: str
    end: Rejected | Failed | None = None
    """Why it went no further; None while it is kept."""
    stage: str = ""
    """The stage on disk that filed `end`."""
    id: str = ""
    batch: int = 0
    score: float | None = None
    zoom: float | None = None
    """Pixels of the result per pixel of the photo, along a side."""
    upscaled: int = 1
    """Factor by which the upscaler enlarged it."""
    notes: tuple[str, ...] = ()
    """What the decoder had to convert; see `imaging.codec.open_rgb`."""


def photo_statuses(workspace: Workspace) -> list[PhotoStatus]:
    """Return how every photo stands: those rejected by the table first, then in photo order.

    A photo that no stage has finished yet is not among them.
    """
    run = workspace.run()
    rejected = [outcome.from_json(values) for values in run["rejected_by_table"]]
    ended = [PhotoStatus(one.photo, one, TABLE) for one in rejected if isinstance(one, Rejected)]
    found: dict[str, PhotoStatus] = {}
    for name in _decided(workspace, run["stages"]):
        for batch, one in workspace.stage(name).outcomes():
            _note(found.setdefault(one.photo, PhotoStatus(one.photo, batch=batch)), name, one)
    return [*ended, *found.values()]


def count_statuses(stood: Iterable[PhotoStatus]) -> dict[str, int]:
    """Return how many photos are kept, rejected and failed."""
    return _count(one.end for one in stood)


def records(workspace: Workspace, stages: Iterable[str], files: Set[str]) -> dict[str, Kept]:
    """Return all that some photo stages recorded of some photos that they kept, by file."""
    found: dict[str, Kept] = {}
    for name in stages:
        for _, one in workspace.stage(name).outcomes():
            if one.photo in files and isinstance(one, Kept):
                before = found.get(one.photo)
                found[one.photo] = Kept(one.photo, {**before.record, **one.record}) if before else one
    return found


def reconcile(stage: StageFolder, entering: Set[str], batches: int) -> tuple[dict[str, int], set[str]]:
    """Check that a stage accounts for every photo that entered it.

    Args:
        entering: files of the photos that the stage before kept.
        batches: how many manifests there should be.

    Returns:
        Counts of kept, rejected and failed among them, and the files of those kept.

    Raises:
        WorkspaceError: a manifest is missing, or a photo is in none.
    """
    seen = {one.photo: _end(one) for _, one in stage.outcomes() if one.photo in entering}
    done = len(stage.batches_done())
    if done != batches or len(seen) != len(entering):
        raise WorkspaceError(
            f"{stage.root}: {len(entering)} photos entered, {len(seen)} are accounted for in {done} of {batches} "
            f"batches; its files were altered from outside, --redo {stage.name} makes them again"
        )
    return _count(seen.values()), {photo for photo, end in seen.items() if end is None}


def _count(ends: Iterable[Rejected | Failed | None]) -> dict[str, int]:
    counts = Counter("kept" if end is None else type(end).__name__.lower() for end in ends)
    return {name: counts[name] for name in ("kept", "rejected", "failed")}


def _end(one: Outcome) -> Rejected | Failed | None:
    return None if isinstance(one, Kept) else one


def _decided(workspace: Workspace, stages: Iterable[str]) -> list[str]:
    """Return the stages whose manifests say how photos stand; a selection counts only once it is whole."""
    complete = workspace.stage("select").complete_path.exists()
    return [name for name in stages if name in PHOTO_STAGES or (name == "select" and complete)]


def _note(standing: PhotoStatus, stage: str, one: Outcome) -> None:
    if standing.end is not None:
        return
    if not isinstance(one, Kept):
        standing.end, standing.stage = one, stage
        return
    record = one.record
    standing.id = record["id"]
    standing.score = record.get("score", standing.score)
    standing.zoom = record.get("zoom", standing.zoom)
    standing.upscaled = record.get("upscaled", standing.upscaled)
    standing.notes = tuple(record.get("notes", standing.notes))
