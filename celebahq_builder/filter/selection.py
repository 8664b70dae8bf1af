"""Which images are kept: all records, best first, and where they are cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from celebahq_builder.errors import RecipeError
from celebahq_builder.filter.record import Scored


@dataclass(frozen=True)
class Cut:
    """How many are kept: one of these says it; none of them, that all are.

    Raises:
        RecipeError: more than one says it.
    """

    keep: int | None = None
    """So many."""
    min_score: float | None = None
    """All of at least this score."""
    top_percent: float | None = None
    """This share of those that have a score, rounded down, but at least one."""

    def __post_init__(self) -> None:
        if len(self._given()) > 1:
            raise RecipeError(f"give one of {' and '.join(self._given())}, not both: each says how many are kept")

    def _given(self) -> list[str]:
        asked = {"--keep": self.keep, "--min-score": self.min_score, "--top": self.top_percent}
        return [f"{name} {value:g}" for name, value in asked.items() if value is not None]

    @property
    def words(self) -> str:
        """The option that says it; empty for none."""
        return "".join(self._given())

    def count(self, ranked: Sequence[Scored]) -> int:
        """Return how many of these, best first, are kept."""
        if self.keep is not None:
            return min(self.keep, len(ranked))
        if self.min_score is not None:
            return sum(one.score >= self.min_score for one in ranked)
        if self.top_percent is not None:
            share = Fraction(str(self.top_percent)) / 100  # as it was typed: 0.29 * 100 is less than 29
            return min(max(int(len(ranked) * share), 1), len(ranked))
        return len(ranked)


def rank(scored: Iterable[Scored]) -> list[Scored]:
    """Return images best first; those of one score by path."""
    return sorted(scored, key=lambda one: (-one.score, one.path))
