"""Counts and times of a run's stages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from celebahq_builder.files import read_json
from celebahq_builder.ledger import TABLE, Standing
from celebahq_builder.outcome import Failed
from celebahq_builder.stages.recipe import PHOTO_STAGES
from celebahq_builder.workspace import Workspace


@dataclass(frozen=True)
class StageCount:
    """How many photos entered a stage, and how they left it."""

    names: tuple[str, ...]
    """The stage, after those before it that keep nothing on disk and so are counted with it."""
    entered: int
    kept: int
    rejected: int
    failed: int


@dataclass
class StageTime:
    """What a stage took, over all workers and all runs in the directory."""

    seconds: float = 0.0
    photos: int = 0

    @property
    def photos_per_s(self) -> float | None:
        """Photos per second of one worker; None if no time was measured."""
        return self.photos / self.seconds if self.seconds > 0 else None


@dataclass
class Timings:
    """What `timings.jsonl` says."""

    stages: dict[str, StageTime] = field(default_factory=dict)
    peak_memory_bytes: dict[str, int] = field(default_factory=dict)
    """Largest resident memory by process."""


def stage_counts(workspace: Workspace, stood: Iterable[Standing]) -> list[StageCount]:
    """Return the counts of the table and of each complete stage, in order."""
    ends = [(one.stage, isinstance(one.end, Failed)) for one in stood]
    entered, counts = len(ends), []
    complete = [name for name in workspace.run()["stages"] if workspace.stage(name).complete_path.exists()]
    for name in (TABLE, *complete):
        rejected, failed = ends.count((name, False)), ends.count((name, True))
        kept = entered - rejected - failed
        if name == "pack":
            kept = int(read_json(workspace.stage(name).complete_path)["kept"])
        counts.append(StageCount(_with_those_before(name, complete), entered, kept, rejected, failed))
        entered = kept
    return counts


def timings(workspace: Workspace) -> Timings:
    """Return what the run's stages took; empty if nothing was noted. Lines that a kill tore are passed over."""
    found = Timings()
    for line in _lines(workspace):
        for name, seconds in line["seconds"].items():
            stage = found.stages.setdefault(name, StageTime())
            stage.seconds += seconds
            stage.photos += line["photos"]
        for process, peak in line.get("peak_memory_bytes", {}).items():
            found.peak_memory_bytes[process] = max(peak, found.peak_memory_bytes.get(process, 0))
    return found


def _with_those_before(name: str, on_disk: list[str]) -> tuple[str, ...]:
    if name not in PHOTO_STAGES:
        return (name,)
    own = PHOTO_STAGES.index(name)
    first = max((PHOTO_STAGES.index(other) + 1 for other in PHOTO_STAGES[:own] if other in on_disk), default=0)
    return PHOTO_STAGES[first : own + 1]


def _lines(workspace: Workspace) -> Iterator[dict[str, Any]]:
    try:
        text = workspace.timings_path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("seconds"), dict):
            yield values
