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
        """Whether the figure is on the wrong side of its threshold."""
        low = self.at_least is not None and not self.value >= self.at_least
        high = self.at_most is not None and not self.value <= self.at_most
        return low or high

    def __str__(self) -> str:
        """Return the figure, its threshold and whether it is met, in one line."""
        goal = f">= {self.at_least:g}" if self.at_least is not None else ""
        goal = f"<= {self.at_most:g}" if self.at_most is not None else goal
        verdict = "MISSED" if self.missed else "met" if goal else ""
        return f"{self.what:46} {self.value:10.3f} {self.unit:10} {goal:10} {verdict}".rstrip()


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
