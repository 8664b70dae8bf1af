"""Figures beside their thresholds, as every benchmark prints them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One measured figure."""

    what: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def missed(self) -> bool:
        """True if the figure is on the wrong side of its threshold."""
        low = self.at_least is not None and not self.value >= self.at_least
        high = self.at_most is not None and not self.value <= self.at_most
        return low or high

    @property
    def goal(self) -> str:
        """The threshold, or nothing."""
        goal = f">= {self.at_least:g}" if self.at_least is not None else ""
        return f"<= {self.at_most:g}" if self.at_most is not None else goal

    @property
    def verdict(self) -> str:
        """``met``, ``MISSED``, or nothing without a threshold."""
        return "MISSED" if self.missed else "met" if self.goal else ""

    def __str__(self) -> str:
        """Return the figure, its threshold and whether it is met, in one line."""
        return f"{self.what:60} {self.value:10.3f} {self.unit:10} {self.goal:10} {self.verdict}".rstrip()

    def mapping(self) -> dict[str, str | float]:
        """Return the row as JSON holds it."""
        value = round(self.value, 4)
        return {"what": self.what, "value": value, "unit": self.unit, "goal": self.goal, "verdict": self.verdict}


def finish(rows: list[Row]) -> None:
    """Print all rows and exit: 1 if a threshold is missed."""
    for row in rows:
        print(row)
    sys.exit(any(row.missed for row in rows))


def shared_data() -> Path:
    """Return the folder of real test data (CELEBAHQ_SHARED, default ../shared); exit where it is absent."""
    data = Path(os.environ.get("CELEBAHQ_SHARED", "../shared")) / "data"
    if not data.is_dir():
        sys.exit(f"the benchmark needs real test data at {data}; set CELEBAHQ_SHARED")
    return data
