"""What a user asks of a build."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from celebahq_builder.stages.recipe import BuildRecipe


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    out: Path
    recipe: BuildRecipe
    origins: dict[str, str] = field(default_factory=dict)
    """Where each setting that is not a default comes from, by dotted name."""
    workers: int = 1
    device: str = "auto"
    limit: int | None = None
    ids: str | None = None
    """Hash of the list of ids asked for."""
    until: str = "pack"
    start: str | None = None
    redo: str | None = None
    deltas: Path | None = None
    """Folder of the official deltas; for photos of an image list, with the exact method."""
