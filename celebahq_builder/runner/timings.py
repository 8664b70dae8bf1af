"""How long the parts of a run took, and what memory they needed: ``timings.jsonl``, for the report."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from celebahq_builder import parallel


class Timings:
    """Appends to the file; no part of any result, so a full disk is left to speak up elsewhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.largest_worker_bytes = 0

    def note(self, **line: Any) -> None:
        """Append a line."""
        with contextlib.suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def note_worker(self, peak_bytes: int) -> None:
        """Remember the peak memory of a worker, if none had a larger one."""
        self.largest_worker_bytes = max(self.largest_worker_bytes, peak_bytes)

    def note_memory(self) -> None:
        """Append the peak memory of this process and of the largest worker; they are one where there is one worker."""
        peak = {"main": parallel.peak_memory_bytes(), "largest worker": self.largest_worker_bytes}
        self.note(peak_memory_bytes=peak, seconds={})
