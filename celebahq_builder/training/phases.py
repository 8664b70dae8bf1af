"""A training run's stretches, small patches first and larger ones last, and what all recipes share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one patch size."""

    steps: int
    patch_px: int
    """Side of the network's input patches."""
    batch: int
    """Patches per step, over all processes."""


class Phased:
    """What every recipe has, and what it can tell of its phases."""

    phases: tuple[Phase, ...]
    ema: float
    validate_every: int
    held_out: int

    @property
    def steps(self) -> int:
        """Total number of steps."""
        return sum(p.steps for p in self.phases)

    def phase_at(self, step: int) -> Phase:
        """Return the phase that step `step`, counted from 0, belongs to."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]

    def check(self) -> None:
        """Raise ValueError for what makes no sense in any recipe."""
        if not self.phases or min(min(p.steps, p.batch) for p in self.phases) < 1:
            raise ValueError("phases must name at least one phase of one step and one patch")
        if any(p.patch_px % 16 or p.patch_px < 16 for p in self.phases):
            raise ValueError("patch_px must be a multiple of 16 in every phase")
        if self.validate_every < 1 or self.held_out < 1:
            raise ValueError("validate_every and held_out must be at least 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema = {self.ema} must be in [0, 1)")
