"""Logs of a restoration training: JSON lines, TensorBoard, sample images."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from tensorboardX import SummaryWriter

from celebahq_builder.restoration.photos import Pixels
from celebahq_builder.storage import write_atomic

log = logging.getLogger(__name__)

GAP_PX = 4


class TrainingLog:
    """Writes one line, one set of scalars and one image for each validation of a run.

    Lines of steps beyond the checkpoint, left by a run that was killed between the two, are dropped: they will be
    written again.
    """

    def __init__(self, folder: Path, step: int, steps: int) -> None:
        self.log_path = folder / "log.jsonl"
        self.samples = folder / "samples"
        self.steps = steps
        self._trim(step)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, line: dict[str, float], rows: Sequence[Sequence[Pixels]]) -> None:
        """Record a validation.

        Args:
            line: ``step`` and every figure of it, by name.
            rows: sample images, uint8 [H, W, 3] of one size; each row shows one photo.
        """
        step = int(line["step"])
        log.info("step %d of %d: %s", step, self.steps, json.dumps(line))
        with self.log_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if name != "step":
                self.board.add_scalar(name, value, step)
        if rows:
            image = grid(rows)
            self.board.add_image("samples", image, step, dataformats="HWC")
            _, coded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            self.samples.mkdir(exist_ok=True)
            write_atomic(self.samples / f"{step:07d}.png", coded.tobytes())
        self.board.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.board.close()

    def _trim(self, step: int) -> None:
        lines = self.log_path.read_text(encoding="utf-8").splitlines() if self.log_path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        if kept != lines:
            write_atomic(self.log_path, "".join(f"{line}\n" for line in kept).encode())


def grid(rows: Sequence[Sequence[Pixels]]) -> Pixels:
    """Return images of one size in rows and columns, with white between them."""
    height, width = rows[0][0].shape[:2]
    across, down = max(map(len, rows)), len(rows)
    page = np.full((down * (height + GAP_PX) - GAP_PX, across * (width + GAP_PX) - GAP_PX, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + GAP_PX), j * (width + GAP_PX)
            page[top : top + height, left : left + width] = image
    return page
