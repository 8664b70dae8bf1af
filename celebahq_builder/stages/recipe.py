"""The whole of a build's settings: one table per stage, and what concerns them all."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from celebahq_builder.imaging.pyramid import levels
from celebahq_builder.stages import align, denoise, pack, region, score, select, upscale

PHOTO_STAGES = ("region", "denoise", "upscale", "align", "score")
"""Stages that work on one photo at a time, in order."""

STAGES = (*PHOTO_STAGES, "select", "pack")
"""The data flow, in order."""

ALWAYS_KEPT = ("align", "score")
"""Photo stages whose output always lies on disk."""


@dataclass(frozen=True)
class BuildRecipe:
    """Everything that decides the result of a build, apart from the photos; a file in ``pipelines/``."""

    resolution: int = 1024
    """Side of the result in px: a power of two, 64 to 2048."""
    method: Literal["paper", "exact"] = "paper"
    """``paper``: with the networks; ``exact``: the authors' public tool step by step, to the last bit, without any."""
    seed: int = 0
    """Of whatever is random: the order of a shuffled result."""
    keep_stages: tuple[str, ...] = ()
    """Stages whose pictures stay on disk beside those of align."""
    region: region.Settings = field(default_factory=region.Settings)
    denoise: denoise.Settings = field(default_factory=denoise.Settings)
    upscale: upscale.Settings = field(default_factory=upscale.Settings)
    align: align.Settings = field(default_factory=align.Settings)
    score: score.Settings = field(default_factory=score.Settings)
    select: select.Settings = field(default_factory=select.Settings)
    pack: pack.Settings = field(default_factory=pack.Settings)

    def __post_init__(self) -> None:
        levels(self.resolution)
        if not 64 <= self.resolution <= 2048:
            raise ValueError(f"resolution = {self.resolution} must be 64 to 2048")
        for name in self.keep_stages:
            if name not in PHOTO_STAGES:
                raise ValueError(f"keep_stages names {name!r}; stages with pictures are {', '.join(PHOTO_STAGES[:-1])}")
        if self.method == "exact":
            self._check_exact()

    def _check_exact(self) -> None:
        """Raise for a setting without effect: of the public tool's steps, none has anything to set."""
        for name in ("denoise", "upscale", "align"):
            given = getattr(self, name)
            for setting in dataclasses.fields(given):
                if (value := getattr(given, setting.name)) != setting.default:
                    raise ValueError(
                        f'{name}.{setting.name} = {value} has no effect with method = "exact"; leave out [{name}]'
                    )

    def kept(self) -> tuple[str, ...]:
        """Return the photo stages whose output lies on disk."""
        return tuple(name for name in PHOTO_STAGES if name in (*ALWAYS_KEPT, *self.keep_stages))
