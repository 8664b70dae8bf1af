"""What a training tells of itself: ``stats.jsonl``, one line a tick, and TensorBoard's events."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import Any, Self

from tensorboardX import SummaryWriter

from celebahq_builder.storage import as_storage_error, write_atomic

log = logging.getLogger(__name__)


class Stats:
    """Writes a line and a set of scalars for each tick.

    Lines beyond the checkpoint, left by a run that was killed between the two, are dropped: they will be written again.

    Args:
        folder: of the run.
        images: shown so far.
    """

    def __init__(self, folder: Path, images: int) -> None:
        self.path = folder / "stats.jsonl"
        kept = [line for line in read_lines(self.path) if line["images"] <= images]
        if self.path.exists():
            write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        board = folder / "tensorboard"
        again = board.is_dir() and any(board.iterdir())
        from_step = (kept[-1]["images"] if kept else 1) if again else None
        self.board = SummaryWriter(str(board), purge_step=from_step)
        if again and kept:  # it writes in a thread of its own: a kill may have come before the last tick was there
            self._add(kept[-1])

    def write(self, line: dict[str, Any], total_kimg: float) -> None:
        """Record a tick: its figures by name, ``images`` among them.

        Raises:
            DiskFull: no space left.
            WorkspaceError: the file system failed.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            self._add(line)
            self.board.flush()
        except OSError as error:
            raise as_storage_error(error, self.path) from error
        side = line["resolution"]
        log.info(
            "tick %d: %.1f of %g kimg, %dx%d, alpha %.2f, %.1f images/s, scores %.2f and %.2f, gradient %.2f",
            *(line["tick"], line["kimg"], total_kimg, side, side, line["alpha"], line["images_per_s"]),
            *(line["score_real"], line["score_fake"], line["gradient_norm"]),
        )

    def _add(self, line: dict[str, Any]) -> None:
        for name, value in line.items():
            if isinstance(value, (int, float)) and name != "images":
                self.board.add_scalar(name, value, line["images"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # it was told where it was met; the lines of stats.jsonl hold all of it
            self.board.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's statistics; a torn last one is passed over."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines
