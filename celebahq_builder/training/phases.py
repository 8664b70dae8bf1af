"""A training run's stretches: small patches first, larger ones last."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one patch size."""

    steps: int
    patch_px: int
    """Side of the network's input patches."""
    batch: int


class Phased:
    """What every recipe that has phases can tell of them."""

    phases: tuple[Phase, ...]

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
