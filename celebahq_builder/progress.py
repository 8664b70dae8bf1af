"""How far a run is: a bar on a terminal, a line every 30 s elsewhere."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

log = logging.getLogger(__name__)

LINE_EVERY_S = 30.0

MOMENT_S = 2.0
"""What takes no longer than this needs no progress."""


class Progress:
    """Counts photos of one pass; shows rate, time left and how many were rejected.

    Args:
        what: name of the pass.
        total: photos in all.
        done: of an earlier command.
        unit: what is counted, if not photos.
        judged: whether one may be rejected or fail; else there is no word of that.
        silent_s: a pass that ends sooner is not mentioned.
    """

    def __init__(
        self, what: str, total: int, done: int = 0, unit: str = "photo", judged: bool = True, silent_s: float = 0.0
    ) -> None:
        self.unit, self.judged, self.silent_s = unit, judged, silent_s
        self.what, self.total, self.done = what, total, done
        self.first, self.began = done, time.monotonic()
        self.said = self.began
        self.rejected = self.failed = 0
        terminal = sys.stderr.isatty()
        self.bar = (
            tqdm(total=total, initial=done, desc=what, unit=unit, dynamic_ncols=True, delay=silent_s)
            if terminal
            else None
        )

    def advance(self, photos: int, rejected: int = 0, failed: int = 0) -> None:
        """Count some more photos."""
        self.done += photos
        self.rejected += rejected
        self.failed += failed
        if self.bar is not None:
            if self.judged:
                self.bar.set_postfix(rejected=self.rejected, failed=self.failed, refresh=False)
            self.bar.update(photos)
        elif time.monotonic() - self.said >= LINE_EVERY_S:
            self.said = time.monotonic()
            log.info("%s", self.line())

    def go_on(self, photos: int) -> None:
        """Count photos that an earlier command had done; they are none of this one's rate."""
        self.first = self.done = self.done + photos
        self.began = time.monotonic()
        if self.bar is not None:
            self.bar.initial += photos
            self.bar.update(photos)

    def line(self) -> str:
        """Return the state of the pass in one line."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        rate = (self.done - self.first) / seconds
        left = f"{(self.total - self.done) / rate / 60:.0f} min left" if rate > 0 else "time left unknown"
        ended = f", {self.rejected} rejected, {self.failed} failed" if self.judged else ""
        return f"{self.what}: {self.done} of {self.total} {self.unit}s, {rate:.2f} {self.unit}s/s, {left}{ended}"

    def close(self) -> None:
        """End the pass."""
        if self.bar is not None:
            self.bar.close()
        elif time.monotonic() - self.began >= self.silent_s:
            log.info("%s", self.line())
