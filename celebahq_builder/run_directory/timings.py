"""The log of times and memory of a run; no part of any result."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celebahq_builder.storage import open_log, parse_json, read_text


class TimingLog:
    """Writes the log; an error in writing it is ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.largest_worker_bytes = 0

    def add(self, **line: int | Mapping[str, float]) -> None:
        """Append a line, with the time."""
        with contextlib.suppress(OSError), open_log(self.path) as file:
            file.write(json.dumps({"unix_s": round(time.time(), 1), **line}).encode() + b"\n")

    def add_worker(self, peak_bytes: int) -> None:
        """Take note of the peak memory of a worker."""
        self.largest_worker_bytes = max(self.largest_worker_bytes, peak_bytes)

    def add_memory(self, peak_bytes: int) -> None:
        """Append the peak memory of this process and of the largest worker, which is this process for one worker."""
        self.add(peak_memory_bytes={"main": peak_bytes, "largest worker": self.largest_worker_bytes}, seconds={})


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
    """Sums of `timings.jsonl`, of the run and of its shards."""

    stages: dict[str, StageTime] = field(default_factory=dict)
    peak_memory_bytes: dict[str, int] = field(default_factory=dict)
    """Largest resident memory by process."""
    batches: list[tuple[float, int]] = field(default_factory=list)
    """Time, in s since 1970, and number of photos of each batch at its end; 0 photos where a run begins."""


def read_timings(*paths: Path) -> TimingTotals:
    """Return the times in logs of a run; empty without a log. Lines that a kill cut short are skipped."""
    totals = TimingTotals()
    lines: list[str] = []
    for path in paths:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            lines += read_text(path).splitlines()
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OverflowError):
            values: Any = parse_json(line)
            for name, seconds in values["seconds"].items():
                stage = totals.stages.setdefault(name, StageTime())
                stage.seconds += float(seconds)
                stage.photos += values["photos"]
            for process, peak in values.get("peak_memory_bytes", {}).items():
                totals.peak_memory_bytes[process] = max(peak, totals.peak_memory_bytes.get(process, 0))
            if "batch" in values or "batches" in values:
                totals.batches.append((float(values["unix_s"]), int(values.get("photos", 0))))
    totals.batches.sort(key=lambda one: one[0])
    return totals
