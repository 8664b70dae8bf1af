"""The log of times and memory of a run directory; no part of any result."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from celebahq_builder import parallel
from celebahq_builder.storage import read_text


class TimingLog:
    """Writes the log; an error in writing it is ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.largest_worker_bytes = 0

    def add(self, **line: int | Mapping[str, float]) -> None:
        """Append a line."""
        with contextlib.suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def add_worker(self, peak_bytes: int) -> None:
        """Take note of the peak memory of a worker."""
        self.largest_worker_bytes = max(self.largest_worker_bytes, peak_bytes)

    def add_memory(self) -> None:
        """Append the peak memory of this process and of the largest worker, which is this process for one worker."""
        peak = {"main": parallel.peak_memory_bytes(), "largest worker": self.largest_worker_bytes}
        self.add(peak_memory_bytes=peak, seconds={})


@dataclass
class StageTime:
    """Time of a stage, over all workers and all runs in the directory."""

    seconds: float = 0.0
    photos: int = 0

    @property
    def photos_per_s(self) -> float | None:
        """Photos per second of one worker; None if no time was measured."""
        return self.photos / self.seconds if self.seconds > 0 else None


@dataclass
class TimingTotals:
    """Sums of `timings.jsonl`."""

    stages: dict[str, StageTime] = field(default_factory=dict)
    peak_memory_bytes: dict[str, int] = field(default_factory=dict)
    """Largest resident memory by process."""


def read_timings(path: Path) -> TimingTotals:
    """Return the times of a run's stages; empty without a log. Lines that a kill cut short are skipped."""
    found = TimingTotals()
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            values = json.loads(line)
            for name, seconds in values["seconds"].items():
                stage = found.stages.setdefault(name, StageTime())
                stage.seconds += seconds
                stage.photos += values["photos"]
            for process, peak in values.get("peak_memory_bytes", {}).items():
                found.peak_memory_bytes[process] = max(peak, found.peak_memory_bytes.get(process, 0))
    return found
